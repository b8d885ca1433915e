"""When a meter is polled: at the moments of an interval, or of a cron expression."""

import math
from collections.abc import Iterator
from datetime import tzinfo

from kamstrup_mqtt.polling.moments import DAY_S, Moments, cron, every, moments_a_day
from kamstrup_mqtt.polling.settings import MeterConfig

ACTIVE_S = 30.0  # where somebody asks for faster polls and no interval is configured


class Timetable:
    """The moments of one meter, as configured or as set at run time.

    Args:
        settings: when it is to be polled.
        zone: of the moments.

    """

    def __init__(self, settings: MeterConfig, zone: tzinfo) -> None:
        self._zone = zone
        self._configured_s = settings.interval_s
        self._interval_s: float | None = None  # as set at run time
        self._cron: Moments | None = None
        self._cron_polls = 0
        if settings.poll_at is not None:
            self._cron = cron(settings.poll_at, zone)
            self._cron_polls = moments_a_day(settings.poll_at)
        self.active_s = settings.active_interval_s or ACTIVE_S

    @property
    def interval_s(self) -> float:
        """The longest time between two polls, in seconds."""
        return self._interval_s or self._configured_s

    @property
    def is_set(self) -> bool:
        """Whether the interval was set at run time."""
        return self._interval_s is not None

    @property
    def is_cron(self) -> bool:
        """Whether moments say when to poll, and no interval."""
        return self._cron is not None and self._interval_s is None

    @property
    def polls_a_day(self) -> float:
        """How many polls that makes on a day that has any."""
        return self._cron_polls if self.is_cron else DAY_S / self.interval_s

    def set_interval(self, seconds: float | None) -> bool:
        """Poll at another interval, or with None as configured; whether that is news."""
        is_news = seconds != self._interval_s
        self._interval_s = seconds
        return is_news

    def after(self, moment: float, leave_out: int = 0) -> float:
        """The first moment after `moment`, in unix time, behind so many that are left out."""
        if self._cron is None or not self.is_cron:
            return every(self.interval_s, self._zone)(moment + leave_out * self.interval_s)
        for _ in range(leave_out):
            moment = self._cron(moment)
        return self._cron(moment)

    def day_after(self, moment: float) -> Iterator[float]:
        """The moments of the 24 hours after `moment`."""
        end = moment + DAY_S
        while (moment := self.after(moment)) < end:
            yield moment

    def active_after(self, moment: float) -> float:
        """The same at the active interval."""
        return every(self.active_s, self._zone)(moment)

    def pings_a_day(self, pause_s: float) -> int:
        """How many questions between the polls keep a meter from a pause of `pause_s`."""
        most = math.ceil(DAY_S / pause_s)
        if self.is_cron:
            return most
        return min(most, math.ceil(self.polls_a_day * (math.ceil(self.interval_s / pause_s) - 1)))
