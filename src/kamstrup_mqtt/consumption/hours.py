"""The hours of a register, rolled up or not yet, and the readings that tell what it counted.

Hours are UTC hours. Where a period begins within one, readouts tell what it
was before and after, in whatever zone. When they are removed, only its first and last reading are
left, and those of its parts where midnight was within it in the zone it was read in (see
`rollup`). Any other beginning may then be less than an hour off, and still all that was counted is
in one period or the other.
"""

import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import datetime
from decimal import Decimal
from itertools import groupby, islice
from typing import NamedTuple

from kamstrup_mqtt.consumption.periods import By, Point
from kamstrup_mqtt.store.codec import taken_of
from kamstrup_mqtt.store.rollup import (
    FIELDS,
    GRACE_US,
    begin_of,
    hour_of,
    place_of,
    rolled_of,
    summed,
    values_in,
)
from kamstrup_mqtt.store.rows import tell


class HourRow(NamedTuple):
    """What a register did in an hour or a part of it; see `rollup`."""

    hour: float
    unit: str
    first: Decimal
    first_taken: int
    last: Decimal
    last_taken: int
    low: Decimal
    high: Decimal
    total: Decimal
    readings: int


class Hours:
    """The hours in a history."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def divided(self, meter: int, register: int, edges: Sequence[int]) -> Iterator[HourRow]:
        """Hours of one id that `edges` touch, in two where an edge is within.

        An hour whose readouts are not all there any more stays as it is kept.
        """
        inside = {hour_of(edge): edge for edge in edges}
        rows = self._between(meter, register, hour_of(edges[0]), hour_of(edges[-1] - 1))
        for hour, its in groupby(rows, lambda row: math.floor(row.hour)):
            kept = list(its)
            parts = self._parts(meter, register, inside.get(hour, begin_of(hour)))
            whole = sum(part.readings for part in parts) == sum(row.readings for row in kept)
            yield from parts if whole else kept

    def _parts(self, meter: int, register: int, edge: int) -> list[HourRow]:
        """The hour of `edge` before and after it, from readouts; nothing where it begins there."""
        begin, end = begin_of(hour_of(edge)), begin_of(hour_of(edge) + 1)
        if edge == begin:
            return []
        return [
            HourRow(hour, *astuple(done))
            for span in ((begin, edge), (edge, end))
            for (hour, _), done in summed(self._database, meter, *span, register).items()
        ]

    def _between(self, meter: int, register: int, first: int, last: int) -> Iterator[HourRow]:
        """Hours of one id, rolled up or not, from `first` to `last`."""
        yield from self._rolled(
            "hour >= ? AND hour < ? ORDER BY hour", meter, register, first, last + 1
        )
        yield from (one for one in self._tail(meter, register, last) if one.hour >= first)

    def _rolled(
        self, where: str, meter: int, register: int, *arguments: float
    ) -> Iterator[HourRow]:
        """Hours from the table, without those that cannot be read."""
        rows = self._database.execute(
            f"SELECT hour, {FIELDS} FROM hour WHERE meter = ? AND register = ? AND {where}",  # noqa: S608
            (meter, register, *arguments),
        )
        for row in rows:
            try:
                yield HourRow(row[0], *values_in(row[1:]))
            except (ArithmeticError, TypeError, ValueError, AttributeError) as error:
                tell(self._database, f"hour {row[0]} of register {register}", error)

    def _tail(self, meter: int, register: int, last: int) -> Iterator[HourRow]:
        """The hours up to `last` that are not rolled up yet."""
        rolled = rolled_of(self._database, meter)
        begin = begin_of(rolled + 1) if rolled is not None else -(1 << 62)
        for (hour, _), done in summed(
            self._database, meter, begin, begin_of(last + 1), register
        ).items():
            yield HourRow(hour, *astuple(done))

    def points(
        self, ids: tuple[int, ...], register: int, marks: Sequence[datetime], by: By
    ) -> list[tuple[Point, str]]:
        """The readings that tell what was counted between `marks`, with their units."""
        edges = [taken_of(mark) + GRACE_US for mark in marks]
        first, last = hour_of(edges[0]), hour_of(edges[-1] - 1)  # that are touched
        found: dict[tuple[int, Decimal], str] = {}
        for meter in ids:
            hours = list(self._tail(meter, register, last + 1))
            if by == "hour":
                hours += self._between(meter, register, first, last)
            for edge in edges if by != "hour" else (edges[0], edges[-1]):
                at, after = hour_of(edge), place_of(edge - GRACE_US)  # the same on the full hour
                for where, which in {
                    ("hour < ? ORDER BY hour DESC", at),
                    ("hour >= ? ORDER BY hour", at),
                    ("hour >= ? ORDER BY hour", after),
                }:
                    hours += islice(self._rolled(where, meter, register, which), 1)
            for edge in edges:
                hours += self._parts(meter, register, edge)
            for hour in hours:
                found[hour.first_taken, hour.first] = hour.unit
                found[hour.last_taken, hour.last] = hour.unit
        return [(Point(*point), unit) for point, unit in sorted(found.items())]
