"""Reads the history beside the gateway that writes it: what was used, series for charts, readouts.

Reading only, on a connection of its own, one thread at a time.
"""

import contextlib
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import quote

from kamstrup_mqtt.catalog import GJ
from kamstrup_mqtt.consumption.hours import HourRow, Hours
from kamstrup_mqtt.consumption.periods import By, Consumption, Point, boundaries, consumption
from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.store.codec import (
    RowError,
    checked,
    identity,
    is_layout,
    moment_of,
    numbers,
    taken_of,
    text_in,
)
from kamstrup_mqtt.store.file import APPLICATION, VERSION, check_history
from kamstrup_mqtt.store.meters import ids_of, setting
from kamstrup_mqtt.store.outdoor import colder
from kamstrup_mqtt.store.rollup import GRACE_US, registers_of
from kamstrup_mqtt.store.rows import Stored, as_text, latest, raw_rows, readouts, tell

_VERSION = 4  # of the file, from which on it can be read

# Not only something was set for it.
_READ = (
    "(EXISTS (SELECT 1 FROM readout WHERE meter = meter.id AND misdated IN (0, 1, 2)) "
    "OR EXISTS (SELECT 1 FROM hour WHERE meter = meter.id))"
)

Step = Literal["raw"] | By


class Sample(NamedTuple):
    """A register at a time, or over an hour or day: mean, lowest and highest value."""

    time: datetime
    value: Decimal
    low: Decimal
    high: Decimal


