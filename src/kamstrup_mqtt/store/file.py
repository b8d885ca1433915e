"""The file of the history: whose it is, before anybody writes to it or sets it aside."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from kamstrup_mqtt.files import beginning, has_content, not_ours

VERSION = 5  # of the file; schema-1.sql and so on lead there, one after the other
APPLICATION = 0x4B4D5031  # in the header of the file; older ones have 0 there
_COMPANIONS = ("-wal", "-shm", "-journal")  # what SQLite keeps beside it

_MAGIC = b"SQLite format 3\0"
_TABLES = {"layout", "meter", "readout"}
_NAME = re.compile(r"(.*\.)?history\.db")  # the names that we give by ourselves
_LOOKED_AT = 1 << 20
# What stands in every history: its schema, in the first page; its layouts, soon after.
_MARKS = re.compile(
    rb'CREATE TABLE readout \(\s*sequence|\[\d{1,5},"[^"\x00]*","[^"\x00]*","[a-z-]{4,9}"\][,\]]'
)


def check_history(path: Path) -> None:
    """Make sure that the history may be at `path`: nothing is there, or one of ours.

    A damaged one of ours is ours still. What is there is only read.

    Raises:
        UsageError: something else is there; it is left as it is.
        OSError, sqlite3.Error: it cannot be known now.

    """
    if not has_content(path):
        return
    try:
        application, version, tables = _contents(path)
    except FILE_ERRORS as error:
        if not is_damage(error):
            raise
        ours = _was_ours(path)
    else:
        # A file of few bytes has no tables either. One of a newer version is told as such.
        new = version == 0 or version > VERSION
        begun = not tables and new and beginning(path).startswith(_MAGIC)
        ours = application == APPLICATION or (application == 0 and (begun or tables >= _TABLES))
    if not ours:
        raise not_ours(path, "history")


def history_names(path: Path) -> list[Path]:
    """All names that a history at `path` takes: its own, and those of what is beside it."""
    return [path, *companions(path), lock_name(path), recovered_name(path)]


def companions(path: Path) -> list[Path]:
    """What SQLite has beside a history."""
    return [_companion(path, suffix) for suffix in _COMPANIONS]


def lock_name(path: Path) -> Path:
    """The file whose lock says that a gateway has the history."""
    return _companion(path, ".lock")


def recovered_name(path: Path) -> Path:
    """Where a new file is made of what can be read of a damaged one."""
    return _companion(path, ".recovered")


# How it says that a table is not as it should be.
_OTHER_LAYOUT = ("malformed", "no such ", "duplicate column name", "database disk image is")
# What SQLite raises over a file; the second one where a wrong byte is in the words of the error.
FILE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)


def is_damage(error: Exception) -> bool:
    """Whether an error tells that the file is none of SQLite, or not in our layout."""
    if isinstance(error, UnicodeDecodeError):
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    words = str(error)
    return damaged or words.startswith(_OTHER_LAYOUT) or words.endswith(" already exists")


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """The file at `path`, from which is only read."""
    # Without a file beside it nobody has it open; then not even a lock is taken.
    still = "" if _companion(path, "-wal").exists() else "&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{still}"
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)
    ) as database:
        yield database


def _contents(path: Path) -> tuple[int, int, set[str]]:
    """The mark of the program, its version, and the names of the tables in a file of SQLite."""
    with opened_to_read(path) as database:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return application, version, {name for (name,) in rows if not name.startswith("sqlite_")}


def _was_ours(path: Path) -> bool:
    """Whether what SQLite cannot read was a history of ours, as far as is left of it."""
    if _NAME.fullmatch(Path(os.path.realpath(path)).name):
        return True
    parts = [path, _companion(path, "-wal")]
    return any(_MARKS.search(beginning(part, _LOOKED_AT)) for part in parts if part.exists())


def _companion(path: Path, suffix: str) -> Path:
    real = Path(os.path.realpath(path))  # SQLite keeps them beside what a link means
    return real.with_name(real.name + suffix)
