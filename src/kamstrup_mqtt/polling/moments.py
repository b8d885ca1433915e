"""The moments at which a meter is to be polled: on the grid of an interval, or of cron fields.

Both are local time: every 24 hours means midnight all year, and every ten minutes also in the hour
that comes twice. Nothing here looks at a clock.
"""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise, takewhile

from cronsim import CronSim, CronSimError

HOUR_S = 3600.0
DAY_S = 86400.0
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local time, as users mean
_SOME_DAY = datetime(2026, 1, 1)  # noqa: DTZ001 - local time, as users mean
_SELDOM = timedelta(days=50 * 365)  # as far as cronsim looks
_LOOKED_AT = 1500  # days on which a cron expression has moments: four years of every day

# Gives the first moment after a moment, both as unix time.
Moments = Callable[[float], float]


def every(interval_s: float, zone: tzinfo) -> Moments:
    """The grid of an interval, so that no drift ever adds up: every 5 minutes means :00, :05.

    It counts from a midnight long ago in local time; one that divides the day begins anew at each.

    Args:
        interval_s: seconds from one moment to the next. Beyond an hour the grid keeps local time
            when summer time begins or ends; shorter ones go on evenly.
        zone: whose local time.

    """

    def after(moment: float) -> float:
        offset = datetime.fromtimestamp(moment, zone).utcoffset() or timedelta()
        offset_s = offset.total_seconds()
        slot = math.floor((moment + offset_s) / interval_s + 1e-9)
        if interval_s <= HOUR_S:
            return (slot + 1) * interval_s - offset_s
        candidates = (_at(slot + step, interval_s, zone) for step in range(4))
        return next(found for found in candidates if found > moment)

    return after


def _at(slot: int, interval_s: float, zone: tzinfo) -> float:
    """When the clock of `zone` shows that slot of the grid; a time that is left out comes later."""
    shown = _EPOCH + timedelta(seconds=slot * interval_s)
    return shown.replace(tzinfo=zone).timestamp()


def cron(expression: str, zone: tzinfo) -> Moments:
    """The moments of a cron expression of five fields in the local time of `zone`."""

    def after(moment: float) -> float:
        # cronsim looks at whole seconds, and leaves out the one it starts from.
        start = datetime.fromtimestamp(math.floor(moment), UTC).astimezone(zone)
        moments = CronSim(expression, start)
        while (found := next(moments).timestamp()) <= moment:
            pass
        return found

    return after


def cron_expression(text: str) -> str:
    """A cron expression, from minutes past the hour such as 59, or from all its five fields.

    Raises:
        ValueError: it is neither.

    """
    fields = text.split()
    if len(fields) == 1:
        fields += ["*"] * 4
    expression = " ".join(fields)
    try:
        if len(fields) != 5:
            raise ValueError
        next(_from_some_day(expression))
    except (CronSimError, StopIteration) as error:
        raise ValueError from error
    return expression


def longest_gap(expression: str) -> float:
    """Seconds between two moments of a cron expression, where they lie farthest apart."""
    times = _times_of_day(expression)
    days = list(islice(_from_some_day("0 0 " + " ".join(expression.split()[2:])), _LOOKED_AT))
    days_apart = max((b - a for a, b in pairwise(days)), default=_SELDOM)
    overnight = days_apart - (times[-1] - times[0])
    return max([overnight, *(b - a for a, b in pairwise(times))]).total_seconds()


def moments_a_day(expression: str) -> int:
    """How many moments a cron expression has on a day that has any."""
    return len(_times_of_day(expression))


def _times_of_day(expression: str) -> list[datetime]:
    every_day = " ".join([*expression.split()[:2], "* * *"])
    return list(_from_some_day(every_day, timedelta(days=1)))


def _from_some_day(expression: str, span: timedelta = _SELDOM) -> Iterator[datetime]:
    moments = CronSim(expression, _SOME_DAY - timedelta(seconds=1))
    return takewhile(lambda moment: moment < _SOME_DAY + span, moments)
