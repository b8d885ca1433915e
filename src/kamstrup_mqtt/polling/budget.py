"""How often a meter may be asked in 24 hours, spread over them. Nothing here looks at a clock."""

from collections import deque
from collections.abc import Iterable

from kamstrup_mqtt.polling.moments import DAY_S
from kamstrup_mqtt.readout import Now


class Budget:
    """At most so many questions in any 24 hours.

    All times are seconds of the monotonic clock, which nobody sets.

    Args:
        most: the number, or None for any.
        spent: when the meter was asked in the last 24 hours, also before this program began.

    """

    def __init__(self, most: int | None, spent: Iterable[float] = ()) -> None:
        self._most = most
        self._spent = deque(sorted(spent) if most is not None else ())

    @property
    def spent(self) -> tuple[float, ...]:
        """When the meter was asked, as far as that counts."""
        return tuple(self._spent)

    def spend(self, now: float) -> None:
        """Count a question."""
        if self._most is not None:
            self._spent.append(now)

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

    def spare_at(self, now: float) -> float:
        """From when on it may be asked more than planned: half of all is left for the plan."""
        return self.free_at(now, (self._most or 0) // 2)

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

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0] <= now - DAY_S:
            self._spent.popleft()


def clocked(asked: Iterable[float], now: Now) -> list[float]:
    """When the meter was asked by an earlier run, on this run's monotonic clock.

    A moment that is still to come was stamped by a clock that differs from this one. Nobody knows
    how long ago that was: such questions are taken to be spread over the last 24 hours.
    """
    moments = list(asked)
    ages = [now.wall - moment for moment in moments if moment <= now.wall]
    unknown = len(moments) - len(ages)
    ages += [DAY_S * (number + 1) / (unknown + 1) for number in range(unknown)]
    return [now.monotonic - age for age in ages]
