"""Reads the history beside the gateway that writes it: what was used, series for charts, readouts.

Reading only, on a connection of its own, one thread at a time.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import datetime
from decimal import Decimal
from functools import reduce
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import quote

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.store.codec import (
    READOUTS,
    Row,
    decode,
    identity,
    moment_of,
    number_of,
    taken_of,
)
from kamstrup_mqtt.store.consumption import GJ, By, Consumption, Point, boundaries, consumption
from kamstrup_mqtt.store.rollup import GRACE_US, begin_of, hour_of, raw_rows, summed

_HOURS = (
    "SELECT hour, unit, first, first_taken, last, last_taken, low, high, total, count FROM hour"
)
_HEATING_C = Decimal(18)  # outside, below which houses are heated
_KNOWN_HOURS = 12

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
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise UsageError(f"history {path} cannot be read: {error}") from error
        if version < 2:
            raise UsageError(f"history {path} is of an older version: start the gateway once")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def meters(self) -> dict[str, list[MeterIdentity]]:
        """Who was read under each configured name, the latest last."""
        rows = self._database.execute("SELECT name, identity FROM meter ORDER BY name, id")
        return {
            name: [identity(text) for _, text in group]
            for name, group in groupby(rows.fetchall(), key=lambda row: str(row[0]))
        }

    def span(self, meter: str) -> tuple[datetime, datetime] | None:
        """When the first and the last readout of `meter` were taken; None without any."""
        moments: list[int] = []
        for number in self._ids(meter):
            for query in (
                "SELECT min(taken) FROM readout WHERE meter = ?",
                "SELECT max(taken) FROM readout WHERE meter = ?",
                "SELECT min(first_taken) FROM hour WHERE meter = ?",  # also what is removed by now
            ):
                (moment,) = self._database.execute(query, (number,)).fetchone()
                moments += [moment] if moment is not None else []
        return (moment_of(min(moments)), moment_of(max(moments))) if moments else None

    def latest(self, meter: str) -> Readout | None:
        """The last readout of `meter`."""
        rows = [
            self._database.execute(
                f"{READOUTS} WHERE meter = ? ORDER BY taken DESC LIMIT 1", (number,)
            ).fetchone()
            for number in self._ids(meter)
        ]
        found = [decode(Row(*row[2:])) for row in rows if row]
        return max(found, key=lambda readout: readout.time, default=None)

    def readouts(
        self, meter: str | None, begin: datetime, end: datetime
    ) -> Iterator[tuple[str, Readout]]:
        """The readouts from `begin` to before `end`, of one meter or of all, oldest first."""
        rows = self._database.execute(
            f"{READOUTS} WHERE taken >= ? AND taken < ? AND (?3 IS NULL OR name = ?3) "
            "ORDER BY taken, sequence",
            (taken_of(begin), taken_of(end), meter),
        )
        return ((name, decode(Row(*row))) for _, name, *row in rows)

    def columns(self, meter: str | None, begin: datetime, end: datetime) -> list[str]:
        """The layouts, as JSON, of the readouts from `begin` to before `end`."""
        rows = self._database.execute(
            "SELECT DISTINCT columns FROM readout JOIN meter ON meter.id = readout.meter "
            "JOIN layout ON layout.id = readout.layout "
            "WHERE taken >= ? AND taken < ? AND (?3 IS NULL OR name = ?3) ORDER BY layout.id",
            (taken_of(begin), taken_of(end), meter),
        )
        return [columns for (columns,) in rows]

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
            if (points := self._points(ids, register, marks, by))
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
        ids = self._ids(meter)
        if step == "raw":
            found = sorted(
                (taken, *told)
                for one in ids
                for columns, taken, digits in raw_rows(
                    self._database, one, taken_of(begin), taken_of(end)
                )
                if (told := number_of(columns, digits, register)) is not None
            )
            unit = found[-1][1] if found else ""
            values = ((taken, Decimal(text)) for taken, its, text in found if its == unit)
            return unit, [
                Sample(moment_of(taken).astimezone(zone), value, value, value)
                for taken, value in values
            ]
        marks = boundaries(begin, end, step)
        edges = [hour_of(taken_of(mark) + GRACE_US) for mark in marks]
        rows = [row for one in ids for row in self._hours(one, register, edges[0], edges[-1] - 1)]
        rows.sort(key=itemgetter(0))
        unit = rows[-1].unit if rows else ""
        parts_of: dict[int, list[_Hour]] = {}
        for row in rows:
            if row.unit == unit:
                parts_of.setdefault(bisect_right(edges, row.hour) - 1, []).append(row)
        return unit, [_sample(marks[index], hours) for index, hours in parts_of.items()]

    def degree_days(self, begin: datetime, end: datetime, by: By) -> list[Decimal | None]:
        """How much colder than 18 °C the days of each period were outside, added up.

        None for a period with a day of which less than half the hours are known, and for hours.
        """
        marks = boundaries(begin, end, by)
        if by == "hour":
            return [None] * (len(marks) - 1)
        found: list[Decimal | None] = []
        for first, last in pairwise(marks):
            days = [self._colder(*day) for day in pairwise(boundaries(first, last, "day"))]
            known = [day for day in days if day is not None]
            found.append(sum(known, Decimal(0)) if len(known) == len(days) else None)
        return found

    def _colder(self, day: datetime, next_day: datetime) -> Decimal | None:
        hours = self._database.execute(
            "SELECT total, count FROM outdoor WHERE hour >= ? AND hour < ?",
            (int(day.timestamp()) // 3600, int(next_day.timestamp()) // 3600),
        ).fetchall()
        if len(hours) < _KNOWN_HOURS:
            return None
        means = [Decimal(total) / count for total, count in hours]
        return max(Decimal(0), _HEATING_C - sum(means, Decimal(0)) / len(means))

    def _ids(self, meter: str) -> list[int]:
        rows = self._database.execute("SELECT id FROM meter WHERE name = ? ORDER BY id", (meter,))
        return [number for (number,) in rows]

    def _sources(self, meter: str) -> list[tuple[int, ...]]:
        """The ids of each meter, by its serial number, that was read under this name."""
        rows = self._database.execute(
            "SELECT id, identity FROM meter WHERE name = ? ORDER BY id", (meter,)
        ).fetchall()
        serials = {number: identity(text).serial for number, text in rows}
        known = dict.fromkeys(serial for serial in serials.values() if serial is not None)
        if len(known) <= 1:  # what it did not say of itself now and then
            return [tuple(serials)] if serials else []
        return [
            tuple(number for number, its in serials.items() if its == serial)
            for serial in dict.fromkeys(serials.values())
        ]

    def _hours(self, meter: int, register: int, first: int, last: int) -> Iterator["_Hour"]:
        """Hours of one id, rolled up or not, from `first` to `last`."""
        rows = self._database.execute(
            f"{_HOURS} WHERE meter = ? AND register = ? AND hour BETWEEN ? AND ?",
            (meter, register, first, last),
        )
        yield from map(_Hour._make, rows)
        yield from (one for one in self._tail(meter, register, last) if one.hour >= first)

    def _tail(self, meter: int, register: int, last: int) -> Iterator["_Hour"]:
        """The hours up to `last` that are not rolled up yet."""
        (rolled,) = self._database.execute(
            "SELECT rolled FROM meter WHERE id = ?", (meter,)
        ).fetchone()  # fmt: skip
        begin = begin_of(rolled + 1) if rolled is not None else -(1 << 62)
        raw = raw_rows(self._database, meter, begin, begin_of(last + 1))
        for (number, _), hour in summed(raw, register).items():
            yield _Hour(number, *astuple(hour))

    def _points(
        self, ids: tuple[int, ...], register: int, marks: Sequence[datetime], by: By
    ) -> list[tuple[Point, str]]:
        """The readings that tell what was counted between `marks`, with their units."""
        edges = [hour_of(taken_of(mark) + GRACE_US) for mark in marks]
        found: dict[tuple[int, Decimal], str] = {}
        for meter in ids:
            hours = list(self._tail(meter, register, edges[-1]))
            if by == "hour":
                hours += self._hours(meter, register, edges[0], edges[-1])
            for edge in edges if by != "hour" else (edges[0], edges[-1]):
                for order, where in (("DESC", "<"), ("ASC", ">=")):
                    row = self._database.execute(
                        f"{_HOURS} WHERE meter = ? AND register = ? AND hour {where} ? "
                        f"ORDER BY hour {order} LIMIT 1",
                        (meter, register, edge),
                    ).fetchone()
                    hours += [_Hour._make(row)] if row else []
            for hour in hours:
                found[hour.first_taken, Decimal(hour.first)] = hour.unit
                found[hour.last_taken, Decimal(hour.last)] = hour.unit
        return [(Point(*point), unit) for point, unit in sorted(found.items())]


class _Hour(NamedTuple):
    """A row of the table of hours; numbers as text, or exact where they were just summed."""

    hour: int
    unit: str
    first: str | Decimal
    first_taken: int
    last: str | Decimal
    last_taken: int
    low: str | Decimal
    high: str | Decimal
    total: str | Decimal
    readings: int


def _in_unit(points: list[tuple[Point, str]], unit: str) -> list[Point]:
    """Readings in `unit`; those whose unit is of another kind are left out."""
    return [
        point if its == unit else Point(point.taken, point.value * GJ[its] / GJ[unit])
        for point, its in points
        if its == unit or (its in GJ and unit in GJ)
    ]


def _sample(at: datetime, hours: list[_Hour]) -> Sample:
    """Hours as one: the mean with one digit more than the meter has."""
    count = sum(hour.readings for hour in hours)
    total = reduce(EXACT.add, (Decimal(hour.total) for hour in hours))
    digit = Decimal(1).scaleb(int(Decimal(hours[-1].last).as_tuple().exponent) - 1)
    mean = EXACT.quantize(EXACT.divide(total, Decimal(count)), digit)
    low, high = (
        min(Decimal(hour.low) for hour in hours),
        max(Decimal(hour.high) for hour in hours),
    )
    return Sample(at, mean, low, high)
