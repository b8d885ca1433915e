"""Hours of readouts, rolled up: what each numeric register was at its first and last reading.

An hour is rolled up from its readouts when a later one begins, so that little is written, and can
be done again at any time. A reading on the full hour closes the hour that ends there.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from decimal import Decimal

from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.store.codec import numbers

HOUR_US = 3_600_000_000
GRACE_US = 10_000_000  # a reading so soon after the full hour is one of the hour that ended
_AT_ONCE = 48  # hours that are rolled up at a time, so that no readout has to wait long


@dataclass(slots=True)
class Hour:
    """What a register did in one hour: exact numbers, in the unit of the telegram."""

    unit: str
    first: Decimal
    first_taken: int
    last: Decimal
    last_taken: int
    low: Decimal
    high: Decimal
    total: Decimal
    count: int

    def add(self, value: Decimal, taken: int) -> None:
        """Take a later reading in."""
        self.last, self.last_taken = value, taken
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.total = EXACT.add(self.total, value)
        self.count += 1


def hour_of(taken: int) -> int:
    """The hour, since 1970, of a reading at `taken` microseconds since 1970."""
    return (taken - GRACE_US) // HOUR_US


def begin_of(hour: int) -> int:
    """The first microsecond whose readings are of `hour`."""
    return hour * HOUR_US + GRACE_US


def summed(
    rows: Iterable[tuple[str, int, str]], only: int | None = None
) -> dict[tuple[int, int], Hour]:
    """What registers did, by hour and register.

    Args:
        rows: columns, time and digits of readouts, oldest first.
        only: the register that is wanted, or None for all.

    """
    hours: dict[tuple[int, int], Hour] = {}
    for columns, taken, digits in rows:
        number = hour_of(taken)
        for register, unit, value in numbers(columns, digits, only):
            hour = hours.get((number, register))
            if hour is not None and hour.unit == unit:
                hour.add(value, taken)
            else:  # the first, or a meter that was set to another unit
                hours[number, register] = Hour(
                    unit, value, taken, value, taken, value, value, value, 1
                )
    return hours


def raw_rows(
    database: sqlite3.Connection, meter: int, begin: int, end: int
) -> Iterable[tuple[str, int, str]]:
    """Columns, time and digits of the readouts from `begin` to before `end`, oldest first."""
    return database.execute(
        "SELECT columns, taken, digits FROM readout JOIN layout ON layout.id = readout.layout "
        "WHERE meter = ? AND taken >= ? AND taken < ? ORDER BY taken",
        (meter, begin, end),
    )


def keep_up(database: sqlite3.Connection, meter: int, taken: int) -> None:
    """After a readout was written: roll up the hours that ended before it, not too many at once."""
    (rolled,) = database.execute("SELECT rolled FROM meter WHERE id = ?", (meter,)).fetchone()
    current = hour_of(taken)
    if rolled is not None and current <= rolled:  # a late one
        _roll_up(database, meter, current)
        return
    for _ in range(_AT_ONCE):
        (oldest,) = database.execute(
            "SELECT min(taken) FROM readout WHERE meter = ? AND taken >= ?",
            (meter, begin_of(rolled + 1) if rolled is not None else -(1 << 62)),
        ).fetchone()
        if oldest is None or hour_of(oldest) >= current:
            break
        rolled = hour_of(oldest)
        _roll_up(database, meter, rolled)
    database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (rolled, meter))


def rebuild(database: sqlite3.Connection) -> int:
    """Roll up again every hour of which readouts are left; gives how many hours that were."""
    count = 0
    for (meter,) in database.execute("SELECT id FROM meter").fetchall():
        (last,) = database.execute(
            "SELECT max(taken) FROM readout WHERE meter = ?", (meter,)
        ).fetchone()  # fmt: skip
        if last is None:
            continue
        rolled: int | None = None
        for (hour,) in database.execute(
            "SELECT DISTINCT (taken - ?) / ? FROM readout WHERE meter = ? AND taken < ?",
            (GRACE_US, HOUR_US, meter, begin_of(hour_of(last))),
        ).fetchall():
            _roll_up(database, meter, hour)
            rolled = max(hour, rolled or hour)
            count += 1
        database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (rolled, meter))
    return count


def _roll_up(database: sqlite3.Connection, meter: int, hour: int) -> None:
    rows = raw_rows(database, meter, begin_of(hour), begin_of(hour + 1))
    database.executemany(
        "INSERT OR REPLACE INTO hour VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (meter, register, number, *map(_plain, astuple(done)))
            for (number, register), done in summed(rows).items()
        ],
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Decimal) else value
