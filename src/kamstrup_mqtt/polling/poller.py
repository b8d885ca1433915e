"""Polls one meter for ever: waits for the next job, does it, and tells what became of it.

What it reads goes into the history, how the meter is doing onto a board; outputs follow both. When
to ask is decided by the schedule, what to ask and to believe by the acquisition.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable

from kamstrup_mqtt.consumption import local_zone
from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.polling.acquisition import Acquisition
from kamstrup_mqtt.polling.cost import explained, warned
from kamstrup_mqtt.polling.link_state import LinkMonitor
from kamstrup_mqtt.polling.memory import Memory
from kamstrup_mqtt.polling.schedule import ACTIVE_S, CLOCK_S, Fault, Job, Kind, Schedule, Wake
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.quantities import duration
from kamstrup_mqtt.readout import Clock, Now, Readout
from kamstrup_mqtt.readout.status import LinkState, MeterStatus
from kamstrup_mqtt.store import Board, History

_NAP_S = 30.0  # a long wait looks at the wall clock now and then, for it may be set
_NAMED = 8  # missing registers that a line of the log names
_MEMORY = "schedule"  # the setting in the history

_log = logging.getLogger(__name__)

# One step of a job that goes on in small ones; tells whether there is more to do.
Step = Callable[[MeterSession], Awaitable[bool]]


class Poller:
    """The polling of one meter.

    Args:
        settings: what to read, and when.
        session: asks the meter; closed when the polling ends.
        history: where to write what was read.
        statuses: where to put how the meter is doing.
        clock: tells the time; that of the event loop is its monotonic one.

    """

    def __init__(
        self,
        settings: MeterConfig,
        session: MeterSession,
        history: History,
        statuses: Board[MeterStatus],
        clock: Clock = Now.read,
    ) -> None:
        zone = local_zone()
        self._settings = settings
        self._session = session
        self._history = history
        self._statuses = statuses
        self._clock = clock
        self._acquisition = Acquisition(settings, session, zone, clock)
        self._monitor = LinkMonitor()
        self._schedule = Schedule(settings, zone, clock())
        self._memory = Memory()  # as it is kept
        self._steps: dict[Kind, Step] = {}
        self._changed = asyncio.Event()  # the schedule may have something to do now
        self._began = False
        self._held_back = False
        self._alive_at = clock().monotonic  # when its loop last went round

    async def run(self) -> None:
        """Poll until cancelled; a meter or port that is absent is tried again."""
        try:
            if not self._began:
                await self._resume()
            while True:
                self._alive_at = self._clock().monotonic
                match self._schedule.next(self._clock()):
                    case Wake(at):
                        await self._wait(at)
                    case job:
                        await self._do(job)
        finally:
            await self._session.close()

    @property
    def alive_at(self) -> float:
        """When it last got on: its loop, or a telegram of a long readout."""
        return max(self._alive_at, self._clock().monotonic - self._session.idle_s)

    @property
    def complaint(self) -> str:
        """What is wrong with the reading, in words; "" when all is well."""
        if self._monitor.reason:
            return f"{self._settings.name}: {self._monitor.reason}"
        if self._monitor.last_readout is None:
            return f"{self._settings.name}: not read yet"
        return ""

    def request(self, registers: tuple[int, ...] = ()) -> None:
        """Make a readout as soon as may be, of these registers or of all that are configured."""
        self._schedule.request(registers)
        self._changed.set()

    def boost(self, seconds: float) -> None:
        """Poll at the active interval for so long."""
        self._schedule.boost(seconds, self._clock())
        every = duration(self._settings.active_interval_s or ACTIVE_S)
        _log.info("%s: reading every %s for %s", self._settings.name, every, duration(seconds))
        self._changed.set()

    def set_interval(self, seconds: float | None) -> None:
        """Poll at another interval, or with None at the configured moments again."""
        if self._schedule.set_interval(seconds, self._clock()):
            if self._began:
                self._explain()
            self._report()
            self._changed.set()

    def begin(self, kind: Kind, step: Step) -> None:
        """Do a job in small steps, whenever nothing else is due, until there is no more to do."""
        self._steps[kind] = step
        self._schedule.begin(kind)
        self._changed.set()

    def note_failure(self, cause: str) -> None:
        """Say in the state that the polling failed in a way nobody foresaw, and is started anew."""
        self._acquisition.forget()
        self._monitor.failed(KamstrupError(cause), self._clock())
        self._report()

    async def _resume(self) -> None:
        """Go on where an earlier run ended, and say in the log what is going to be done."""
        name, history, now = self._settings.name, self._history, self._clock()
        last = await history.latest(name)
        self._memory = Memory.from_json(await history.setting(name, _MEMORY))
        taken = last.time.timestamp() if last else None
        is_full = last is not None and last.covers(self._settings.registers)
        known = taken if is_full or (taken or 0.0) > now.wall else None
        self._schedule.resume(now, known, self._memory)
        self._began = True
        registers, port = len(self._settings.registers), self._settings.port
        _log.info("%s: reading %d registers from %s", name, registers, port)
        self._explain()
        if last is None:
            return
        self._acquisition.resume(last, now)
        wait_s = self._schedule.next_poll_s(now)
        if self._schedule.awaits_clock:
            _log.warning(
                "%s: the clock of this machine says less than at the last readout, %s: waiting %s "
                "at most for it to be set",
                name, last.time.isoformat(sep=" ", timespec="seconds"), duration(CLOCK_S),
            )  # fmt: skip
        elif wait_s > 0:
            _log.info("%s: read last at %s; next in %s", name, _clock_time(last), _about(wait_s))
            self._monitor.resume(last)
            self._report()

    async def _wait(self, at: float) -> None:
        """Wait until `at` or until something changes, but not so long as to miss a set clock."""
        now = self._clock()
        self._tell_held_back(now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(at - now.monotonic, _NAP_S)):
                await self._changed.wait()
        self._changed.clear()

    async def _do(self, job: Job) -> None:
        """Do `job`, and tell the schedule and the monitor what became of it."""
        try:
            readout = await self._ask(job)
        except KamstrupError as fault:
            now = self._clock()
            self._schedule.failed(job, _kind_of(fault), now)
            if job.kind in (Kind.POLL, Kind.REQUEST):
                self._monitor.failed(fault, now)
                self._schedule.slept |= self._monitor.state is LinkState.ASLEEP
                self._complain(now)
        except Exception:
            self._schedule.failed(job, Fault.UNUSABLE, self._clock())
            raise
        else:
            now = self._clock()
            self._schedule.done(job, now)
            if readout is not None:
                await self._note(job, readout, now)
        self._report()
        await self._remember()

    async def _ask(self, job: Job) -> Readout | None:
        match job.kind:
            case Kind.POLL | Kind.REQUEST:
                readout = await self._acquisition.take(job.registers)
                if job.is_full:
                    self._schedule.flowing = self._acquisition.flowing
                return readout
            case Kind.PING:
                await self._acquisition.ping()
            case Kind.ALIGN | Kind.BACKFILL:
                step = self._steps.pop(job.kind)
                self._schedule.stop(job.kind)
                if await step(self._session):
                    self.begin(job.kind, step)
        return None

    async def _note(self, job: Job, readout: Readout, now: Now) -> None:
        """Write what was read, after its state, so that whoever sees a value sees that too."""
        name, monitor = self._settings.name, self._monitor
        if monitor.failures or readout.meter.serial != monitor.meter.serial:
            _log.info("%s: %s", name, _introduce(readout))
        missing = monitor.missing
        monitor.heard(now)
        monitor.took(readout, is_full=job.is_full)
        if monitor.missing and monitor.missing != missing:
            _log.warning("%s: not read: %s", name, _reasons(readout))
        self._report()
        if readout.readings:
            await self._history.append(name, readout)

    async def _remember(self) -> None:
        if self._schedule.memory != self._memory:
            self._memory = self._schedule.memory
            await self._history.set_setting(self._settings.name, _MEMORY, self._memory.to_json())

    def _report(self) -> None:
        """Put up how the meter is doing, as soon as that is known."""
        session, interval_s = self._session, self._schedule.interval_s
        status = self._monitor.status(
            self._clock(), session.counters, session.quality, interval_s,
            self._acquisition.info_code,
        )  # fmt: skip
        if status is not None:
            self._statuses.put(self._settings.name, status)

    def _explain(self) -> None:
        for sentence in explained(self._settings, self._schedule):
            _log.info("%s: %s", self._settings.name, sentence)
        for sentence in warned(self._settings, self._schedule):
            _log.warning("%s: %s", self._settings.name, sentence)

    def _complain(self, now: Now) -> None:
        """Log a fault, but one that goes on only now and then."""
        monitor, left_s = self._monitor, self._schedule.next_poll_s(now)
        if monitor.is_news(now):
            _log.warning(
                "%s: %s%s. Next try in %s",
                self._settings.name, monitor.reason,
                f" ({monitor.failures} times in a row)" if monitor.failures > 1 else "",
                _about(left_s),
            )  # fmt: skip

    def _tell_held_back(self, now: Now) -> None:
        """Say once when the budget is used up."""
        free = self._schedule.free_at(now)
        if (free > now.monotonic) is not self._held_back:
            self._held_back = not self._held_back
            if self._held_back:
                _log.warning(
                    "%s: %s readings in 24 hours are all that max_readings_per_day allows: the "
                    "next one is possible in %s",
                    self._settings.name, self._settings.max_readings_per_day,
                    duration(math.ceil((free - now.monotonic) / 60) * 60),
                )  # fmt: skip


def _kind_of(fault: KamstrupError) -> Fault:
    if isinstance(fault, PortError):
        return Fault.PORT
    return Fault.SILENT if isinstance(fault, NoAnswerError) else Fault.UNUSABLE


def _about(seconds: float) -> str:
    """A time to wait, in whole minutes where it is long."""
    return duration(math.ceil(seconds / 60) * 60 if seconds > 120 else seconds)


def _clock_time(readout: Readout) -> str:
    return readout.time.isoformat(sep=" ", timespec="seconds")


def _introduce(readout: Readout) -> str:
    meter = readout.meter
    known = f"MULTICAL {meter.model}" if meter.model else f"type {meter.type_code or 'unknown'}"
    return f"serial number {meter.serial or 'unknown'} answers, {known}"


def _reasons(readout: Readout) -> str:
    named = [f"{name} ({reason})" for name, reason in readout.missing.items()]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"and {len(named) - _NAMED} more"]
    return ", ".join(named)
