"""How often a meter may be asked in 24 hours, spread over them. Nothing here looks at a clock."""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from kamstrup_mqtt.polling.moments import DAY_S
from kamstrup_mqtt.readout import Now

_EXACT_S = 0.001  # in which two moments are the same


@dataclass(slots=True)
class _Earlier:
    """A question of an earlier run: by its clock, by this run's monotonic one, and if sure."""

    stamp: float
    at: float
    is_sure: bool


class Budget:
    """At most so many questions in any 24 hours.

    All times are seconds of the monotonic clock, which nobody sets.

    Args:
        most: the number, or None for any.
        begin: when this run begins to ask.

    """

    def __init__(self, most: int | None, begin: float = 0.0) -> None:
        self._most = most
        self._begin = begin
        self._earlier: list[_Earlier] = []
        self._own: deque[float] = deque()  # asked by this run
        self._spent: deque[float] = deque()  # all together, in order

    def resume(self, asked: Iterable[float], now: Now) -> None:
        """Count what an earlier run asked in its last 24 hours, as unix time.

        A moment that is still to come was stamped by a clock that differs from this one. Nobody
        knows how long ago that was: such questions are taken to be spread over the last 24 hours.
        """
        stamps = sorted(asked)[-self._most :] if self._most is not None else []
        future = [stamp for stamp in stamps if stamp > now.wall]
        ages = {stamp: now.wall - stamp for stamp in stamps if stamp <= now.wall}
        for number, stamp in enumerate(future, start=1):
            ages[stamp] = DAY_S * number / (len(future) + 1)
        self._earlier = [
            _Earlier(stamp, now.monotonic - ages[stamp], is_sure=stamp <= now.wall)
            for stamp in stamps
        ]
        self._merge()

    def clock_set(self, now: Now) -> None:
        """Date what an earlier run asked by this clock, for the last one may have been wrong.

        What seemed to be long ago may turn out to be recent, but not the other way round.
        """
        self._forget(now.monotonic)
        for one in self._earlier:
            if one.stamp <= now.wall:
                at = min(self._begin, now.monotonic - (now.wall - one.stamp))
                one.at = max(one.at, at) if one.is_sure else at
                one.is_sure = True
        self._merge()

    def stamps(self, offset: float) -> tuple[float, ...]:
        """When the meter was asked, as unix time: what the next run is to resume with.

        Those of earlier runs as they came: a clock that is wrong now must not change them.

        Args:
            offset: from the monotonic clock to the wall clock.

        """
        return (*(one.stamp for one in self._earlier), *(moment + offset for moment in self._own))

    def spend(self, now: float) -> None:
        """Count a question, when it is asked: who is killed meanwhile has asked it too."""
        if self._most is not None:
            self._own.append(now)
            insort(self._spent, now)

    def refund(self) -> None:
        """The last question cost the meter nothing: nobody heard it."""
        if self._own:
            self._spent.remove(self._own.pop())

    def free_at(self, now: float, reserved: int = 0) -> float:
        """From when on the meter may be asked; `now` when it may already.

        Args:
            now: this moment.
            reserved: questions a day that are to be left for others.

        """
        self._forget(now)
        if self._most is None:
            return now
        allowed = self._most - reserved
        if allowed <= 0:
            return now + DAY_S
        return now if len(self._spent) < allowed else self._spent[-allowed] + DAY_S

    def more_at(self, now: float) -> float:
        """When it has room for one question more than now."""
        self._forget(now)
        return self._spent[0] + DAY_S if self._spent else now + DAY_S

    def retry_at(self, now: float) -> float:
        """From when on it may be asked again after bad answers: half of all is left for polls."""
        return self.free_at(now, (self._most or 0) // 2)

    def lasts(self, moments: Iterable[float], more: int = 0) -> bool:
        """Whether it has room for a question at each of `moments`, those of the next 24 hours.

        And for so many `more` before them.
        """
        if self._most is None:
            return True
        for count, moment in enumerate(moments, start=1 + more):
            old = bisect_right(self._spent, moment - DAY_S + _EXACT_S)
            if len(self._spent) - old + count > self._most:
                return False
        return True

    def pace_s(self, now: float) -> float:
        """Seconds from one poll to the next that never run into the end of the budget.

        What was spent at once, on requests, leaves less for the rest of the day: what is left is
        spread until there is room again, instead of ending the day.
        """
        self._forget(now)
        if self._most is None:
            return 0.0
        left = max(0, self._most - len(self._spent))
        returns = [moment + DAY_S - now for moment in self._spent][-self._most :]
        paces = [wait / (left + count) for count, wait in enumerate(returns, start=1)]
        return max([DAY_S / self._most, *paces])

    def _merge(self) -> None:
        self._spent = deque(sorted([*(one.at for one in self._earlier), *self._own]))

    def _forget(self, now: float) -> None:
        if self._earlier and now > self._begin + DAY_S:
            self._earlier = []
        for moments in (self._own, self._spent):
            while moments and moments[0] <= now - DAY_S:
                moments.popleft()
