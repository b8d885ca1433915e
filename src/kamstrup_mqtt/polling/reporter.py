"""Tells how the polling of a meter goes: in the log, and as its state on a board."""

from kamstrup_mqtt.errors import KamstrupError, PortError
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.polling.job import Job, Kind
from kamstrup_mqtt.polling.link_state import LinkMonitor
from kamstrup_mqtt.polling.log import PollLog
from kamstrup_mqtt.polling.schedule import Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import MeterIdentity, Now, Readout
from kamstrup_mqtt.readout.status import LinkState, MeterStatus
from kamstrup_mqtt.store import Board


class Reporter:
    """What is told of one meter.

    Args:
        settings: what is configured.
        schedule: when it is polled.
        session: whose line it is on.
        statuses: where to put its state.

    """

    def __init__(
        self, settings: MeterConfig, schedule: Schedule, session: MeterSession,
        statuses: Board[MeterStatus],
    ) -> None:  # fmt: skip
        self.info_code: int | None = None  # as read last
        self._name = settings.name
        self._schedule = schedule
        self._session = session
        self._statuses = statuses
        self._monitor = LinkMonitor()
        self._log = PollLog(settings, schedule, self._monitor)

    @property
    def complaint(self) -> str:
        """What is wrong with the reading, in words; "" when all is well."""
        if self._monitor.reason:
            return f"{self._name}: {self._monitor.reason}"
        if self._monitor.last_readout is None:
            return f"{self._name}: not read yet"
        return ""

    @property
    def meter(self) -> MeterIdentity:
        """Who was read last."""
        return self._monitor.meter

    def begins(self, latest: Readout | None, full: Readout | None, now: Now) -> None:
        """Say what is going to be done, after the latest and the last full readout there are."""
        self._log.begins(latest, now)
        if latest is not None and self._schedule.next_poll_s(now) > 0:
            self._monitor.resume(latest, full or latest)
            self.put(now)

    def planned(self, now: Now) -> None:
        """Say when the meter is polled, for that has changed."""
        self._log.explain()
        self.put(now)

    def boosted(self, seconds: float, now: Now) -> None:
        """Say that somebody asked for faster polls."""
        self._log.boost(seconds, now)

    def waits(self, now: Now) -> None:
        """Say what the next poll waits for, if that is the budget."""
        self._log.budget(now)

    def failed(self, job: Job, fault: KamstrupError, now: Now) -> None:
        """Say that `job` brought nothing."""
        if job.kind in (Kind.POLL, Kind.REQUEST) or isinstance(fault, PortError):
            self._monitor.failed(fault, now)
            self._log.fault(now)

    def broke(self, cause: str, now: Now) -> None:
        """Say that the polling failed in a way nobody foresaw, and is started anew."""
        self._monitor.failed(KamstrupError(cause), now)
        self.put(now)

    def heard(self, job: Job, readout: Readout | None, now: Now) -> bool:
        """Say what is new about the meter, which answered; whether it had been asleep."""
        monitor = self._monitor
        woke = monitor.state is LinkState.ASLEEP
        if readout is not None:
            is_known = monitor.has_heard and readout.meter.serial == monitor.meter.serial
            if monitor.failures or not is_known:
                self._log.answers(readout)
        monitor.heard(now)
        if readout is not None:
            missing = monitor.missing
            monitor.took(readout, is_full=job.is_full)
            if monitor.missing and monitor.missing != missing:
                self._log.missing(readout)
        return woke

    def put(self, now: Now) -> None:
        """Put up the state, as soon as anything is known of it."""
        session = self._session
        status = self._monitor.status(
            now,
            session.counters,
            session.quality,
            self._schedule.timetable,
            self.info_code,
        )
        if status is not None:
            self._statuses.put(self._name, status)
