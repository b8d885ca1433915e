"""Hours of readouts, rolled up: what each numeric register was at its first and last reading.

An hour is rolled up from its readouts when a later one begins, so that little is written, and can
be done again at any time. A reading on the full hour closes the hour that ends there.

Hours are UTC hours, which every zone can share. In zones that are half an hour off, such as
India's, local midnight is within one: that hour is kept in two parts, so
that days stay right when the readouts are removed. An hour is known by where it begins, in hours
since 1970, and its part behind midnight likewise: 494018 and 494018.5.
"""

import contextlib
import math
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from decimal import Decimal
from typing import Any

from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.store.codec import RowError, checked, number, numbers, text_in
from kamstrup_mqtt.store.rows import raw_rows, tell

HOUR_US = 3_600_000_000
GRACE_US = 10_000_000  # a reading so soon after the full hour is one of the hour that ended
MOST_HOURS = 1 << 27  # since 1970: beyond every year that has a date
_SECOND_US = 1_000_000
_DAY_US = 24 * HOUR_US
FIELDS = "unit, first, first_taken, last, last_taken, low, high, total, count"  # of an `Hour`
# What reading a row that was changed may come upon.
_WRONG = (ArithmeticError, AttributeError, TypeError, ValueError)
_AT_ONCE = 48  # hours that are rolled up at a time, so that no readout has to wait long


@dataclass(slots=True)
class Hour:
    """What a register did in one hour or part: exact numbers, in the unit of the telegram."""

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


def place_of(moment: int) -> float:
    """Where the hour or part is kept that begins at `moment`, microseconds since 1970."""
    return moment / HOUR_US


def begin_of(hour: int) -> int:
    """The first microsecond whose readings are of `hour`."""
    return hour * HOUR_US + GRACE_US


def summed(
    database: sqlite3.Connection, meter: int, begin: int, end: int, only: int | None = None
) -> dict[tuple[float, int], Hour]:
    """What registers did, by hour or part and register, from `begin` to before `end`.

    Without what cannot be read, and without readouts whose time is wrong.

    Args:
        database: the history.
        meter: the id of a meter.
        begin: microseconds since 1970.
        end: the same.
        only: the register that is wanted, or None for all.

    """
    hours: dict[tuple[float, int], Hour] = {}
    for sequence, columns, taken, utc_offset, digits in raw_rows(database, meter, begin, end):
        try:
            found = numbers(columns, digits, only)
        except RowError as error:
            tell(database, f"readout {sequence}", error)
            continue
        place = _place(taken, utc_offset)
        for register, unit, value in found:
            key = (place, register)
            hour = hours.get(key)
            if hour is not None and hour.unit == unit:
                hour.add(value, taken)
            else:  # the first, or a meter that was set to another unit
                hours[key] = Hour(unit, value, taken, value, taken, value, value, value, 1)
    return hours


def rolled_of(database: sqlite3.Connection, meter: int) -> int | None:
    """The last hour of the meter with this id that is rolled up, or None."""
    (rolled,) = database.execute("SELECT rolled FROM meter WHERE id = ?", (meter,)).fetchone()
    return rolled if isinstance(rolled, int) and abs(rolled) < MOST_HOURS else None


def keep_up(database: sqlite3.Connection, meter: int, taken: int) -> None:
    """After a readout was written: roll up the hours that ended before it, not too many at once."""
    rolled = rolled_of(database, meter)
    current = hour_of(taken)
    if rolled is not None and current <= rolled:  # a late one
        _roll_up(database, meter, current)
        return
    for _ in range(_AT_ONCE):
        (oldest,) = database.execute(
            "SELECT min(taken) FROM readout WHERE meter = ? AND misdated = 0 AND taken >= ?",
            (meter, begin_of(rolled + 1) if rolled is not None else -(1 << 62)),
        ).fetchone()
        if not isinstance(oldest, int) or hour_of(oldest) >= current:
            break
        rolled = hour_of(oldest)
        _roll_up(database, meter, rolled)
    database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (rolled, meter))


