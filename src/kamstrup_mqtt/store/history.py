"""The history of readouts on disk: written before any output sees them, and followed by cursors.

SQLite in WAL mode with one writer, in a thread of its own. A disk that fails is survived: readouts
wait in memory until it works again. It knows no output.
"""

import asyncio
import contextlib
import fcntl
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.store.board import Board
from kamstrup_mqtt.store.codec import READOUTS, Row, decode, encode
from kamstrup_mqtt.store.file import APPLICATION, check_history, is_damage
from kamstrup_mqtt.store.rollup import begin_of, hour_of, keep_up, rebuild

VERSION = 3  # of the file; schema-1.sql and so on lead there, one after the other
MOST_BYTES = 1 << 30  # what is undelivered goes only when readouts take more than this
_ROW_BYTES = 60  # of a readout besides its digits: numbers, time, index
_MOST_WAITING = 5000  # readouts in memory while the disk fails
_PRUNE_S = 3600.0
_IMPORT = 1 << 40  # numbers for each import
_PRUNED = 1000  # readouts that are removed at once when there are too many bytes

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """A readout as stored: its place in the order, the configured meter, and itself.

    `sequence` is 0 for a readout that could not be written yet.
    """

    sequence: int
    meter: str
    readout: Readout


class History:
    """The readouts of all meters, in the order they were taken.

    Args:
        path: the file; its folder is made when it is missing.
        keep_s: seconds for which readouts are kept.

    """

    def __init__(self, path: Path, keep_s: float) -> None:
        self.live: Board[Stored] = Board()  # the latest of each meter, for who follows it live
        self._path = path
        self._keep_s = keep_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._database: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._waiting: deque[tuple[str, Row]] = deque(maxlen=_MOST_WAITING)
        self._trouble = ""
        self._prune_at = 0.0
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
        sequence = await self._run(self._try, lambda: self._write(meter, row))
        self.live.put(meter, Stored(sequence or 0, meter, readout))

    async def after(self, sequence: int, most: int) -> list[Stored]:
        """At most `most` readouts behind `sequence`, oldest first; none while the disk fails."""
        return await self._run(self._try, lambda: self._read(sequence, most)) or []

    async def head(self) -> int:
        """The sequence number of the latest readout; 0 before the first."""
        return await self._run(self._try, self._head) or 0

    async def cursor(self, output: str) -> int:
        """How far an output has got; 0 before everything."""
        return await self._run(self._try, lambda: self._cursor(output)) or 0

    async def times(self, meter: str, since: datetime) -> list[float]:
        """The unix times of the readouts of `meter` from `since` on, oldest first."""
        return await self._run(self._try, lambda: self._times(meter, since)) or []

    async def latest(self, meter: str) -> Readout | None:
        """The last readout of `meter` that was not imported; None before the first."""
        return await self._run(self._try, lambda: self._latest(meter))

    async def advance(self, output: str, sequence: int) -> None:
        """Note for good that an output has got as far as `sequence`."""
        await self._run(self._try, lambda: self._advance(output, sequence))

    async def setting(self, meter: str, name: str) -> str | None:
        """What was set at run time for the meter with this configured name; None if nothing."""
        return await self._run(self._try, lambda: self._setting(meter, name))

    async def set_setting(self, meter: str, name: str, value: str) -> None:
        """Keep what was set at run time."""
        await self._run(self._try, lambda: self._set_setting(meter, name, value))

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
            try:
                result = work()
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._set_aside(str(error))
                result = work()
        except (sqlite3.Error, OSError, UsageError) as error:
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
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a power cut takes nothing that is written
        database.execute("PRAGMA cache_size = -256")
        if not self._sound:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(f"malformed: {found}")
            self._sound = True
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise UsageError(f"history {self._path} is of a newer kamstrup-mqtt: update this one")
        for step in range(version + 1, VERSION + 1):
            schema = files(__package__).joinpath(f"schema-{step}.sql").read_text(encoding="utf-8")
            database.executescript(f"BEGIN; {schema} PRAGMA user_version = {step}; COMMIT;")
        if version == 0:
            # After a file that was set aside the numbers go on, for the outputs know them.
            database.execute("INSERT INTO sqlite_sequence VALUES ('readout', ?)", (self._last,))
        if database.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
            database.execute(f"PRAGMA application_id = {APPLICATION}")
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

    def _write(self, meter: str, row: Row) -> int:
        """Write a readout, and what waits before it; give its sequence number."""
        if (meter, row) not in self._waiting:  # for this may be the second try
            self._waiting.append((meter, row))
        return self._write_waiting()

    def _write_waiting(self) -> int:
        database = self._connect()
        if self._waiting:
            with _transaction(database):
                for meter, row in self._waiting:
                    self._last = _insert(database, meter, row)
            self._waiting.clear()
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_S
            self._prune(database)
        return self._last

    def _read(self, sequence: int, most: int) -> list[Stored]:
        rows = self._connect().execute(
            f"{READOUTS} WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, most)
        )
        return [Stored(number, name, decode(Row(*row))) for number, name, *row in rows]

    def _latest(self, meter: str) -> Readout | None:
        row = self._connect().execute(
            f"{READOUTS} WHERE name = ? AND sequence > 0 ORDER BY sequence DESC LIMIT 1",
            (meter,),
        ).fetchone()  # fmt: skip
        return decode(Row(*row[2:])) if row else None

    def _head(self) -> int:
        (head,) = self._connect().execute("SELECT max(sequence) FROM readout").fetchone()
        return head or 0

    def _times(self, meter: str, since: datetime) -> list[float]:
        rows = self._connect().execute(
            "SELECT taken FROM readout JOIN meter ON meter.id = readout.meter "
            "WHERE name = ? AND taken >= ? ORDER BY taken",
            (meter, int(since.timestamp() * 1e6)),
        )
        return [taken / 1e6 for (taken,) in rows]

    def _take_in(self, readouts: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
        database = self._connect()
        added = known = 0
        with _transaction(database):
            (lowest,) = database.execute("SELECT min(sequence) FROM readout").fetchone()
            # Below every cursor, and rising, for that fills the file's pages.
            sequence = (min(0, lowest or 0) // _IMPORT - 1) * _IMPORT
            for meter, readout in readouts:
                row = encode(readout)
                if _is_known(database, meter, row.taken, readout):
                    known += 1
                    continue
                sequence += 1
                added += 1
                _insert(database, meter, row, sequence)
            rebuild(database)
        return added, known

    def _note_outdoor(self, value: Decimal, moment: datetime) -> None:
        database = self._connect()
        hour = int(moment.timestamp()) // 3600
        with _transaction(database):
            total, count = database.execute(
                "SELECT total, count FROM outdoor WHERE hour = ?", (hour,)
            ).fetchone() or ("0", 0)
            database.execute(
                "INSERT OR REPLACE INTO outdoor VALUES (?, ?, ?)",
                (hour, str(Decimal(total) + value), count + 1),
            )

    def _rebuild(self) -> int:
        with _transaction(self._connect()) as database:
            return rebuild(database)

    def _cursor(self, output: str) -> int:
        row = self._connect().execute(
            "SELECT sequence FROM cursor WHERE output = ?", (output,)
        ).fetchone()  # fmt: skip
        return row[0] if row else 0

    def _advance(self, output: str, sequence: int) -> None:
        self._connect().execute(
            "INSERT INTO cursor VALUES (?, ?) ON CONFLICT (output) DO UPDATE "
            "SET sequence = excluded.sequence",
            (output, sequence),
        )

    def _setting(self, meter: str, name: str) -> str | None:
        row = self._connect().execute(
            "SELECT value FROM setting WHERE meter = ? AND name = ?", (meter, name)
        ).fetchone()  # fmt: skip
        return str(row[0]) if row else None

    def _set_setting(self, meter: str, name: str, value: str) -> None:
        self._connect().execute(
            "INSERT OR REPLACE INTO setting VALUES (?, ?, ?)", (meter, name, value)
        )

    def _prune(self, database: sqlite3.Connection) -> None:
        """Remove what is delivered and too old; the undelivered only when there is no room."""
        (delivered,) = database.execute("SELECT min(sequence) FROM cursor").fetchone()
        oldest = begin_of(hour_of(int((time.time() - self._keep_s) * 1e6)))  # whole hours
        database.execute(
            "DELETE FROM readout WHERE sequence <= ? AND taken < ?", (delivered or 0, oldest)
        )
        while _bytes(database) > MOST_BYTES:
            removed = database.execute(
                "DELETE FROM readout WHERE sequence IN "
                "(SELECT sequence FROM readout ORDER BY sequence LIMIT ?)",
                (_PRUNED,),
            ).rowcount
            _log.warning(
                "Readouts in history %s take more than %d MB: the %d oldest are removed",
                self._path,
                MOST_BYTES >> 20,
                removed,
            )
            if removed < _PRUNED:
                break


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _insert(database: sqlite3.Connection, meter: str, row: Row, sequence: int | None = None) -> int:
    """Write a readout under the next number, or another one, and give that."""
    meter_id = _number(database, "meter", "name, identity", meter, row.identity)
    layout_id = _number(database, "layout", "columns", row.columns)
    written = database.execute(
        "INSERT INTO readout VALUES (?, ?, ?, ?, ?, ?)",
        (sequence, meter_id, layout_id, row.taken, row.utc_offset, row.digits),
    ).lastrowid
    if sequence is None:
        keep_up(database, meter_id, row.taken)
    return written or 0


def _is_known(database: sqlite3.Connection, meter: str, taken: int, readout: Readout) -> bool:
    """Whether the values of `readout` are there, in one of that name and moment."""
    rows = database.execute(
        "SELECT identity, columns, taken, utc_offset, digits FROM meter "
        "CROSS JOIN readout ON meter.id = readout.meter AND taken = ? "
        "JOIN layout ON layout.id = readout.layout WHERE name = ?",
        (taken, meter),
    )
    return any(readout.readings.items() <= decode(Row(*row)).readings.items() for row in rows)


def _number(database: sqlite3.Connection, table: str, names: str, *values: str) -> int:
    """The id of the row with these values, which is made if it is missing."""
    marks = ", ".join("?" * len(values))
    where = " AND ".join(f"{name} = ?" for name in names.split(", "))
    query = f"SELECT id FROM {table} WHERE {where}"  # noqa: S608 - our own names only
    found = database.execute(query, values).fetchone()
    if found is None:
        database.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608
            values,
        )
        found = database.execute(query, values).fetchone()
    return int(found[0])


def _bytes(database: sqlite3.Connection) -> int:
    """About how many bytes the readouts take; roll-ups, which stay, do not count."""
    (count,) = database.execute("SELECT count(*) FROM readout").fetchone()
    (digits,) = database.execute(
        "SELECT avg(length(digits)) FROM (SELECT digits FROM readout ORDER BY sequence DESC "
        "LIMIT 100)"
    ).fetchone()
    return int(count * ((digits or 0) + _ROW_BYTES))


def last_taken(path: Path, meter: str) -> datetime | None:
    """When the latest readout of `meter` in the history at `path` was taken, without opening it."""
    with contextlib.suppress(sqlite3.Error):
        uri = f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as database:
            (taken,) = database.execute(
                "SELECT max(taken) FROM readout JOIN meter ON meter.id = readout.meter"
                " WHERE name = ?",
                (meter,),
            ).fetchone()
        return datetime.fromtimestamp(taken / 1e6, UTC) if taken is not None else None
    return None
