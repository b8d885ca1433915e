"""Polls one meter for ever: waits for the next job, does it, and tells what became of it.

What it reads goes into the history, how the meter is doing onto a board; outputs follow both. When
to ask is decided by the schedule, what to ask and to believe by the acquisition.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from kamstrup_mqtt.consumption import local_zone
from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.polling.acquisition import Acquisition
from kamstrup_mqtt.polling.job import Fault, Job, Kind, Wake
from kamstrup_mqtt.polling.link_state import LinkMonitor
from kamstrup_mqtt.polling.log import PollLog
from kamstrup_mqtt.polling.memory import Memory
from kamstrup_mqtt.polling.schedule import Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import Clock, Now, Readout
from kamstrup_mqtt.readout.status import LinkState, MeterStatus
from kamstrup_mqtt.store import Board, History

_NAP_S = 30.0  # a long wait looks at the wall clock now and then, for it may be set
_MEMORY = "schedule"  # the setting in the history

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
        self._log = PollLog(settings, self._schedule, self._monitor)
        self._memory = Memory()  # as it is kept
        self._steps: dict[Kind, Step] = {}
        self._changed = asyncio.Event()  # the schedule may have something to do now
        self._began = False
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
        self._log.boost(seconds)
        self._changed.set()

    def set_interval(self, seconds: float | None) -> None:
        """Poll at another interval, or with None at the configured moments again."""
        if self._schedule.set_interval(seconds, self._clock()):
            if self._began:
                self._log.explain()
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
        self._log.begins(last, now)
        if last is not None:
            self._acquisition.resume(last, now)
            if self._schedule.next_poll_s(now) > 0:
                self._monitor.resume(last)
                self._report()

    async def _wait(self, at: float) -> None:
        """Wait until `at` or until something changes, but not so long as to miss a set clock."""
        now = self._clock()
        self._log.budget(now)
        await self._remember()  # the clock may have been set
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(at - now.monotonic, _NAP_S)):
                await self._changed.wait()
        self._changed.clear()

    async def _do(self, job: Job) -> None:
        """Do `job`, and tell the schedule and the monitor what became of it."""
        readout = None
        try:
            readout = await self._ask(job)
        except KamstrupError as fault:
            now = self._clock()
            self._schedule.failed(job, _kind_of(fault), now)
            if job.kind in (Kind.POLL, Kind.REQUEST) or isinstance(fault, PortError):
                self._monitor.failed(fault, now)
                self._log.fault(now)
            if self._monitor.state is LinkState.ASLEEP and not self._schedule.slept:
                self._schedule.slept = True
                self._log.explain()
        except Exception:
            self._schedule.failed(job, Fault.UNUSABLE, self._clock())
            raise
        else:
            now = self._clock()
            self._schedule.done(job, now)
            if readout is not None:
                self._note(job, readout, now)
        self._report()  # before the readout: whoever sees a value is to see its state
        if readout is not None and readout.readings:
            await self._history.append(self._settings.name, readout)
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
                if not await self._steps[job.kind](self._session):
                    self._schedule.stop(job.kind)
                    del self._steps[job.kind]
        return None

    def _note(self, job: Job, readout: Readout, now: Now) -> None:
        """Tell the monitor, and say in the log what is new."""
        monitor = self._monitor
        is_known = monitor.has_heard and readout.meter.serial == monitor.meter.serial
        if monitor.failures or not is_known:
            self._log.answers(readout)
        missing = monitor.missing
        monitor.heard(now)
        monitor.took(readout, is_full=job.is_full)
        if monitor.missing and monitor.missing != missing:
            self._log.missing(readout)

    async def _remember(self) -> None:
        memory = self._schedule.memory
        if memory != self._memory:
            self._memory = memory
            await self._history.set_setting(self._settings.name, _MEMORY, memory.to_json())

    def _report(self) -> None:
        """Put up how the meter is doing, as soon as that is known."""
        session, interval_s = self._session, self._schedule.interval_s
        status = self._monitor.status(
            self._clock(), session.counters, session.quality, interval_s,
            self._acquisition.info_code,
        )  # fmt: skip
        if status is not None:
            self._statuses.put(self._settings.name, status)


def _kind_of(fault: KamstrupError) -> Fault:
    if isinstance(fault, PortError):
        return Fault.PORT
    return Fault.SILENT if isinstance(fault, NoAnswerError) else Fault.UNUSABLE
