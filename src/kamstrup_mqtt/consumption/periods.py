"""What a counter counted in hours, days, weeks, months and years: exact differences of readings.

Nothing here reads a file but that of this machine's time zone. All that is counted goes to exactly
one period or one gap: periods and gaps together are the difference of the counter to the digit.
"""

import contextlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.store.codec import moment_of, taken_of
from kamstrup_mqtt.store.rollup import GRACE_US

By = Literal["hour", "day", "week", "month", "year"]
BYS: tuple[By, ...] = ("hour", "day", "week", "month", "year")
_SECOND = 1_000_000
_DAY_GAP_US = 26 * 3600 * _SECOND  # so that one reading a day, at any time of it, is no gap
_HOUR_GAP_US = 2 * 3600 * _SECOND


class Point(NamedTuple):
    """A reading of a counter: microseconds since 1970, and what it showed."""

    taken: int
    value: Decimal


@dataclass(slots=True)
class Period:
    """What was counted from `begin` to `end`.

    Args:
        begin: when it begins.
        end: when the next one begins.
        used: what was counted; None where nothing is known.
        complete: whether the readings reach from the beginning to the end, without a gap.

    """

    begin: datetime
    end: datetime
    used: Decimal | None = None
    complete: bool = True

    def add(self, amount: Decimal) -> None:
        """Count `amount` more."""
        self.used = amount if self.used is None else EXACT.add(self.used, amount)


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without readings, and what was counted in it, nobody knows when."""

    begin: datetime
    end: datetime
    used: Decimal


@dataclass(slots=True)
class Consumption:
    """What was counted, period by period, and in the gaps between."""

    periods: list[Period]
    gaps: list[Gap] = field(default_factory=list)


def boundaries(begin: datetime, end: datetime, by: By) -> list[datetime]:
    """Where periods begin, from the one `begin` is in, to the end of the one before `end`.

    Args:
        begin: a moment in the zone whose days and months are meant.
        end: a moment; a period that begins there is not wanted any more.
        by: the kind of period.

    """
    zone = begin.tzinfo
    if by == "hour":
        return _hours(begin, end)
    marks = [_floor(begin, by)]
    while marks[-1] < end:
        marks.append(_next(marks[-1], by, zone))
    return marks


def local_zone() -> tzinfo:
    """The zone of this machine, or of TZ, with its summer time; UTC where it is not known."""
    with contextlib.suppress(OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        if name := os.environ.get("TZ", "").lstrip(":"):
            with contextlib.suppress(ZoneInfoNotFoundError):
                return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    return UTC


def _hours(begin: datetime, end: datetime) -> list[datetime]:
    """Where hours begin: one in each UTC hour, which knows no summer time.

    Where summer time is half an hour, one hour has 30 minutes and another one 90.
    """
    hour = int(begin.timestamp() // 3600)
    if _on_the_hour(hour, begin.tzinfo).timestamp() > begin.timestamp():
        hour -= 1
    marks = [_on_the_hour(hour, begin.tzinfo)]
    while marks[-1].timestamp() < end.timestamp():
        hour += 1
        marks.append(_on_the_hour(hour, begin.tzinfo))
    return marks


def _on_the_hour(hour: int, zone: tzinfo | None) -> datetime:
    """When the clock of `zone` says a full hour within this hour since 1970."""
    offset = datetime.fromtimestamp(3600 * hour, zone).utcoffset() or timedelta(0)
    return datetime.fromtimestamp(3600 * hour + -offset.total_seconds() % 3600, zone)


def _floor(moment: datetime, by: By) -> datetime:
    day = moment.date()
    if by == "week":
        day -= timedelta(days=day.weekday())
    elif by != "day":
        day = day.replace(day=1, month=day.month if by == "month" else 1)
    return _midnight(day, moment.tzinfo)


def _next(begin: datetime, by: By, zone: tzinfo | None) -> datetime:
    day = begin.date()
    if by in ("day", "week"):
        return _midnight(day + timedelta(days=7 if by == "week" else 1), zone)
    months = 12 if by == "year" else 1
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return _midnight(date(year, month + 1, 1), zone)


def _midnight(day: date, zone: tzinfo | None) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def consumption(
    points: Sequence[Point], marks: Sequence[datetime], by: By, *, spread: bool = False
) -> Consumption:
    """What one counter counted between `marks`.

    What was counted between two readings belongs to the period of the later one, unless they are
    so far apart that it is a gap.

    Args:
        points: readings, oldest first: at least the first and the last one of each period, and
            the last one before all periods.
        marks: where periods begin and, at the end, where the last one ends.
        by: the kind of period.
        spread: divide what was counted in a gap evenly over its time.

    """
    found = Consumption([Period(*pair) for pair in pairwise(marks)])
    edges = [taken_of(mark) + GRACE_US for mark in marks]
    longest = _HOUR_GAP_US if by == "hour" else _DAY_GAP_US
    _note_ends(found.periods, points, edges)
    for earlier, later in pairwise(points):
        first = bisect_right(edges, earlier.taken) - 1  # the period of each, -1 before all
        last = bisect_right(edges, later.taken) - 1
        touched = found.periods[max(first, 0) : last + 1]
        used = EXACT.subtract(later.value, earlier.value)
        if used >= 0 and (first == last or later.taken - earlier.taken <= longest):
            if 0 <= last < len(found.periods):
                found.periods[last].add(used)
            continue
        for period in touched:
            period.complete = False
        if used < 0 or not touched:  # no counter goes backwards: nobody knows what that was
            continue
        if spread:
            _spread(found.periods, edges, earlier, later)
        else:
            begin, end = (
                moment_of(point.taken).astimezone(marks[0].tzinfo) for point in (earlier, later)
            )
            found.gaps.append(Gap(begin, end, used))
    return found


def _note_ends(periods: list[Period], points: Sequence[Point], edges: list[int]) -> None:
    """Note which periods the readings do not reach: before the first, and after the last."""
    first = bisect_right(edges, points[0].taken) - 1 if points else len(periods)
    last = bisect_right(edges, points[-1].taken) - 1 if points else -1
    for number, period in enumerate(periods):
        if number <= first or number > last:
            period.complete = False
        elif number == last:
            period.complete = points[-1].taken >= edges[number + 1] - GRACE_US


def _spread(periods: list[Period], edges: list[int], earlier: Point, later: Point) -> None:
    """Divide what was counted between two readings by time, to the digits of the counter."""
    used = EXACT.subtract(later.value, earlier.value)
    digit = Decimal(1).scaleb(int(later.value.as_tuple().exponent))
    done, begin = Decimal(0), bisect_right(edges, earlier.taken) - 1
    for number in range(begin, len(edges)):
        end = min(edges[number + 1] if number + 1 < len(edges) else later.taken, later.taken)
        share = Decimal(end - earlier.taken) / Decimal(later.taken - earlier.taken)
        until = used
        if end != later.taken:
            until = EXACT.quantize(EXACT.multiply(used, share), digit)
        if 0 <= number < len(periods):
            periods[number].add(EXACT.subtract(until, done))
        done = until
        if end == later.taken:
            break