class Archive:
    """The history in the file at `path`; use it with `with`.

    Raises:
        UsageError: there is no such file, or it is none of this version.

    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"there is no history {path} yet: it begins with the first readout")
        uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        try:
            self._database = sqlite3.connect(
                uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
            )
            self._database.text_factory = as_text
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            (application,) = self._database.execute("PRAGMA application_id").fetchone()
        except sqlite3.Error as error:
            _check_ours(path)
            raise UsageError(f"history {path} cannot be read: {error}") from error
        if application != APPLICATION:
            _check_ours(path)
        if version < _VERSION:
            raise UsageError(f"history {path} is of an older version: start the gateway once")
        if version > VERSION:
            raise UsageError(f"history {path} was made by a newer kamstrup-mqtt: update this one")
        self._hours = Hours(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):
            raise KamstrupError(
                f"the history cannot be read: {error}; the gateway looks after it when it starts"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def meters(self) -> dict[str, list[MeterIdentity]]:
        """Who was read under each configured name, the latest last."""
        found: dict[str, list[MeterIdentity]] = {}
        for _, name, who in self._meters(f"WHERE {_READ} ORDER BY name, latest, id"):
            found.setdefault(name, []).append(who)
        return found

    def setting(self, meter: str, name: str) -> str | None:
        """What was set at run time for the meter that was last read under this name."""
        return setting(self._database, meter, name)

    def span(self, meter: str) -> tuple[datetime, datetime] | None:
        """When the first and the last readout of `meter` were taken; None without any.

        Without those whose time is wrong.
        """
        moments: list[int] = []
        for one in ids_of(self._database, meter):
            for which in ("min", "max"):
                moments += self._database.execute(
                    f"SELECT {which}(taken) FROM readout "  # noqa: S608 - our own words
                    "WHERE meter = ? AND misdated = 0",
                    (one,),
                ).fetchone()
            for register in registers_of(self._database, one):  # also of what is removed by now
                moments += self._database.execute(
                    "SELECT first_taken FROM hour WHERE meter = ? AND register = ? "
                    "ORDER BY hour LIMIT 1",
                    (one, register),
                ).fetchone()
        known = [moment for moment in moments if _is_moment(moment)]
        return (moment_of(min(known)), moment_of(max(known))) if known else None

    def latest(self, meter: str) -> Readout | None:
        """The last readout of `meter`, by order; by time where all of them are imported."""
        return self._latest(ids_of(self._database, meter))

    def latest_of_each(self) -> list[tuple[str, Readout]]:
        """The last readout of each meter that was ever read, with its name."""
        meters = list(self._meters(f"WHERE {_READ} ORDER BY name, latest, id"))
        named = {name for _, name, who in meters if who.serial}
        found = [
            (name, self._latest([one]))
            for one, name, who in meters
            if who.serial or name not in named
        ]
        return [(name, readout) for name, readout in found if readout is not None]

    def readouts(self, meter: str | None, begin: datetime, end: datetime) -> Iterator[Stored]:
        """The readouts from `begin` to before `end`, of one meter or of all, oldest first.

        Those whose time is wrong stand where they were taken.
        """
        where = f"WHERE taken >= ? AND taken < ? AND {self._whose(meter)} AND misdated "
        span = (taken_of(begin), taken_of(end))
        right = readouts(self._database, f"{where} = 0 ORDER BY taken, sequence", *span)
        wrong: Iterator[Stored] = iter(())
        if self.has_misdated(meter, begin, end):
            wrong = readouts(self._database, f"{where} <> 0 ORDER BY sequence", *span)
        return _merged(right, wrong)

    def has_misdated(self, meter: str | None, begin: datetime, end: datetime) -> bool:
        """Whether the time of a readout from `begin` to before `end` is known to be wrong."""
        row = self._database.execute(
            "SELECT 1 FROM meter CROSS JOIN readout "  # noqa: S608 - our own words
            "ON meter.id = readout.meter WHERE misdated IN (1, 2) AND taken >= ? AND taken < ? "
            f"AND {self._whose(meter)} LIMIT 1",
            (taken_of(begin), taken_of(end)),
        ).fetchone()
        return row is not None

    def columns(self, meter: str | None, begin: datetime, end: datetime) -> list[str]:
        """The layouts, as JSON, of the readouts from `begin` to before `end`."""
        rows = self._database.execute(
            "SELECT DISTINCT columns FROM readout JOIN meter "  # noqa: S608 - our own words
            "ON meter.id = readout.meter "
            "JOIN layout ON layout.id = readout.layout "
            f"WHERE taken >= ? AND taken < ? AND {self._whose(meter)} ORDER BY layout.id",
            (taken_of(begin), taken_of(end)),
        )
        return [columns for (columns,) in rows if is_layout(columns)]

    def used(
        self, meter: str, register: int, begin: datetime, end: datetime, by: By,
        *, spread: bool = False,
    ) -> tuple[str, Consumption]:  # fmt: skip
        """What a counter counted, in its latest unit; meters that followed one another add up.

        Args:
            meter: the configured name.
            register: a counter.
            begin: a moment in the zone whose days and months are meant.
            end: a moment after it.
            by: the kind of period.
            spread: divide what was counted in a gap evenly over its time.

        """
        marks = boundaries(begin, end, by)
        found = [
            points for ids in self._sources(meter)
            if (points := self._hours.points(ids, register, marks, by))
        ]  # fmt: skip
        unit = max((points[-1] for points in found), default=(Point(0, Decimal(0)), ""))[1]
        total = consumption([], marks, by)
        for points in found:
            own = consumption(_in_unit(points, unit), marks, by, spread=spread)
            total.gaps += own.gaps
            for period, part in zip(total.periods, own.periods, strict=True):
                period.complete |= part.complete
                if part.used is not None:
                    period.add(part.used)
        return unit, total

    def series(
        self, meter: str, register: int, begin: datetime, end: datetime, step: Step
    ) -> tuple[str, list[Sample]]:
        """A register against time, from `begin` to before `end`, in its latest unit."""
        zone = begin.tzinfo
        ids = ids_of(self._database, meter)
        if step == "raw":
            found = sorted(
                told for one in ids for told in self._raw(one, register, begin, end)
            )  # fmt: skip
            unit = found[-1][1] if found else ""
            return unit, [
                Sample(moment_of(taken).astimezone(zone), value, value, value)
                for taken, its, value in found
                if its == unit
            ]
        marks = boundaries(begin, end, step)
        edges = [taken_of(mark) + GRACE_US for mark in marks]
        rows = [row for one in ids for row in self._hours.divided(one, register, edges)]
        rows.sort(key=itemgetter(0))
        unit = rows[-1].unit if rows else ""
        parts_of: dict[int, list[HourRow]] = {}
        for row in rows:
            if row.unit == unit:
                parts_of.setdefault(bisect_right(edges, row.first_taken) - 1, []).append(row)
        return unit, [
            _sample(marks[index], hours)
            for index, hours in parts_of.items()
            if 0 <= index < len(marks) - 1
        ]

    def degree_days(self, begin: datetime, end: datetime, by: By) -> list[Decimal | None]:
        """How much colder than 18 °C the days of each period were outside, added up.

        None for a period with a day of which less than half the hours are known, and for hours.
        """
        marks = boundaries(begin, end, by)
        if by == "hour":
            return [None] * (len(marks) - 1)
        found: list[Decimal | None] = []
        for first, last in pairwise(marks):
            days = [
                colder(self._database, *day) for day in pairwise(boundaries(first, last, "day"))
            ]
            known = [day for day in days if day is not None]
            found.append(sum(known, Decimal(0)) if len(known) == len(days) else None)
        return found

    def _meters(self, rest: str, *arguments: object) -> Iterator[tuple[int, str, MeterIdentity]]:
        """Who was read: id, configured name, and what it said of itself."""
        query = f"SELECT id, name, identity FROM meter {rest}"  # noqa: S608 - our own words
        for one, name, text in self._database.execute(query, arguments).fetchall():
            try:
                yield one, text_in(name), identity(text)
            except RowError as error:
                tell(self._database, f"meter {one}", error)

    def _latest(self, ids: list[int]) -> Readout | None:
        live = latest(self._database, ids)
        if live is not None:
            return live.readout
        by_time = "WHERE readout.meter = ? AND misdated = 0 ORDER BY taken DESC"
        found = [
            stored.readout
            for one in ids
            for stored in readouts(self._database, by_time, one, most=1)
        ]
        return max(found, key=lambda readout: readout.time, default=None)

    def _whose(self, meter: str | None) -> str:
        """The condition for readouts of one meter, by its name or serial number, or of all."""
        if meter is None:
            return "1"
        ids = ", ".join(map(str, ids_of(self._database, meter)))
        return f"+readout.meter IN ({ids})"

    def _sources(self, meter: str) -> list[tuple[int, ...]]:
        """The ids of each meter, by its serial number, that was read under this name."""
        ids = ids_of(self._database, meter)
        known = {one for one, _, who in self._meters("") if who.serial}
        # What did not say whose it is, is nobody's; the next totals of the others have it anyway.
        named: list[tuple[int, ...]] = [(one,) for one in ids if one in known]
        return named or ([tuple(ids)] if ids else [])

    def _raw(
        self, meter: int, register: int, begin: datetime, end: datetime
    ) -> Iterator[tuple[int, str, Decimal]]:
        """Each reading of a register: time, unit and value."""
        for sequence, columns, taken, _, digits in raw_rows(
            self._database, meter, taken_of(begin), taken_of(end)
        ):
            try:
                found = numbers(columns, digits, register)
            except RowError as error:
                tell(self._database, f"readout {sequence}", error)
                continue
            for _, unit, value in found:
                yield taken, unit, value


def _check_ours(path: Path) -> None:
    """Raise UsageError where that is the file of another program, as far as can be known."""
    with contextlib.suppress(OSError, sqlite3.Error):  # that is told when it is read
        check_history(path)


def _is_moment(taken: int) -> bool:
    with contextlib.suppress(RowError):
        checked(taken)
        return True
    return False


def _merged(right: Iterator[Stored], wrong: Iterator[Stored]) -> Iterator[Stored]:
    """Readouts in order of time, and before each those with a wrong time that were taken before."""
    waiting = next(wrong, None)
    for stored in right:
        while waiting is not None and waiting.sequence < stored.sequence:
            yield waiting
            waiting = next(wrong, None)
        yield stored
    if waiting is not None:
        yield waiting
        yield from wrong


def _in_unit(points: list[tuple[Point, str]], unit: str) -> list[Point]:
    """Readings in `unit`; those whose unit is of another kind are left out."""
    return [
        point if its == unit else Point(point.taken, point.value * GJ[its] / GJ[unit])
        for point, its in points
        if its == unit or (its in GJ and unit in GJ)
    ]


def _sample(at: datetime, hours: list[HourRow]) -> Sample:
    """Hours as one: the mean with one digit more than the meter has."""
    count = sum(hour.readings for hour in hours)
    total = reduce(EXACT.add, (hour.total for hour in hours))
    digit = Decimal(1).scaleb(int(hours[-1].last.as_tuple().exponent) - 1)
    mean = EXACT.quantize(EXACT.divide(total, Decimal(count)), digit)
    return Sample(at, mean, min(hour.low for hour in hours), max(hour.high for hour in hours))
