"""When a meter is to be read, by configuration and by request, and what that costs it.

It asks nobody and reads nothing; the clocks are the only thing it looks at.
"""

import logging
import math
import time
from datetime import datetime

from kamstrup_mqtt.polling.link_state import SLEEPY_S
from kamstrup_mqtt.polling.schedule import Budget, moments_a_day, next_at, next_due
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.quantities import duration

DAY_S = 86400.0
_BATTERY_MIN = 15  # a reading, as users report; nobody has measured it
_ACTIVE_S = 30.0  # where somebody asks for faster readings and no interval is configured

_log = logging.getLogger(__name__)


class Plan:
    """The plan for one meter.

    Args:
        meter: what is configured.

    """

    def __init__(self, meter: MeterConfig) -> None:
        self.flowing = False  # whether water flows
        self._meter = meter
        self._interval_s: float | None = None  # as set over MQTT
        self._hurry_until = 0.0  # the monotonic clock's time until which readings are faster
        self._budget = Budget(meter.max_readings_per_day, [])
        self._held_back = False

    @property
    def interval_s(self) -> float:
        """The longest time between two readings, in seconds."""
        return self._interval_s or self._meter.interval_s

    @property
    def keeps_awake(self) -> bool:
        """Whether the meter is to be kept from falling asleep between two readings."""
        wanted = self._meter.keep_awake
        return self.interval_s > SLEEPY_S if wanted is None else wanted

    def set_interval(self, seconds: float | None) -> bool:
        """Read at another interval, or with None as configured; whether that is news."""
        if seconds == self._interval_s:
            return False
        self._interval_s = seconds
        self.introduce()
        return True

    def hurry(self, seconds: float) -> None:
        """Read at the active interval for so long."""
        self._hurry_until = time.monotonic() + seconds
        _log.info(
            "%s: reading every %s for %s",
            self._meter.name,
            duration(self._active_s),
            duration(seconds),
        )

    def remember(self, taken: list[float]) -> None:
        """Count the readings of the last 24 hours that an earlier run took, by unix time.

        What is still to come was stamped by another clock, and may be of any day.
        """
        now, clock = time.time(), time.monotonic()  # the wall clock may be set, this one not
        counted = [clock - (now - at) for at in taken if at <= now]
        self._budget = Budget(self._meter.max_readings_per_day, counted)

    def spend(self) -> None:
        """Count a reading."""
        self._budget.spend(time.monotonic())

    def next_due(self, previous: float | None) -> float:
        """The unix time of the next reading; `previous` is the one that was due before."""
        now, clock = time.time(), time.monotonic()
        if self._meter.poll_at and self.is_cron:
            due = next_at(self._meter.poll_at, now, previous)
        else:
            due = _on_the_grid(now, self.interval_s, previous)
        flowing = self.flowing and self._meter.active_interval_s is not None
        if flowing or clock < self._hurry_until:
            reserved = math.ceil(DAY_S / self.interval_s)
            active = _on_the_grid(now, self._active_s, previous)
            due = min(due, max(active, now + self._budget.free_at(clock, reserved) - clock))
        return due

    @property
    def is_cron(self) -> bool:
        """Whether moments say when to read, and no interval."""
        return self._meter.poll_at is not None and self._interval_s is None

    def free_at(self) -> float:
        """When the budget allows a reading, on the monotonic clock; told when it holds one back."""
        clock = time.monotonic()
        free = self._budget.free_at(clock)
        if (free > clock) is not self._held_back:
            self._held_back = free > clock
            if self._held_back:
                _log.warning(
                    "%s: %s readings in 24 hours are all that max_readings_per_day allows: the "
                    "next one is possible in %s",
                    self._meter.name,
                    self._meter.max_readings_per_day,
                    duration(math.ceil((free - clock) / 60) * 60),
                )
        return free

    def introduce(self) -> None:
        """Say in the log when the meter is read, and what that costs it."""
        name, meter = self._meter.name, self._meter
        when, readings = f"every {duration(self.interval_s)}", round(DAY_S / self.interval_s)
        if meter.poll_at and self.is_cron:
            when = f"at {meter.poll_at} (minute, hour, day, month, weekday)"
            readings = moments_a_day(meter.poll_at)
        _log.info("%s: reading %s: %s", name, when, _cost(readings))
        if meter.active_interval_s is not None:
            _log.info(
                "%s: while water flows, or somebody asks for it, every %s: at most %s",
                name,
                duration(meter.active_interval_s),
                _cost(round(DAY_S / meter.active_interval_s)),
            )
        if meter.max_readings_per_day is not None:
            _log.info("%s: never more than %d readings a day", name, meter.max_readings_per_day)
        if self.keeps_awake:
            _log.info(
                "%s: in between a telegram of 5 bytes every %s keeps the meter awake, at most %d "
                "a day; keep_awake: false leaves that out",
                name,
                duration(SLEEPY_S),
                DAY_S // SLEEPY_S,
            )
        elif self.interval_s > SLEEPY_S:
            _log.warning(
                "%s: meters fall asleep after about 30 minutes without a question, and may not "
                "answer the next one; keep_awake: true keeps them awake",
                name,
            )

    @property
    def _active_s(self) -> float:
        return self._meter.active_interval_s or _ACTIVE_S


def _on_the_grid(now: float, interval_s: float, previous: float | None) -> float:
    offset = datetime.fromtimestamp(now).astimezone().utcoffset()
    return next_due(now, offset.total_seconds() if offset else 0.0, interval_s, previous)


def _cost(readings: int) -> str:
    """Readings a day, and the battery life they take by what users report."""
    return f"{readings} readings a day, {battery_life(readings)}"


def battery_life(readings: int) -> str:
    """The battery life that so many readings take by what users report, which nobody measured."""
    return f"about {duration(readings * _BATTERY_MIN * 60)} of battery life (an estimate of users)"
