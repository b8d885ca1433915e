"""The file of a history while it is in use: opened, migrated, mended, set aside, missed.

For one thread. What is in it is no matter here.
"""

import contextlib
import fcntl
import logging
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import IO, TypeVar

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.store.check import check
from kamstrup_mqtt.store.file import (
    APPLICATION,
    FILE_ERRORS,
    VERSION,
    check_history,
    companions,
    is_damage,
    lock_name,
    opened_to_read,
    recovered_name,
)
from kamstrup_mqtt.store.migration import MIGRATIONS
from kamstrup_mqtt.store.rollup import rebuild
from kamstrup_mqtt.store.rows import as_text
from kamstrup_mqtt.store.salvage import salvage, version_of
from kamstrup_mqtt.store.write import transaction

_LOOK_S = 1.0  # how often it is looked whether the file is still in its place
_REST_S = 30.0  # between two tries of a migration, which may take minutes each

_log = logging.getLogger(__name__)

T = TypeVar("T")
Use = Callable[[sqlite3.Connection], None]


class Database:
    """The file at `path`.

    Args:
        path: where it is; its folder is made when it is missing.
        opened: is told of a connection that was just made, before anybody uses it.
        missed: is told of one whose file is gone or another one, but that can still be read.

    """

    def __init__(self, path: Path, opened: Use, missed: Use) -> None:
        self.is_ours = False  # whether we have had it open
        self._path = path
        self._opened = opened
        self._missed = missed
        self._connection: sqlite3.Connection | None = None
        self._opening: sqlite3.Connection | None = None  # one that is not ready yet
        self._lock: IO[bytes] | None = None
        self._is_sound = False  # whether the file was checked
        self._place: tuple[int, int] | None = None  # which file it was
        self._disk: int | None = None  # and on which disk
        self._beside: dict[Path, tuple[int, int]] = {}  # what SQLite had beside it
        self._looked_at = 0.0
        self._patience_ms = 0  # of the connection, where it was set
        self._failed_at, self._failure = -_REST_S, ""  # the last migration that failed

    def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`, on a file that is mended, or else set aside, when it is damaged.

        Raises:
            UsageError: another gateway uses it, a newer version made it, or it is no history.
            OSError, sqlite3.Error: the disk does not let us.

        """
        try:
            return work(self._connected())
        except FILE_ERRORS as error:
            if not is_damage(error):
                raise
            self._mend(error)
        try:
            return work(self._connected())
        except FILE_ERRORS as error:
            if not is_damage(error):
                raise
            self._set_aside(str(error))
        return work(self._connected())

    def interrupt(self) -> None:
        """Have what is being done fail; for another thread."""
        for database in (self._connection, self._opening):
            if database is not None:
                with contextlib.suppress(sqlite3.Error):
                    database.interrupt()

    def be_patient(self, milliseconds: int) -> None:
        """Wait so long for another program that has the file."""
        if self._connection is not None and milliseconds != self._patience_ms:
            self._connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
            self._patience_ms = milliseconds

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def look(self) -> None:
        """See whether the file is still in its place. Raises OSError where its disk is gone."""
        if self._connection is None:
            return
        self._looked_at = time.monotonic()
        place = _place_of(self._path)
        if place == self._place:
            return
        self._find_disk()
        _log.error(
            "History %s was %s while the gateway ran: %s. Readouts not delivered yet are kept",
            self._path,
            "replaced" if place else "deleted",
            "the new file is used from now on" if place else "a new one is begun",
        )
        self._missed(self._connection)
        self.close()
        # SQLite leaves them there, and would take them for those of the new file.
        for name, its in self._beside.items():
            if _place_of(name) == its:
                name.unlink()
        self._is_sound = False

    def _find_disk(self) -> None:
        """Make the folder, but begin no file in place of a disk that is away: raises OSError."""
        folder = self._path.parent
        while not folder.exists():
            folder = folder.parent
        is_elsewhere = self._disk is not None and folder.stat().st_dev != self._disk
        if is_elsewhere and not self._path.exists():
            raise OSError("the disk it was on is not mounted")
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and time.monotonic() - self._looked_at > _LOOK_S:
            self.look()
        if self._connection is None:
            self._open()
        assert self._connection is not None  # noqa: S101 - or something was raised
        return self._connection

    def _open(self) -> None:
        if time.monotonic() - self._failed_at < _REST_S:
            raise sqlite3.OperationalError(self._failure)
        check_history(self._path)
        self._find_disk()
        self._claim()
        self._finish_setting_aside()
        database = self._opening = _connect(self._path)
        try:
            version = self._version(database)
            with contextlib.suppress(PermissionError):
                self._path.chmod(0o640)
            database.execute("PRAGMA journal_mode = WAL")
            # A power cut takes nothing that is written.
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA cache_size = -256")
            if not self._is_sound:
                check(database)
                self._is_sound = True
            self._migrate(database, version)
            self._place = _place_of(self._path)
            self._disk = self._path.stat().st_dev
            self._looked_at = time.monotonic()
            self._opened(database)
            self._beside = {
                name: place for name in companions(self._path) if (place := _place_of(name))
            }
        except BaseException:
            database.close()
            self.close()
            raise
        finally:
            self._opening = None
        self._connection, self._patience_ms = database, 0
        self.is_ours = True

    def _version(self, database: sqlite3.Connection) -> int:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise UsageError(
                f"history {self._path} was made by a newer kamstrup-mqtt: update this one, or "
                "restore a backup from before; what was read since would be missing there"
            )
        return int(version)

    def _claim(self) -> None:
        """Make sure that nobody else writes: a lock of a file beside it, held until the end.

        Closing the database itself would drop the locks of SQLite along with ours.
        """
        if self._lock is not None:
            return
        lock = lock_name(self._path).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UsageError(
                f"history {self._path} is in use by another kamstrup-mqtt: stop that one, or set "
                "history.path to another file"
            ) from error
        self._lock = lock

    def _migrate(self, database: sqlite3.Connection, version: int) -> None:
        """Bring the file to this version."""
        if version < 0:
            raise sqlite3.DatabaseError("malformed: a negative version")
        if 0 < version < VERSION:
            _log.info(
                "History %s is brought to version %d, which takes minutes where it is large. An "
                "older kamstrup-mqtt cannot open it then: to go back, restore a backup from "
                "before; what is read from now on would be missing there", self._path, VERSION,
            )  # fmt: skip
        try:
            _bring_up(database, version, VERSION)
        except (TypeError, ValueError, OverflowError) as error:
            raise sqlite3.DatabaseError(f"malformed: {error}") from error
        except (sqlite3.OperationalError, OSError) as error:
            if not is_damage(error):
                self._failed_at, self._failure = time.monotonic(), str(error)
            raise
        if database.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
            database.execute(f"PRAGMA application_id = {APPLICATION}")

    def _mend(self, error: Exception) -> None:
        wrong_index = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_CORRUPT_INDEX
        if wrong_index and self._connection is not None:  # by a wrong byte in a row
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.execute("REINDEX readout")
        else:  # it is checked when it is opened again, and rows that are lost are removed
            self.close()
            self._is_sound = False

    def _set_aside(self, damage: str) -> None:
        """Put a new file with all that can be read of this one in its place.

        Whoever is killed meanwhile finds the damaged one as it was, or the new one complete.
        """
        self.close()
        check_history(self._path)  # somebody may have put another file there
        self._is_sound = False
        try:
            count = self._salvage()
        except (sqlite3.Error, OSError) as error:  # perhaps there is no room for two
            self._failed_at, self._failure = time.monotonic(), str(error)
            raise
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")
        aside = self._path.with_name(f"{self._path.name}.damaged-{stamp}")
        for name in [self._path, *companions(self._path)]:
            with contextlib.suppress(FileNotFoundError):
                name.rename(str(aside) + name.name.removeprefix(self._path.name))
        self._finish_setting_aside()
        _log.error(
            "History %s is damaged (%s). It is set aside as %s, and a new one is begun with the %d "
            "readouts that could be recovered",
            self._path, damage, aside, count,
        )  # fmt: skip

    def _salvage(self) -> int:
        """Make a new file beside this one of what can be read; gives how many readouts that is."""
        beside = recovered_name(self._path)
        for name in [beside, *companions(beside)]:
            name.unlink(missing_ok=True)
        version = version_of(self._path) or VERSION
        with contextlib.closing(_connect(beside)) as database:
            self._opening = database
            try:
                _bring_up(database, 0, version)
                with transaction(database):
                    count = salvage(self._path, database)
                _bring_up(database, version, VERSION)
                with transaction(database):
                    rebuild(database)  # the hours that could not be read
                database.execute(f"PRAGMA application_id = {APPLICATION}")
            finally:
                self._opening = None
        return count

    def _finish_setting_aside(self) -> None:
        """Put a new file that is complete in its place, where there is none any more."""
        beside = recovered_name(self._path)
        if not beside.exists():
            return
        if not self._path.exists():
            with opened_to_read(beside) as database:
                mark = database.execute("PRAGMA application_id").fetchone()  # which is set last
            if mark == (APPLICATION,):
                beside.rename(self._path)
                return
        for name in [beside, *companions(beside)]:
            name.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.text_factory = as_text
    return database


def _bring_up(database: sqlite3.Connection, version: int, to: int) -> None:
    """Bring a file from a version to another; all of a step is done, or nothing of it."""
    for step in range(version + 1, to + 1):
        schema = files(__package__).joinpath(f"schema-{step}.sql").read_text(encoding="utf-8")
        database.executescript(f"BEGIN IMMEDIATE; {schema}")
        if step in MIGRATIONS:
            MIGRATIONS[step](database)
        database.execute(f"PRAGMA user_version = {step}")
        database.execute("COMMIT")


def _place_of(path: Path) -> tuple[int, int] | None:
    """Which file that is; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