def rebuild(database: sqlite3.Connection) -> int:
    """Roll up again every hour of which all readouts are left; gives how many hours that were."""
    count = 0
    for (meter,) in database.execute("SELECT id FROM meter").fetchall():
        (last,) = database.execute(
            "SELECT max(taken) FROM readout WHERE meter = ? AND misdated = 0", (meter,)
        ).fetchone()  # fmt: skip
        if isinstance(last, int):
            hours = roll_up_between(database, meter, None, hour_of(last) - 1, anew=True)
            rolled = max(hours, default=None)
            database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (rolled, meter))
            count += len(hours)
    return count


def roll_up_imported(database: sqlite3.Connection, meter: int, hours: Collection[int]) -> None:
    """Roll up hours into which older readouts came."""
    rolled = rolled_of(database, meter)
    (last,) = database.execute(
        "SELECT max(taken) FROM readout WHERE meter = ?", (meter,)
    ).fetchone()
    done = [hour for hour in hours if hour < hour_of(last) or (rolled and hour <= rolled)]
    for hour in done:
        _roll_up(database, meter, hour)
    if rolled is None and done:
        database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (max(done), meter))


def close_hours(database: sqlite3.Connection, meter: int, taken: int) -> None:
    """Roll up all up to the hour of `taken`, for readouts are going to be removed."""
    rolled, last = rolled_of(database, meter), hour_of(taken)
    if rolled is None or rolled < last:
        roll_up_between(database, meter, rolled, last)
        database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (last, meter))


def forget(database: sqlite3.Connection, meter: int, taken: int) -> None:
    """Undo the hours from that of `taken` on, which are rolled up again as readouts come.

    Hours of which no readouts are left stay.
    """
    first = hour_of(taken)
    hours = database.execute(
        "SELECT DISTINCT (taken - ?) / ? FROM readout "
        "WHERE meter = ? AND misdated IN (0, 1, 2) AND taken >= ?",
        (GRACE_US, HOUR_US, meter, begin_of(first)),
    ).fetchall()
    database.executemany(
        "DELETE FROM hour WHERE meter = ?1 AND register = ?2 AND hour >= ?3 AND hour < ?3 + 1",
        [(meter, one, hour) for one in registers_of(database, meter) for (hour,) in hours],
    )
    rolled = rolled_of(database, meter)
    if rolled is not None and rolled >= first:
        database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (first - 1, meter))


def registers_of(database: sqlite3.Connection, meter: int) -> list[int]:
    """The registers of the meter with this id that are rolled up."""
    rows = database.execute(
        "WITH RECURSIVE found (register) AS (SELECT min(register) FROM hour WHERE meter = ?1 "
        "UNION ALL SELECT (SELECT min(register) FROM hour "
        "WHERE meter = ?1 AND register > found.register) FROM found WHERE register IS NOT NULL) "
        "SELECT register FROM found WHERE register IS NOT NULL",
        (meter,),
    )
    return [register for (register,) in rows]


def join_hours(database: sqlite3.Connection, one: int, other: int) -> None:
    """Add the hours of the meter with the first id to those of the other, and remove them."""
    query = f"SELECT hour, {FIELDS} FROM hour WHERE meter = ? AND register = ?"  # noqa: S608 - ours
    for register in registers_of(database, one):
        for place, *fields in database.execute(query, (one, register)).fetchall():
            with contextlib.suppress(*_WRONG):  # a row that cannot be read has nothing to add
                hour = Hour(*values_in(fields))
                there = _kept(database, other, register, math.floor(place)).get(place)
                if there is not None and there.unit == hour.unit:
                    both = _spanning(there, hour)
                    both.total = EXACT.add(there.total, hour.total)
                    both.count = there.count + hour.count
                    _keep(database, other, register, place, both)
                elif there is None or there.last_taken <= hour.last_taken:
                    _keep(database, other, register, place, hour)
    database.execute("DELETE FROM hour WHERE meter = ?", (one,))


