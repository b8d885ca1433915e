"""What the log says of the polling of one meter: one line each, and nothing again and again."""

import logging
import math

from kamstrup_mqtt.polling.cost import explained, warned
from kamstrup_mqtt.polling.link_state import LinkMonitor
from kamstrup_mqtt.polling.moments import DAY_S
from kamstrup_mqtt.polling.schedule import CLOCK_S, Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.quantities import duration
from kamstrup_mqtt.readout import Now, Readout

_NAMED = 8  # missing registers that a line names
_LONG_S = 120.0  # a time to wait that is told in whole minutes

_log = logging.getLogger(__name__)


class PollLog:
    """The log of one meter.

    Args:
        settings: what is configured.
        schedule: when it is polled.
        monitor: how it is doing.

    """

    def __init__(self, settings: MeterConfig, schedule: Schedule, monitor: LinkMonitor) -> None:
        self._settings = settings
        self._schedule = schedule
        self._monitor = monitor
        self._said_budget_at = -math.inf
        self._explained: set[str] = set()

    def begins(self, last: Readout | None, now: Now) -> None:
        """Say what is going to be done, and when the first poll is due."""
        registers, port = len(self._settings.registers), self._settings.port
        self._say(f"reading {registers} registers from {port}")
        self.explain()
        if last is None:
            return
        taken = last.time.isoformat(sep=" ", timespec="seconds")
        wait_s = self._schedule.next_poll_s(now)
        if self._schedule.awaits_clock:
            self._warn(
                f"the clock of this machine is behind the last readout, {taken}: waiting "
                f"{duration(CLOCK_S)} at most for it to be set"
            )
        elif wait_s > 0:
            self._say(f"read last at {taken}; the next reading is in {_about(wait_s)}")

    def explain(self) -> None:
        """Say when the meter is polled, and what that costs it; only what is new."""
        sentences = dict.fromkeys(explained(self._settings, self._schedule), self._say)
        sentences |= dict.fromkeys(warned(self._settings, self._schedule), self._warn)
        for sentence, tell in sentences.items():
            if sentence not in self._explained:
                tell(sentence)
        self._explained = set(sentences)

    def boost(self, seconds: float, now: Now) -> None:
        """Say that somebody asked for faster polls, or that there is no room for them."""
        every = duration(self._schedule.timetable.active_s)
        if self._schedule.spare_at(now) > now.monotonic:
            self._warn(
                f"reading every {every} was asked for, and max_readings_per_day leaves no room "
                "for that now"
            )
        else:
            self._say(f"reading every {every} for {duration(seconds)}")

    def fault(self, now: Now) -> None:
        """Say what went wrong, but what goes on only now and then."""
        monitor = self._monitor
        if monitor.is_news(now):
            times = f" ({monitor.failures} times in a row)" if monitor.failures > 1 else ""
            wait = _about(self._schedule.next_poll_s(now))
            self._warn(f"{monitor.reason}{times}. Next try in {wait}")

    def answers(self, readout: Readout) -> None:
        """Say who answers."""
        meter = readout.meter
        known = f"MULTICAL {meter.model}" if meter.model else f"type {meter.type_code or 'unknown'}"
        self._say(f"serial number {meter.serial or 'unknown'} answers, {known}")

    def missing(self, readout: Readout) -> None:
        """Say what of a readout is missing, and why."""
        named = [f"{name} ({reason})" for name, reason in readout.missing.items()]
        if len(named) > _NAMED:
            named[_NAMED:] = [f"and {len(named) - _NAMED} more"]
        self._warn(f"not read: {', '.join(named)}")

    def budget(self, now: Now) -> None:
        """Say once a day when the budget is used up."""
        is_said = now.monotonic < self._said_budget_at + DAY_S
        if self._schedule.free_at(now) > now.monotonic and not is_said:
            self._said_budget_at = now.monotonic
            self._warn(
                f"max_readings_per_day: {self._settings.max_readings_per_day} is used up for now; "
                f"the next reading is in {_about(self._schedule.next_poll_s(now))}"
            )

    def _say(self, sentence: str) -> None:
        _log.info("%s: %s", self._settings.name, sentence)

    def _warn(self, sentence: str) -> None:
        _log.warning("%s: %s", self._settings.name, sentence)


def _about(seconds: float) -> str:
    step = 60 if seconds > _LONG_S else 1
    return duration(math.ceil(seconds / step) * step)
