"""The history of readouts on disk: written before any output sees them, and followed by cursors.

SQLite in WAL mode with one writer, in a thread of its own. A disk that fails is survived: readouts
wait in memory until it works again. It knows no output.
"""

import asyncio
import contextlib
import fcntl
import logging
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.readout import Lacking, Readout
from kamstrup_mqtt.store import meters
from kamstrup_mqtt.store.board import Board
from kamstrup_mqtt.store.check import check
from kamstrup_mqtt.store.codec import Row, RowError, checked, encode, moment_of
from kamstrup_mqtt.store.file import APPLICATION, FILE_ERRORS, VERSION, check_history, is_damage
from kamstrup_mqtt.store.migration import to_version_4
from kamstrup_mqtt.store.outdoor import note
from kamstrup_mqtt.store.prune import Pruning
from kamstrup_mqtt.store.rollup import rebuild
from kamstrup_mqtt.store.rows import Stored, as_text, latest, readouts
from kamstrup_mqtt.store.write import take_in, transaction, write_next

MAX_BYTES = 1 << 30  # what the file may take, where nobody says another bound
_MOST_WAITING = 5000  # readouts in memory while the disk fails

_log = logging.getLogger(__name__)

T = TypeVar("T")


class History:
    """The readouts of all meters, in the order they were taken.

    Args:
        path: the file; its folder is made when it is missing.
        keep_s: seconds for which readouts are kept.
        max_bytes: what the file may take before the oldest readouts go.
        names: the configured names of all meters, where that is the whole of them.

    """

    def __init__(
        self, path: Path, keep_s: float, max_bytes: int = MAX_BYTES, names: Collection[str] = ()
    ) -> None:
        self.id: str | None = None  # of the history; a new one begins its numbers anew
        self.live: Board[Stored] = Board()  # the latest of each meter, for who follows it live
        # Called with the new name of a meter, when what was set for it at run time has that too.
        self.on_renamed: Callable[[str], Awaitable[None]] = _nobody
        self._path = path
        self._names = names
        self._renamed: list[str] = []
        self._pruning = Pruning(keep_s, max_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._database: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._waiting: deque[tuple[str, Row]] = deque(maxlen=_MOST_WAITING)
        self._trouble = ""
        self._last = 0  # sequence number
        self._sound = False  # whether the file was checked
        self._ours = False  # whether we have had it open

    async def open(self) -> None:
        """Open the file, make it if it is missing, set it aside if it is damaged.

        A disk that does not work is only told, and tried again with each readout.

        Raises:
            UsageError: another gateway uses it, a newer version made it, or it is no history.

        """
        await self._run(self._try, self._connect)

    async def close(self) -> None:
        """Close the file; what still waits is written if that is possible."""
        if self._ours:
            await self._run(self._try, self._write_waiting)
        await self._run(self._disconnect)
        self._thread.shutdown(wait=False)

    async def append(self, meter: str, readout: Readout) -> None:
        """Write a readout of the meter with this configured name, then show it to followers."""
        row = encode(readout)
        found = await self._run(self._try, lambda: self._write(meter, row))
        sequence, number = found or (0, None)
        self.live.put(meter, Stored(sequence, meter, readout, meter_sequence=number))
        while self._renamed:
            await self.on_renamed(self._renamed.pop())
        await self._run(self._try, self._prune)

    async def after(self, sequence: int, most: int) -> list[Stored]:
        """At most `most` readouts behind `sequence`, oldest first; none while the disk fails.

        One that cannot be read is left out.
        """
        return await self._run(self._try, lambda: self._read(sequence, most)) or []

    async def head(self) -> int:
        """The sequence number of the latest readout that can be read; 0 before the first."""
        return await self._run(self._try, self._head) or 0

    async def cursor(self, output: str) -> int:
        """How far an output has got; 0 before everything."""
        return await self._run(self._try, lambda: self._cursor(output)) or 0

    async def latest(self, meter: str, registers: Iterable[int] = ()) -> Readout | None:
        """The last readout of `meter` that was not imported; None before the first.

        With `registers`, the last one in which all of them were asked for.
        """
        return await self._run(self._try, lambda: self._latest(meter, registers))

    async def advance(self, output: str, sequence: int) -> None:
        """Note for good that an output has got as far as `sequence`."""
        await self._run(self._try, lambda: self._advance(output, sequence))

    async def setting(self, meter: str, name: str) -> str | None:
        """What was set at run time for the meter with this configured name; None if nothing."""
        return await self._run(self._try, lambda: meters.setting(self._connect(), meter, name))

    async def set_setting(self, meter: str, name: str, value: str) -> bool:
        """Keep what was set at run time; whether the disk took it."""
        return await self._run(self._try, lambda: self._set_setting(meter, name, value)) or False

    async def lacking(self, name: str) -> Lacking:
        """What the meters that were read under this name left out, and when."""
        return await self._run(self._try, lambda: meters.lacking(self._connect(), name)) or {}

    async def note_lacking(self, lacking: Lacking) -> None:
        """Keep what meters left out, and when, besides what is kept of them already."""
        await self._run(self._try, lambda: self._note_lacking(lacking))

    async def note_outdoor(self, value: Decimal, moment: datetime) -> None:
        """Keep a temperature outside, in °C."""
        await self._run(self._try, lambda: self._note_outdoor(value, moment))

    async def rebuild(self) -> int:
        """Roll up every hour again; gives how many hours that were."""
        return await self._run(self._try, self._rebuild) or 0

    async def take_in(self, readouts: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
        """Add older readouts, which no output is to see; gives how many were new, and were not."""
        return await self._run(self._take_in, readouts)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # What follows runs in the thread.

    def _try(self, work: Callable[[], T]) -> T | None:
        """Do `work`; None when the disk does not let us, which is told once."""
        try:
            result = self._mended(work)
        except Exception as error:
            if isinstance(error, UsageError) and not self._ours:
                raise
            self._disconnect()
            trouble = (isinstance(error, OSError) and error.strerror) or str(error)
            if trouble != self._trouble:
                self._trouble = trouble
                _log.warning(
                    "History %s cannot be written: %s. Readouts wait in memory, at most %d of "
                    "them: make room on the disk, or see who may write there",
                    self._path,
                    trouble,
                    _MOST_WAITING,
                )
            return None
        if self._trouble and not self._waiting:
            self._trouble = ""
            _log.info("History %s: written again, with what had waited", self._path)
        return result

    def _mended(self, work: Callable[[], T]) -> T:
        """Do `work`, on a file that is mended, or else set aside, when it is damaged."""
        try:
            return work()
        except FILE_ERRORS as error:
            if not is_damage(error):
                raise
            if (
                getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_CORRUPT_INDEX
            ):  # by a wrong byte in a row
                self._connect().execute("REINDEX readout")
            else:  # it is checked when it is opened again, and rows that are lost are removed
                self._disconnect()
                self._sound = False
        try:
            return work()
        except FILE_ERRORS as error:
            if not is_damage(error):
                raise
            self._set_aside(str(error))
        return work()

    def _connect(self) -> sqlite3.Connection:
        if self._database is not None:
            return self._database
        check_history(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._path.open("ab")  # held until the end, beside SQLite's own locks
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UsageError(
                f"history {self._path} is in use by another kamstrup-mqtt: stop that one, or set "
                "history.path to another file"
            ) from error
        self._lock = lock
        with contextlib.suppress(PermissionError):
            self._path.chmod(0o640)
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._database = database
        database.text_factory = as_text
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise UsageError(
                f"history {self._path} was made by a newer kamstrup-mqtt: update this one, or "
                "restore a backup from before; what was read since would be missing there"
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a power cut takes nothing that is written
        database.execute("PRAGMA cache_size = -256")
        if not self._sound:
            check(database)
            self._sound = True
        if 0 < version < VERSION:
            _log.info(
                "History %s is brought to version %d: an older kamstrup-mqtt cannot open it then. "
                "To go back, restore a backup from before: what is read from now on would be "
                "missing there", self._path, VERSION,
            )  # fmt: skip
        for step in range(version + 1, VERSION + 1):
            schema = files(__package__).joinpath(f"schema-{step}.sql").read_text(encoding="utf-8")
            database.executescript(f"BEGIN IMMEDIATE; {schema}")
            if step == 4:
                to_version_4(database)
            database.execute(f"PRAGMA user_version = {step}")
            database.execute("COMMIT")
        if version == 0:
            # After a file that was set aside the numbers go on, for the outputs know them.
            database.execute("INSERT INTO sqlite_sequence VALUES ('readout', ?)", (self._last,))
        if database.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
            database.execute(f"PRAGMA application_id = {APPLICATION}")
        self.id = _id_of(database)
        self._ours = True
        return database

    def _disconnect(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _set_aside(self, damage: str) -> None:
        self._disconnect()
        check_history(self._path)  # somebody may have put another file there
        self._sound = False
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        aside = self._path.with_name(f"{self._path.name}.damaged-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).rename(f"{aside}{suffix}")
        _log.error(
            "History %s is damaged (%s). It is set aside as %s, and a new one is begun",
            self._path,
            damage,
            aside,
        )

    def _write(self, meter: str, row: Row) -> tuple[int, int]:
        """Write a readout, and what waits before it; give its numbers."""
        if (meter, row) not in self._waiting:  # for this may be the second try
            self._waiting.append((meter, row))
        return self._write_waiting()

    def _write_waiting(self) -> tuple[int, int]:
        database, number = self._connect(), 0
        if self._waiting:
            with transaction(database):
                for meter, row in self._waiting:
                    self._last, number, is_renamed = write_next(database, meter, row, self._names)
                    if is_renamed:
                        self._renamed.append(meter)
            self._waiting.clear()
        return self._last, number

    def _prune(self) -> None:
        self._pruning.prune(self._connect(), self._path)

    def _read(self, sequence: int, most: int) -> list[Stored]:
        behind = "WHERE sequence > ? ORDER BY sequence"
        return list(readouts(self._connect(), behind, sequence, most=most))

    def _head(self) -> int:
        found = readouts(self._connect(), "ORDER BY sequence DESC", most=1)
        return next((one.sequence for one in found), 0)

    def _latest(self, meter: str, registers: Iterable[int]) -> Readout | None:
        database = self._connect()
        return latest(database, meters.ids_of(database, meter), registers)

    def _take_in(self, lines: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
        with transaction(self._connect()) as database:
            return take_in(database, lines)

    def _note_lacking(self, lacking: Lacking) -> None:
        with transaction(self._connect()) as database:
            meters.note_lacking(database, lacking)

    def _note_outdoor(self, value: Decimal, moment: datetime) -> None:
        with transaction(self._connect()) as database:
            note(database, value, moment)

    def _rebuild(self) -> int:
        with transaction(self._connect()) as database:
            return rebuild(database)

    def _cursor(self, output: str) -> int:
        row = self._connect().execute(
            "SELECT sequence FROM cursor WHERE output = ?", (output,)
        ).fetchone()  # fmt: skip
        return row[0] if row and isinstance(row[0], int) else 0

    def _advance(self, output: str, sequence: int) -> None:
        self._connect().execute(
            "INSERT INTO cursor VALUES (?, ?) ON CONFLICT (output) DO UPDATE "
            "SET sequence = excluded.sequence",
            (output, sequence),
        )

    def _set_setting(self, meter: str, name: str, value: str) -> bool:
        meters.set_setting(self._connect(), meter, name, value)
        return True


async def _nobody(_meter: str) -> None:
    """Nobody wants to know."""


def _id_of(database: sqlite3.Connection) -> str:
    """What the history is called; where a wrong byte took that, it gets a new name."""
    row = database.execute("SELECT id FROM history").fetchone()
    if row is not None and isinstance(row[0], str):
        return row[0]
    database.execute("DELETE FROM history")
    database.execute("INSERT INTO history VALUES (lower(hex(randomblob(8))))")
    return _id_of(database)


def last_taken(path: Path, meter: str) -> datetime | None:
    """When the latest readout of `meter` in the history at `path` was taken, without opening it.

    By order, where not all of them are imported.
    """
    whose = "FROM readout WHERE +meter IN (SELECT id FROM meter WHERE name = ?)"
    with contextlib.suppress(sqlite3.Error, RowError):
        uri = f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as database:
            live = database.execute(
                f"SELECT taken {whose} AND sequence > 0 ORDER BY sequence DESC LIMIT 1", (meter,)
            ).fetchone()
            (taken,) = live or database.execute(f"SELECT max(taken) {whose}", (meter,)).fetchone()
        return moment_of(checked(taken)) if taken is not None else None
    return None
