"""The history of readouts on disk: written before any output sees them, and followed by positions.

SQLite in WAL mode with one writer, in a thread of its own. A disk that fails is survived: readouts
wait in memory until it works again, under the numbers that they have on disk then. It knows no
output.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.readout import Lacking, Readout
from kamstrup_mqtt.store import meters, positions
from kamstrup_mqtt.store.board import Board
from kamstrup_mqtt.store.codec import RowError, checked, moment_of
from kamstrup_mqtt.store.database import Database
from kamstrup_mqtt.store.outdoor import note
from kamstrup_mqtt.store.positions import Position
from kamstrup_mqtt.store.prune import Pruning
from kamstrup_mqtt.store.queue import MOST_WAITING, Queue
from kamstrup_mqtt.store.rollup import rebuild
from kamstrup_mqtt.store.rows import Stored, latest, readouts
from kamstrup_mqtt.store.write import is_written, numbers_of, take_in, transaction, write_next

MAX_BYTES = 1 << 30  # what the file may take, where nobody says another bound
_PATIENCE_S = 5.0  # how long a readout waits for a slow disk before outputs see it
_WATCH_S = 20.0
# How long is waited for another program that has the file: at first, and when it has it for long.
_LONG_MS, _SHORT_MS = 5000, 100
_SURELY = 3  # readouts in a row under two names
_END_S = 1.0  # what the end may take on a disk that hangs
_LAST_WRITE_MS = 700  # how long the last write waits for another program that has the file

# What a connection survives, so that it can still be read.
_HARMLESS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT)

_log = logging.getLogger(__name__)

T = TypeVar("T")


class HistoryAwayError(KamstrupError):
    """The disk does not let us read or write the history now."""


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
        self.id: str | None = None  # of the history; a new one has another
        self.live: Board[Stored] = Board()  # the latest of each meter, for who follows it live
        # Called with the name of a meter that was read under another name until now.
        self.on_renamed: Callable[[str], Awaitable[None]] = _do_nothing
        self.changes = 0  # how often another history took the place of ours
        self._path = path
        self._names = names
        self._pruning = Pruning(keep_s, max_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._database = Database(path, self._opened, self._missed)
        self._queue = Queue()
        self._turn = threading.Lock()  # for the queue, which either thread changes
        self._positions: dict[str, Position] = {}  # by output
        self._noted: dict[str, Position] = {}  # as they are in the file
        self._renamed: list[str] = []
        # What was set in this run, by meter and name, and what of it is not on disk.
        self._set: dict[tuple[str, str], str] = {}
        self._unset: dict[tuple[str, str], str] = {}
        self._hanging: asyncio.Future[Any] | None = None  # what a disk that hangs does
        self._writing: asyncio.Task[None] | None = None  # perhaps on a disk that hangs
        self._twins: Counter[tuple[str, str | None]] = Counter()  # names that read another's meter
        self._trouble = ""
        self._is_closing = False

    @property
    def last(self) -> int:
        """The number of the latest readout; 0 before the first."""
        return self._queue.last

    @property
    def complaint(self) -> str:
        """What is wrong with the disk, in words; "" when all is well."""
        if not self._trouble:
            return ""
        return f"history {self._path} cannot be written: {self._trouble}"

    async def open(self) -> None:
        """Open the file, make it if it is missing, set it aside if it is damaged.

        A disk that does not work is only told, and tried again with each readout.

        Raises:
            UsageError: another gateway uses it, a newer version made it, or it is no history.

        """
        await self._tried(lambda _: None)

    async def close(self) -> None:
        """Close the file, soon; what still waits is written if that is possible."""
        self._is_closing = True
        self._database.interrupt()
        ending = asyncio.ensure_future(self._end())
        await asyncio.wait({ending}, timeout=_END_S)
        ending.add_done_callback(_retrieve)
        self._thread.shutdown(wait=False)
        if waiting := len(self._queue.waiting):
            _log.warning("History %s: %d readouts could not be written", self._path, waiting)

    async def _end(self) -> None:
        if self._database.is_ours:
            await self._tried(self._write_last)
        await self._run(self._database.close)

    async def watch(self) -> None:
        """See now and then that the file is in its place, and write what waits, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_S)
            await self._tried(lambda _: self._database.look())
            await self._tried(self._write_waiting)

    async def append(self, meter: str, readout: Readout) -> None:
        """Write a readout of the meter with this configured name, then show it to followers."""
        with self._turn:
            stored = self._queue.add(meter, readout)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        writing = self._writing
        await asyncio.wait({writing}, timeout=_PATIENCE_S)
        self.live.put(meter, stored)
        while self._renamed:
            await self.on_renamed(self._renamed.pop())
        if writing.done():
            writing.result()  # raises UsageError where the file is not ours after all
            await self._soon(lambda database: self._pruning.prune(database, self._path))

    async def _write_all(self) -> None:
        """Write what waits, and what comes meanwhile."""
        while await self._tried(self._write_waiting):
            with self._turn:
                if not self._queue.waiting:
                    return

    async def after(self, sequence: int, most: int) -> list[Stored]:
        """At most `most` readouts behind that number, oldest first.

        One that cannot be read is left out.

        Raises:
            HistoryAwayError: the disk fails, and not all of them are in memory.

        """
        with self._turn:
            waiting = self._queue.behind(sequence, most)
            if self._queue.is_numbering and sequence >= self._queue.written_to:
                return waiting
        return await self._now(lambda database: self._read(database, sequence, most))

    async def latest(self, meter: str, registers: Iterable[int] = ()) -> Stored | None:
        """The last readout of `meter` that was not imported; None before the first.

        With `registers`, the last one in which all of them were asked for.

        Raises:
            HistoryAwayError: the disk fails.

        """
        wanted = tuple(registers)
        return await self._done(
            lambda database: latest(database, meters.ids_of(database, meter), wanted)
        )

    async def position(self, output: str) -> Position:
        """What an output has got. Raises HistoryAwayError where that cannot be known now."""
        if output not in self._positions:
            found = await self._done(lambda database: positions.position(database, output))
            self._positions.setdefault(output, found)
        return self._positions[output]

    async def note(self, output: str, position: Position) -> None:
        """Note for good what an output has got. Raises HistoryAwayError when the disk fails."""
        self._positions[output] = position
        await self._now(
            lambda database: positions.note(database, output, position, self._noted.get(output))
        )
        self._noted[output] = position

    async def setting(self, meter: str, name: str) -> str | None:
        """What was set at run time for the meter that was last read under this configured name.

        None if nothing was. Raises HistoryAwayError where that cannot be known now.
        """
        with self._turn:
            if (meter, name) in self._unset:
                return self._unset[meter, name]
        return await self._done(lambda database: meters.setting(database, meter, name))

    async def set_setting(self, meter: str, name: str, value: str) -> bool:
        """Keep what was set at run time, as soon as the disk takes it; whether it has by now."""
        with self._turn:
            self._set[meter, name] = self._unset[meter, name] = value
        return await self._soon(self._write_waiting)

    async def lacking(self) -> Lacking:
        """What meters left out, and when. Raises HistoryAwayError when the disk fails."""
        return await self._done(meters.lacking)

    async def note_lacking(self, lacking: Lacking) -> bool:
        """Keep what meters left out besides what is kept already; whether the disk took it."""
        return await self._soon(_in_one_go(lambda one: meters.note_lacking(one, lacking)))

    async def note_outdoor(self, value: Decimal, moment: datetime) -> bool:
        """Keep a temperature outside, in °C; whether the disk took it."""
        return await self._soon(_in_one_go(lambda one: note(one, value, moment)))

    async def rebuild(self) -> int:
        """Roll up every hour again; gives how many hours that were. Raises what SQLite does."""
        return await self._run(lambda: self._once(rebuild))

    async def take_in(self, lines: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
        """Add older readouts, which no output is to see; gives how many were new, and were not.

        Raises what `lines` and SQLite do, and UsageError where a name was more than one meter.
        """
        return await self._run(lambda: self._once(lambda one: take_in(one, lines)))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _done(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: self._attempt(work))

    async def _tried(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Do `work`; whether the disk let us."""
        with contextlib.suppress(HistoryAwayError):
            await self._done(work)
            return True
        return False

    async def _now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`, but wait no longer for a disk that hangs than `_PATIENCE_S`."""
        if self._hanging is not None and not self._hanging.done():
            raise HistoryAwayError(self.complaint)
        doing = asyncio.ensure_future(self._done(work))
        await asyncio.wait({doing}, timeout=_PATIENCE_S)
        if doing.done():
            return doing.result()
        self._hanging = doing
        doing.add_done_callback(_retrieve)
        self._tell("it does not answer")
        raise HistoryAwayError(self.complaint)

    async def _soon(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Do `work`, perhaps later where the disk hangs; whether that is done."""
        with contextlib.suppress(HistoryAwayError):
            await self._now(work)
            return True
        return False

    def _tell(self, trouble: str) -> None:
        """Note what is wrong with the disk, and log it if that is news."""
        if trouble != self._trouble and not self._is_closing:
            self._trouble = trouble
            _log.warning(
                "History %s cannot be written: %s. Readouts wait in memory, at most %d of them; "
                "see that its disk is there, has room, and may be written",
                self._path, trouble, MOST_WAITING,
            )  # fmt: skip

    # What follows runs in the thread.

    def _once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`, which is not tried again."""
        return _in_one_go(work)(self._database.do(lambda database: database))

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`; HistoryAwayError when the disk does not let us, which is told once."""
        try:
            result = self._database.do(work)
        except Exception as error:
            if isinstance(error, UsageError) and not self._database.is_ours:
                raise
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_BUSY:
                self._database.be_patient(_SHORT_MS)  # others wait behind this
            if not self._is_closing and code not in _HARMLESS:
                self._database.close()
            trouble = (isinstance(error, OSError) and error.strerror) or str(error)
            self._tell(trouble)
            raise HistoryAwayError(f"history {self._path}: {trouble}") from error
        self._database.be_patient(_LONG_MS)
        with self._turn:
            is_behind = bool(self._queue.waiting or self._unset)
        if self._trouble and not is_behind:
            lost, self._queue.lost = self._queue.lost, 0
            said = f"; {lost} did not fit into memory and are lost" if lost else ""
            _log.info("History %s: written again, with what had waited%s", self._path, said)
            self._trouble = ""
        return result

    def _opened(self, database: sqlite3.Connection) -> None:
        """Go on with the numbers and positions of a file, which may be a new one."""
        before, self.id = self.id, _id_of(database)
        last, numbers = numbers_of(database)
        is_other = before not in (None, self.id)
        # Another history with readouts of its own took the place of ours, or a newer copy of it.
        is_strange = is_other and last > 0
        self._noted.clear()
        for output, position in list(self._positions.items()):
            found = positions.position(database, output)
            if is_strange or found.cursor > position.cursor:
                self._positions[output] = found
                self.changes += 1
            else:
                positions.write(database, output, position)
        with self._turn:
            waiting = [] if is_strange else self._queue.waiting
            written = {one.sequence for one in waiting if is_written(database, one)}
            self._queue.resume(last, numbers, written, is_strange=is_strange)
            if is_other:
                self._unset = self._set | self._unset

    def _missed(self, database: sqlite3.Connection) -> None:
        """Take what no output has got out of a file that is gone from its place."""
        behind = "WHERE sequence > ? ORDER BY sequence"
        noted = self._positions.values()
        cursor = min((one.cursor for one in noted), default=0)
        ahead = frozenset.intersection(*(one.ahead for one in noted)) if noted else frozenset()
        with contextlib.suppress(sqlite3.Error):
            behind_it = readouts(database, behind, cursor, most=MOST_WAITING)
            found = [stored for stored in behind_it if stored.sequence not in ahead]
            with self._turn:
                self._queue.put_back(found)

    def _read(self, database: sqlite3.Connection, sequence: int, most: int) -> list[Stored]:
        """What is behind a number, on disk and then in memory."""
        behind = "WHERE sequence > ? ORDER BY sequence"
        found = list(readouts(database, behind, sequence, most=most))
        with self._turn:
            last = max(self._queue.written_to, found[-1].sequence if found else sequence)
            return found + self._queue.behind(last, most - len(found))

    def _write_waiting(self, database: sqlite3.Connection) -> None:
        with self._turn:
            waiting, settings = self._queue.waiting, self._unset.copy()
        if not waiting and not settings:
            return
        with transaction(database):
            renamed = [
                stored.meter for stored in waiting
                if write_next(database, stored, self._names, self._held(stored))
            ]  # fmt: skip
            for (meter, name), value in settings.items():
                meters.set_setting(database, meter, name, value)
        with self._turn:
            if waiting:
                self._queue.written(waiting[-1].sequence)
            self._unset = {
                key: value for key, value in self._unset.items() if settings.get(key) != value
            }
        self._renamed += renamed

    def _write_last(self, database: sqlite3.Connection) -> None:
        database.execute(f"PRAGMA busy_timeout = {_LAST_WRITE_MS}")
        self._write_waiting(database)
        for output, position in self._positions.items():
            positions.note(database, output, position)

    def _held(self, stored: Stored) -> list[str]:
        """Other configured names under which the very same meter was read last."""
        serial = stored.readout.meter.serial
        others = [(name, self.live.latest(name)) for name in self._names if name != stored.meter]
        held = [
            name for name, other in others
            if serial and other is not None and other.readout.meter.serial == serial
        ]  # fmt: skip
        twins = (stored.meter, serial)
        self._twins[twins] += 1 if held else -self._twins[twins]
        if self._twins[twins] == _SURELY:  # and not only for a moment, as when heads are swapped
            _log.warning(
                "%s and %s are the same meter, serial number %s, whose history goes with %s: see "
                "the ports in the configuration", held[0], stored.meter, serial, held[0],
            )  # fmt: skip
        return held


def _in_one_go(work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
    """`work` within a transaction."""

    def whole(database: sqlite3.Connection) -> T:
        with transaction(database):
            return work(database)

    return whole


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Have a failure nobody waits for any more go unsaid."""
    if not future.cancelled():
        future.exception()


async def _do_nothing(_meter: str) -> None:
    """Where nobody wants to know."""


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
