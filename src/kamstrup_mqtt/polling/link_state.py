"""Names what is wrong with the line to a meter, from what became of its readouts, and counts.

One noisy readout does not make a bad line: a state other than `ok` or `port_missing` is believed
when two readouts in a row say so. Nothing here looks at a clock.
"""

from dataclasses import replace
from datetime import date, datetime

from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError
from kamstrup_mqtt.polling.schedule import SLEEPY_S
from kamstrup_mqtt.polling.timetable import Timetable
from kamstrup_mqtt.readout import MeterIdentity, Now, Readout
from kamstrup_mqtt.readout.status import Counters, LinkState, MeterStatus, Today

_BELIEVED = 2  # readouts in a row that say the same
_WAKEFUL = 3  # pauses that a meter stayed awake for, after which one as long is no sleep
_AS_LONG = 0.9  # of another pause
_REMINDER_S = 3600.0  # how often a fault that goes on is told again


class LinkMonitor:
    """The state of one line, from one readout to the next."""

    def __init__(self) -> None:
        self.state: LinkState | None = None  # None before the first readout
        self.since: datetime | None = None
        self.reason = ""  # what the last failed readout said; "" when it did not fail
        self.failures = 0  # in a row
        self.meter = MeterIdentity()
        self.last_readout: datetime | None = None
        self.missing: dict[str, str] = {}
        self._suspected: LinkState | None = None
        self._times = 0
        self._heard_at: float | None = None  # the last answer
        self._pause_s = 0.0  # from the last answer to the first question without one
        self._stayed_awake_s: list[float] = []  # the longest pauses without a question
        self._told: tuple[str, float] = ("", 0.0)  # the last fault that was told, and when
        self._today: date | None = None
        self._at_midnight = Counters()

    @property
    def has_heard(self) -> bool:
        """Whether the meter answered since the start."""
        return self._heard_at is not None

    def resume(self, latest: Readout, full: Readout) -> None:
        """Begin with what an earlier run read last, and what was missing when it read all."""
        self.meter, self.last_readout = latest.meter, latest.time
        self.missing = dict(full.missing)
        self._become(LinkState.OK, latest.time)

    def heard(self, now: Now) -> None:
        """The meter answered."""
        if self._heard_at is not None and not self.failures:
            pauses = [*self._stayed_awake_s, now.monotonic - self._heard_at]
            self._stayed_awake_s = sorted(pauses)[-_WAKEFUL:]
        self._heard_at = now.monotonic
        self._suspected = None
        self.reason, self.failures, self._told = "", 0, ("", 0.0)
        self._become(LinkState.OK, now.moment)

    def took(self, readout: Readout, *, is_full: bool) -> None:
        """Note what was read."""
        self.meter = readout.meter
        if is_full:
            self.missing = dict(readout.missing)
        if readout.readings:
            self.last_readout = readout.time

    def failed(self, fault: KamstrupError, now: Now) -> None:
        """A readout failed with `fault`."""
        if self._suspected is None and self._heard_at is not None:
            self._pause_s = now.monotonic - self._heard_at
        state = self._name(fault)
        self._times = self._times + 1 if state is self._suspected else 1
        self._suspected = state
        self.reason, self.failures = str(fault), self.failures + 1
        at_once = self.state is None or state is LinkState.PORT_MISSING
        if at_once or self._times >= _BELIEVED:
            self._become(state, now.moment)

    def is_news(self, now: Now) -> bool:
        """Whether the last fault is to be told: it is another one, or has gone on for long."""
        told, at = self._told
        if told == self.reason and now.monotonic < at + _REMINDER_S:
            return False
        self._told = (self.reason, now.monotonic)
        return True

    def status(
        self, now: Now, counters: Counters, quality: int | None, timetable: Timetable,
        info_code: int | None,
    ) -> MeterStatus | None:  # fmt: skip
        """How the meter is doing; None before anything is known of it.

        Args:
            now: this moment; midnight ends the day's count.
            counters: what happened on the line since the program began.
            quality: percent of the latest telegrams that got a usable answer.
            timetable: when it is polled.
            info_code: register 99.

        """
        today = now.moment.date()
        if today != self._today:
            self._at_midnight = replace(counters) if self._today else Counters()
            self._today = today
        if self.state is None or self.since is None:
            return None
        return MeterStatus(
            state=self.state,
            since=self.since,
            reason=self.reason,
            last_readout=self.last_readout,
            meter=self.meter,
            missing=self.missing,
            info_code=info_code,
            interval_s=timetable.interval_s,
            is_set=timetable.is_set,
            quality=quality,
            counters=counters,
            today=Today(
                counters.telegrams - self._at_midnight.telegrams,
                counters.bytes - self._at_midnight.bytes,
            ),
        )

    def _name(self, fault: KamstrupError) -> LinkState:
        if isinstance(fault, PortError):
            return LinkState.PORT_MISSING
        if not isinstance(fault, NoAnswerError):
            return LinkState.GARBLED
        return LinkState.ASLEEP if self._may_sleep else LinkState.SILENT

    @property
    def _may_sleep(self) -> bool:
        """Whether the last pause was long enough to fall asleep, and the meter known to."""
        wakeful = len(self._stayed_awake_s) == _WAKEFUL and (
            self._stayed_awake_s[0] >= _AS_LONG * self._pause_s
        )
        return self._pause_s >= SLEEPY_S and not wakeful

    def _become(self, state: LinkState, moment: datetime) -> None:
        if state is not self.state:
            self.state, self.since = state, moment
