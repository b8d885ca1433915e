"""Copies what can be read of a damaged history into a new one.

Tables are read in pieces, around what is damaged in them.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kamstrup_mqtt.store.file import FILE_ERRORS
from kamstrup_mqtt.store.rows import as_text

# In the order in which they are needed. A new history has an id of its own.
_TABLES = (
    "layout", "meter", "doubt", "setting", "lacking", "outdoor", "cursor", "ahead", "hour",
    "readout",
)  # fmt: skip
_MOST_FAULTS = 2000  # pieces of a table that cannot be read, before the rest is given up
_FAR = 10_000  # rows behind the first damaged one that are looked for


def version_of(damaged: Path) -> int:
    """The version of a damaged history; 0 when not even that can be read."""
    with contextlib.suppress(*FILE_ERRORS), _opened(damaged) as old:
        (version,) = old.execute("PRAGMA user_version").fetchone()
        return int(version)
    return 0


def salvage(damaged: Path, new: sqlite3.Connection) -> int:
    """Copy all that can be read; gives how many readouts that were.

    Args:
        damaged: the file.
        new: an empty history of the same version, within a transaction.

    """
    with _opened(damaged) as old:
        for table in _TABLES:
            _copy(old, new, table)
    (count,) = new.execute("SELECT count(*) FROM readout").fetchone()
    return int(count)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    still = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{still}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
        database.text_factory = as_text
        yield database


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> None:
    columns = [row[1] for row in new.execute(f"PRAGMA table_info({table})")]
    if not columns:  # of a version that did not have it
        return
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    insert = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - our own
    (made_by,) = new.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    find = _from_both_ends if "WITHOUT ROWID" in made_by else _in_pieces
    for row in find(old, table, names):
        with contextlib.suppress(sqlite3.IntegrityError):
            new.execute(insert, row)


def _from_both_ends(old: sqlite3.Connection, table: str, names: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table before and behind what is damaged."""
    first = names.partition(",")[0]
    for order in ("", f" ORDER BY {first} DESC"):
        with contextlib.suppress(*FILE_ERRORS):
            yield from old.execute(f"SELECT {names} FROM {table}{order}")  # noqa: S608 - our own
            return


def _in_pieces(old: sqlite3.Connection, table: str, names: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table with numbers: from its beginning, its end, and between damaged pages."""
    query = f"SELECT rowid, {names} FROM {table} NOT INDEXED "  # noqa: S608 - our own
    first = last = None
    try:
        for first, *row in old.execute(f"{query} ORDER BY rowid"):  # noqa: B007
            yield tuple(row)
    except FILE_ERRORS:
        begin = first + 1 if first is not None else 1
    else:
        return
    with contextlib.suppress(*FILE_ERRORS):
        for last, *row in old.execute(f"{query} ORDER BY rowid DESC"):  # noqa: B007
            yield tuple(row)
    pieces = [(begin, last - 1 if last is not None else begin + _FAR)]
    query += "WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
    faults = 0
    while pieces and faults < _MOST_FAULTS:
        first, last = pieces.pop()
        begin = first
        try:
            for number, *row in old.execute(query, (first, last)):
                yield tuple(row)
                begin = number + 1
        except FILE_ERRORS:
            faults += 1
            if begin > first:
                pieces.append((begin, last))
            elif first < last:
                middle = (first + last) // 2
                pieces += [(middle + 1, last), (first, middle)]
