"""When the next reading is due: pure functions, with the clock coming in as an argument."""

import math
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile

from cronsim import CronSim, CronSimError

_DAY_S = 86400.0
_SELDOM = timedelta(days=50 * 365)  # as far as cronsim looks
_SOME_DAY = datetime(2026, 1, 1)  # noqa: DTZ001 - local time, as users mean
_LOOKED_AT = 1500  # days on which a cron expression has moments: four years of every day
_EARLY_S = 1.0  # a sleep may end a little before the wall clock gets there
_FIRST_RETRY_S = 5.0
_DOUBLINGS = 20  # 60 days: beyond any interval, and far from where floats end


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
        next(_moments(expression))
    except (CronSimError, StopIteration) as error:
        raise ValueError from error
    return expression


def next_at(expression: str, now: float, previous: float | None) -> float:
    """The next moment of a cron expression in local time, as a unix time after `now`.

    Args:
        expression: what `cron_expression` gave.
        now: unix time in seconds.
        previous: the moment that was due before, so that waking early does not repeat it.

    """
    if previous is not None and now < previous <= now + _EARLY_S:
        now = previous
    local = datetime.fromtimestamp(now).replace(microsecond=0)  # noqa: DTZ006 - see above
    moments = CronSim(expression, local)
    while (moment := next(moments).timestamp()) <= now:
        pass  # an hour that comes twice, or not at all
    return moment


def longest_gap(expression: str) -> float:
    """Seconds between two moments of a cron expression, where they lie farthest apart."""
    times = _times_of_day(expression)
    days = list(islice(_moments("0 0 " + " ".join(expression.split()[2:])), _LOOKED_AT))
    days_apart = max((b - a for a, b in pairwise(days)), default=_SELDOM)
    overnight = days_apart - (times[-1] - times[0])
    return max([overnight, *(b - a for a, b in pairwise(times))]).total_seconds()


def moments_a_day(expression: str) -> int:
    """How many moments a cron expression has on a day that has any."""
    return len(_times_of_day(expression))


def _times_of_day(expression: str) -> list[datetime]:
    every_day = " ".join([*expression.split()[:2], "* * *"])
    return list(_moments(every_day, timedelta(days=1)))


def _moments(expression: str, span: timedelta = _SELDOM) -> Iterator[datetime]:
    moments = CronSim(expression, _SOME_DAY - timedelta(seconds=1))
    return takewhile(lambda moment: moment < _SOME_DAY + span, moments)


class Budget:
    """How many readings a day there may be, over any 24 hours.

    Args:
        most: the number, or None for any.
        taken: when readings were taken in the last 24 hours, on the clock that the others use.

    """

    def __init__(self, most: int | None, taken: list[float]) -> None:
        self._most = most
        self._taken = deque(taken)

    def spend(self, now: float) -> None:
        """Count a reading."""
        if self._most is not None:
            self._taken.append(now)

    def free_at(self, now: float, reserved: int = 0) -> float:
        """From when on a reading is possible; `now` when it is already.

        Args:
            now: seconds of a clock that nobody sets.
            reserved: readings a day that are to be left for others.

        """
        while self._taken and self._taken[0] <= now - _DAY_S:
            self._taken.popleft()
        if self._most is None:
            return now
        allowed = self._most - reserved
        if allowed <= 0:
            return now + _DAY_S
        return now if len(self._taken) < allowed else self._taken[-allowed] + _DAY_S


def next_due(now: float, utc_offset_s: float, interval_s: float, previous: float | None) -> float:
    """The next moment on the clock's grid, so that no drift ever adds up.

    The grid counts from midnight local time: every 5 minutes means :00, :05 and so on.

    Args:
        now: unix time in seconds.
        utc_offset_s: local time minus UTC, in seconds.
        interval_s: from one reading to the next, in seconds.
        previous: the moment that was due before, so that waking early does not repeat it.

    Returns:
        A unix time after `now`, at most an interval and a little away.

    """
    if previous is not None and now < previous <= now + _EARLY_S:
        now = previous
    slots = math.floor((now + utc_offset_s) / interval_s + 1e-9)
    return (slots + 1) * interval_s - utc_offset_s


def retry_delay(failures: int, longest_s: float) -> float:
    """Seconds until a failed reading is tried again: 5, 10, 20 and so on, up to `longest_s`."""
    doublings = min(failures - 1, _DOUBLINGS)
    return min(math.ldexp(_FIRST_RETRY_S, doublings), longest_s)