def roll_up_between(
    database: sqlite3.Connection, meter: int, first: int | None, last: int, *, anew: bool = False
) -> list[int]:
    """Roll up the hours behind `first`, or all, up to `last`, of which readouts are there.

    Args:
        database: within a transaction.
        meter: the id of a meter.
        first: an hour, or None.
        last: an hour.
        anew: replace what is kept where nothing says that it was made of more.

    Returns:
        Those hours.

    """
    begin = begin_of(first + 1) if first is not None else -(1 << 62)
    hours = [
        hour
        for (hour,) in database.execute(
            "SELECT DISTINCT (taken - ?) / ? FROM readout "
            "WHERE meter = ? AND misdated = 0 AND taken >= ? AND taken < ?",
            (GRACE_US, HOUR_US, meter, begin, begin_of(last + 1)),
        ).fetchall()
    ]
    for hour in hours:
        _roll_up(database, meter, hour, anew=anew)
    return hours


def _roll_up(database: sqlite3.Connection, meter: int, hour: int, *, anew: bool = False) -> None:
    """Roll up an hour from its readouts; what is kept of more of them is added to, not replaced."""
    found: dict[int, dict[float, Hour]] = {}
    for (place, register), done in summed(
        database, meter, begin_of(hour), begin_of(hour + 1)
    ).items():
        found.setdefault(register, {})[place] = done
    for register, parts in found.items():
        there = _kept(database, meter, register, hour)
        if _covers(parts.values(), there.values(), by_count=not anew):
            database.execute(
                "DELETE FROM hour WHERE meter = ? AND register = ? AND hour >= ? AND hour < ?",
                (meter, register, hour, hour + 1),
            )
            there = {}
        for place, done in parts.items():
            kept = there.get(place)
            is_same = kept is not None and kept.unit == done.unit
            _keep(
                database,
                meter,
                register,
                place,
                _spanning(kept, done) if kept and is_same else done,
            )


def _covers(new: Collection[Hour], old: Collection[Hour], *, by_count: bool) -> bool:
    """Whether the readings of `new` are all that `old` was made of, as far as can be known."""
    return not old or (
        min(hour.first_taken for hour in new) <= min(hour.first_taken for hour in old)
        and max(hour.last_taken for hour in new) >= max(hour.last_taken for hour in old)
        and not (by_count and sum(hour.count for hour in new) < sum(hour.count for hour in old))
    )


def _spanning(old: Hour, new: Hour) -> Hour:
    """Both hours as one, with the mean of the one that has more readings."""
    first, last = (
        min(new, old, key=lambda hour: hour.first_taken),  # the new one where they are the same
        max(new, old, key=lambda hour: hour.last_taken),
    )
    more = max(new, old, key=lambda hour: hour.count)
    return Hour(
        new.unit, first.first, first.first_taken, last.last, last.last_taken,
        min(old.low, new.low), max(old.high, new.high), more.total, more.count,
    )  # fmt: skip


def _kept(database: sqlite3.Connection, meter: int, register: int, hour: int) -> dict[float, Hour]:
    """The parts of an hour that are kept, by their place, without those that cannot be read."""
    query = (
        f"SELECT hour, {FIELDS} FROM hour "  # noqa: S608 - our own words
        "WHERE meter = ? AND register = ? AND hour >= ? AND hour < ?"
    )
    found = {}
    for place, *fields in database.execute(query, (meter, register, hour, hour + 1)):
        with contextlib.suppress(*_WRONG):
            found[place] = Hour(*values_in(fields))
    return found


def values_in(
    fields: Sequence[Any],
) -> tuple[str, Decimal, int, Decimal, int, Decimal, Decimal, Decimal, int]:
    """The values of a row's `FIELDS`. Raises what comes of one that a wrong byte has changed."""
    unit, first, first_taken, last, last_taken, low, high, total, count = fields
    if not isinstance(count, int) or count < 1:
        raise RowError("no hour")
    return (
        text_in(unit), number(first), checked(first_taken), number(last), checked(last_taken),
        number(low), number(high), number(total), count,
    )  # fmt: skip


def _keep(
    database: sqlite3.Connection, meter: int, register: int, place: float, hour: Hour
) -> None:
    database.execute(
        "INSERT OR REPLACE INTO hour VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (meter, register, place, *map(_plain, astuple(hour))),
    )


def _place(taken: int, utc_offset: int) -> float:
    """Where a reading is kept: by its hour, or by local midnight if that came later."""
    at = taken - GRACE_US
    midnight = at - (at + utc_offset * _SECOND_US) % _DAY_US
    return max(hour_of(taken), place_of(midnight))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Decimal) else value
