"""Polls one meter until cancelled: waits for the next job, does it, and tells what became of it.

What it reads goes into the history, how the meter is doing onto a board; outputs follow both. When
to ask is decided by the schedule, what to ask and to believe by the acquisition.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from copy import deepcopy

from kamstrup_mqtt.consumption import local_zone
from kamstrup_mqtt.errors import KamstrupError, PortError
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.polling.acquisition import Acquisition
from kamstrup_mqtt.polling.job import Fault, Job, Kind, Wake
from kamstrup_mqtt.polling.memory import Memory
from kamstrup_mqtt.polling.reporter import Reporter
from kamstrup_mqtt.polling.schedule import Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import Clock, Lacking, Now, Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, History, HistoryAwayError

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
        self._clock = clock
        self._acquisition = Acquisition(settings, session, zone, clock)
        self._schedule = Schedule(settings, zone, clock())
        self._reporter = Reporter(settings, self._schedule, session, statuses)
        self._memory = Memory()  # as it is kept
        self._lacking: Lacking = {}  # as it is kept
        self._steps: dict[Kind, Step] = {}
        self._changed = asyncio.Event()  # the schedule may have something to do now
        self._began = False
        self._is_recalled = True  # whether it is known what is kept of the meter
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
            if self._began:
                await self._remember()  # what the disk did not take when it was news

    @property
    def alive_at(self) -> float:
        """When it last got on: its loop, or a telegram of a long readout."""
        return max(self._alive_at, self._clock().monotonic - self._session.idle_s)

    @property
    def complaint(self) -> str:
        """What is wrong with the reading, in words; "" when all is well."""
        return self._reporter.complaint

    def request(self, registers: tuple[int, ...] = ()) -> None:
        """Make a readout as soon as may be, of these registers or of all that are configured."""
        self._schedule.request(registers)
        self._changed.set()

    def boost(self, seconds: float) -> None:
        """Poll at the active interval for so long."""
        self._schedule.boost(seconds, self._clock())
        self._reporter.boosted(seconds, self._clock())
        self._changed.set()

    def set_interval(self, seconds: float | None) -> None:
        """Poll at another interval, or with None at the configured moments again."""
        if self._schedule.set_interval(seconds, self._clock()) and self._began:
            self._reporter.planned(self._clock())
            self._changed.set()

    def begin(self, kind: Kind, step: Step) -> None:
        """Do a job in small steps, whenever nothing else is due, until there is no more to do."""
        self._steps[kind] = step
        self._schedule.begin(kind)
        self._changed.set()

    def note_failure(self, cause: str) -> None:
        """Say in the state that the polling failed in a way nobody foresaw, and is started anew."""
        self._acquisition.forget()
        self._reporter.broke(cause, self._clock())

    async def _resume(self) -> None:
        """Go on where an earlier run ended."""
        now, latest, full = self._clock(), None, None
        try:
            latest, full = await self._recall()
        except HistoryAwayError:  # then it is as if nothing was read before
            self._is_recalled = False
        self._schedule.resume(now, self._memory, _taken(full), _taken(latest))
        self._began = True
        for readout in (full, latest):  # the latest may be of some registers only
            if readout is not None:
                self._acquisition.resume(readout, now)
        self._reporter.begins(latest, full, now)

    async def _recall(self) -> tuple[Readout | None, Readout | None]:
        """What is kept of the meter: its latest readout, and its latest full one."""
        name, history = self._settings.name, self._history
        self._memory = Memory.from_json(await history.setting(name, _MEMORY))
        self._lacking = await history.lacking()
        self._session.lacking = deepcopy(self._lacking)
        latest = await history.latest(name)
        # What the meter does not have is missing in the history, and no reason to read again.
        lacking = set[int]().union(*self._lacking.values())
        expected = [r for r in self._settings.registers if r not in lacking]
        full = await history.latest(name, expected)
        return (latest.readout if latest else None), (full.readout if full else None)

    async def renamed(self) -> None:
        """Take over what is kept of the meter, which was read under another name until now."""
        with contextlib.suppress(HistoryAwayError):
            kept = await self._history.setting(self._settings.name, _MEMORY)
            self._schedule.recall(Memory.from_json(kept), self._clock())
            self._is_recalled = True

    async def _wait(self, at: float) -> None:
        """Wait until `at` or until something changes, but not so long as to miss a set clock."""
        now = self._clock()
        self._reporter.waits(now)
        await self._remember()  # the clock may have been set
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(at - now.monotonic, _NAP_S)):
                await self._changed.wait()
        self._changed.clear()

    async def _do(self, job: Job) -> None:
        """Do `job`, and tell the schedule and the reporter what became of it."""
        readout = None
        await self._remember()  # who is killed meanwhile has asked the meter too
        try:
            readout = await self._ask(job)
        except KamstrupError as fault:
            self._failed(job, fault, self._clock())
        except Exception:
            self._schedule.failed(job, Fault.UNUSABLE, self._clock())
            raise
        else:
            now = self._clock()
            self._schedule.done(job, now)
            self._heard(job, readout, now)
        self._reporter.put(self._clock())  # first: whoever sees a value is to see its state
        if readout is not None and readout.readings:
            await self._history.append(self._settings.name, readout)
        await self._remember()

    async def _ask(self, job: Job) -> Readout | None:
        match job.kind:
            case Kind.POLL | Kind.REQUEST:
                readout = await self._acquisition.take(job.registers)
                self._reporter.info_code = self._acquisition.info_code
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

    def _heard(self, job: Job, readout: Readout | None, now: Now) -> None:
        if readout is not None and readout.meter.is_other_than(self._reporter.meter):
            self._schedule.slept = False
        woke = self._reporter.heard(job, readout, now)
        if woke and not self._schedule.slept:
            self._schedule.slept = True
            self._reporter.planned(now)

    def _failed(self, job: Job, error: KamstrupError, now: Now) -> None:
        fault = Fault.UNUSABLE
        if not self._session.was_answered:
            fault = Fault.PORT if isinstance(error, PortError) else Fault.SILENT
        self._schedule.failed(job, fault, now)
        self._reporter.failed(job, error, now)

    async def _remember(self) -> None:
        if not self._is_recalled:  # what is kept is not written over before it was read
            with contextlib.suppress(HistoryAwayError):
                self._lacking = await self._history.lacking()
                self._session.lacking = deepcopy(self._lacking) | self._session.lacking
                await self.renamed()
            return
        found = deepcopy(self._session.lacking)
        if found != self._lacking and await self._history.note_lacking(found):
            self._lacking = found
        memory = self._schedule.memory
        if memory.is_news(self._memory) and await self._history.set_setting(
            self._settings.name, _MEMORY, memory.to_json()
        ):
            self._memory = memory


def _taken(readout: Readout | None) -> float | None:
    return readout.time.timestamp() if readout else None
