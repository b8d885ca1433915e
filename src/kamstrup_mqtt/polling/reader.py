"""Reads one meter for ever: on the clock, and when somebody asks for it.

What it reads goes into the history, how the meter is doing onto a board; outputs follow both.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from kamstrup_mqtt.catalog import FLOW, INFO_CODE, register_name
from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError
from kamstrup_mqtt.kmp import MAX_REGISTERS, BitField
from kamstrup_mqtt.meter import MeterSession, Tap
from kamstrup_mqtt.polling.cache import Freshness
from kamstrup_mqtt.polling.link_state import SLEEPY_S, LinkMonitor
from kamstrup_mqtt.polling.plan import DAY_S, Plan
from kamstrup_mqtt.polling.schedule import retry_delay
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.polling.validation import Plausibility
from kamstrup_mqtt.quantities import duration
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout
from kamstrup_mqtt.readout.status import Counters, MeterStatus, Today
from kamstrup_mqtt.store import Board, History

_PORT_RETRY_S = 60.0  # looking for a port costs the meter's battery nothing
_SPARING_S = 20.0  # a meter that does not answer well is asked no more often, in the long run
_CLOCK_S = 120.0  # for the time to come from the network, on a machine that keeps none
_NAMED = 8  # missing registers that a line of the log names
_NAP_S = 30.0  # a long sleep looks at the clock now and then, for it may be set
_SET_S = 1.0  # a wall clock that moves more against the monotonic one was set
_REMINDER_S = 3600.0  # how often the log repeats a fault that goes on

_log = logging.getLogger(__name__)


class Reader:
    """The reading of one meter.

    Args:
        meter: what to read, and when.
        history: where to write what was read.
        statuses: where to put how the meter is doing.

    """

    def __init__(
        self,
        meter: MeterConfig,
        history: History,
        statuses: Board[MeterStatus],
        tap: Tap | None = None,
    ) -> None:
        self._alive_at = time.monotonic()  # when its loop last went round
        self._meter = meter
        self._history = history
        self._statuses = statuses
        self._session = MeterSession(meter.port, tap)
        self._monitor = LinkMonitor()
        self._freshness = Freshness(meter.registers)
        self._plausibility = Plausibility()
        self._plan = Plan(meter)
        self._asked = asyncio.Event()  # somebody wants something before the next reading is due
        self._wanted: dict[int, None] = {}  # the registers asked for, in order
        self._began = False
        self._failures = 0
        self._said: tuple[str, float] = ("", 0.0)  # the last fault in the log, and when
        self._reason = ""
        self._identity = MeterIdentity()
        self._last_readout: datetime | None = None
        self._missing: dict[str, str] = {}
        self._today = _now().date()
        self._at_midnight = Counters()
        self._info_code: int | None = None

    @property
    def alive_at(self) -> float:
        """When it last got on: its loop, or a telegram of a long readout."""
        return max(self._alive_at, time.monotonic() - self._session.idle_s)

    @property
    def complaint(self) -> str:
        """What is wrong with the reading, in words; "" when all is well."""
        if self._reason:
            return f"{self._meter.name}: {self._reason}"
        if self._last_readout is None:
            return f"{self._meter.name}: not read yet"
        return ""

    def read_now(self, registers: tuple[int, ...] | None = None) -> None:
        """Make a readout now, of all configured registers or of these."""
        self._wanted |= dict.fromkeys(registers or self._meter.registers)
        self._asked.set()

    def read_faster(self, seconds: float) -> None:
        """Make readouts at the active interval for so long."""
        self._plan.hurry(seconds)
        self._asked.set()

    def set_interval(self, seconds: float | None) -> None:
        """Read at another interval, or with None at the configured moments again."""
        if self._plan.set_interval(seconds):
            self._report()
            self._asked.set()

    def note_failure(self, cause: str) -> None:
        """Say in the state that the reading failed in a way nobody foresaw, and is started anew."""
        self._failures += 1
        self._reason = cause
        self._monitor.failed(KamstrupError(self._reason), _now(), time.monotonic())
        self._report()

    async def run(self) -> None:
        """Read until cancelled; a meter or port that is absent is tried again."""
        self._freshness.forget()  # it may be what made an earlier try fail
        if not self._began:
            self._began = True
            await self._go_on_from_earlier()
            _log.info(
                "%s: reading %d registers from %s",
                self._meter.name,
                len(self._meter.registers),
                self._meter.port,
            )
            self._plan.introduce()
        due: float | None = None
        wake = self._next_try(self._plan.next_due(None)) if self._failures else time.time()
        try:
            registers = await self._wait(wake, fault=self._failures > 0)
            while True:
                fault = await self._read(registers)
                due = wake = self._plan.next_due(due)
                if fault is not None:
                    wake = self._next_try(due, is_port=isinstance(fault, PortError))
                    self._complain(fault, wake)
                registers = await self._wait(wake, fault=fault is not None)
        finally:
            await self._session.close()

    async def _read(self, registers: tuple[int, ...]) -> KamstrupError | None:
        """Make one readout and write it; what went wrong is returned."""
        complete = set(registers) >= set(self._meter.registers)
        try:
            readout = await self._ask(registers, complete=complete)
            if self._is_another(readout.meter):
                self._freshness.forget()
                readout = await self._ask(registers, complete=complete)
        except Exception as fault:
            if not isinstance(fault, PortError | NoAnswerError):  # a silent meter spends nothing
                self._plan.spend()
            if not isinstance(fault, KamstrupError):
                raise
            self._failures += 1
            self._reason = str(fault)
            self._monitor.failed(fault, _now(), time.monotonic())
            self._report()
            return fault
        self._plan.spend()
        if self._failures or readout.meter.serial != self._identity.serial:
            _log.info("%s: %s", self._meter.name, _introduce(readout))
        self._reason, self._said = "", ("", 0.0)
        self._identity = readout.meter
        self._monitor.heard(_now(), time.monotonic())
        if complete and self._missing != readout.missing:
            self._missing = dict(readout.missing)
            if self._missing:
                _log.warning("%s: not read: %s", self._meter.name, _reasons(readout))
        if readout.readings:
            self._last_readout = readout.time
        self._report()
        if readout.readings:
            await self._history.append(self._meter.name, readout)
        self._failures = 0
        return None

    async def _ask(self, registers: tuple[int, ...], *, complete: bool) -> Readout:
        """Ask the meter for what is due of `registers`; gives all of them, and what can be."""
        if not complete:
            return await self._held_to_reason(await self._session.read(registers))
        if not self._session.is_open:  # perhaps another meter: nothing known holds any more
            self._freshness.forget()
        due = self._freshness.due(time.monotonic()) or registers[:1]
        along = [FLOW] if self._meter.active_interval_s else []
        # The info code comes along where it costs no telegram of its own.
        along += [INFO_CODE] if (len(due) + len(along)) % MAX_REGISTERS else []
        readout = await self._session.read([*due, *along])
        self._info_code = _number(readout, INFO_CODE, self._info_code)
        self._plan.flowing = bool(_number(readout, FLOW, 0))
        readout = await self._held_to_reason(readout.only(registers))
        return self._freshness.complete(readout, time.monotonic())

    def _is_another(self, meter: MeterIdentity) -> bool:
        """Whether that is surely not the meter of the last readout."""
        return None not in (self._identity.serial, meter.serial) and (
            meter.serial != self._identity.serial
        )

    async def _go_on_from_earlier(self) -> None:
        """Let what an earlier run read last say what can be now: the clock, and the totals."""
        last = await self._history.latest(self._meter.name)
        if last is not None:
            await self._wait_for_clock(last)
            age_s = max(0.0, time.time() - last.time.timestamp())
            self._plausibility.accept(last, time.monotonic() - age_s, {})
        if self._meter.max_readings_per_day is not None:
            since = datetime.now(UTC) - timedelta(seconds=DAY_S)
            self._plan.remember(await self._history.times(self._meter.name, since))

    async def _wait_for_clock(self, last: Readout) -> None:
        """Wait a while for a clock that says less than at the last readout."""
        taken = last.time.timestamp()
        if time.time() < taken:
            _log.warning(
                "%s: the clock of this machine says less than at the last readout, %s: waiting %s "
                "at most for it to be set",
                self._meter.name,
                last.time.isoformat(sep=" ", timespec="seconds"),
                duration(_CLOCK_S),
            )
            end = time.monotonic() + _CLOCK_S
            while time.time() < taken and time.monotonic() < end:
                self._alive_at = time.monotonic()
                await asyncio.sleep(1)

    async def _held_to_reason(self, readout: Readout) -> Readout:
        """`readout` without totals that cannot be and that the meter does not say twice."""
        doubtful = self._plausibility.doubtful(readout, time.monotonic())
        for register, reason in doubtful.items():
            _log.warning(
                "%s: %s %s: asking again", self._meter.name, register_name(register), reason
            )
        if doubtful:
            self._session.count_implausible(len(doubtful))
            self._session.doubt_identity()
            repeated = Readout(readout.meter, readout.time, {}, {})
            with contextlib.suppress(KamstrupError):  # what is not doubtful is not lost by it
                repeated = await self._session.read(doubtful)
            if self._is_another(repeated.meter):
                return replace(readout, meter=repeated.meter)
            again = repeated.readings
            readings, missing = dict(readout.readings), dict(readout.missing)
            still = self._plausibility.doubtful(repeated, time.monotonic())
            for register in doubtful:
                first, second = readings[register], again.get(register)
                if second is not None and (register not in still or _agree(first, second)):
                    readings[register] = second
                else:
                    del readings[register]
                    missing[register_name(register)] = "implausible, and not confirmed"
            readout = Readout(readout.meter, readout.time, readings, missing)
        self._plausibility.accept(readout, time.monotonic(), doubtful)
        return readout

    async def _wait(self, wake: float, *, fault: bool = False) -> tuple[int, ...]:
        """Wait until `wake`, or until somebody asks; gives the registers to read then.

        It waits on the monotonic clock. A wall clock that is set meanwhile never prolongs an
        interval; moments such as midnight move with it, but not the next try after a `fault`.
        """
        offset = time.time() - time.monotonic()
        end = wake - offset
        while True:
            end = max(end, self._plan.free_at())
            if (left := end - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(min(left, _NAP_S)):
                        await self._asked.wait()
                except TimeoutError:
                    await self._keep_awake(left)
            asked = self._asked.is_set()
            self._asked.clear()
            free = self._plan.free_at()
            self._alive_at = clock = time.monotonic()
            if clock >= end:
                return self._take_wanted(self._meter.registers)
            if self._wanted and free <= clock:
                return self._take_wanted(tuple(self._wanted))
            moved = time.time() - clock - offset
            if not asked and abs(moved) < _SET_S:
                continue
            offset += moved
            if time.time() >= wake:  # the clock jumped over it
                end = clock
                continue
            wake = self._plan.next_due(None)
            moves = not fault and (asked or self._plan.is_cron)
            end = wake - offset if moves else min(end, wake - offset)

    def _take_wanted(self, registers: tuple[int, ...]) -> tuple[int, ...]:
        """Give `registers` to read now; what else is wanted is read next."""
        for register in registers:
            self._wanted.pop(register, None)
        if self._wanted:
            self._asked.set()
        return registers

    async def _keep_awake(self, left_s: float) -> None:
        """Ask the cheapest question there is before the meter falls asleep."""
        if self._plan.keeps_awake and left_s > _NAP_S and self._session.idle_s > SLEEPY_S - _NAP_S:
            await self._session.ping()
            self._report()

    def _next_try(self, due: float, *, is_port: bool = False) -> float:
        """When to try again after a fault: sooner than `due`, but a meter is spared in the end."""
        now = time.time()
        if is_port:
            return min(due, now + retry_delay(self._failures, _PORT_RETRY_S))
        delay_s = retry_delay(self._failures, max(self._plan.interval_s, _SPARING_S))
        return min(max(due, now + _SPARING_S), now + delay_s)

    def _complain(self, fault: KamstrupError, wake: float) -> None:
        """Log a fault, but one that goes on only now and then."""
        said, at = self._said
        if said == str(fault) and time.monotonic() < at + _REMINDER_S:
            return
        self._said = (str(fault), time.monotonic())
        again = f" ({self._failures} times in a row)" if self._failures > 1 else ""
        left = duration(max(0.0, wake - time.time()))
        _log.warning("%s: %s%s. Next try in %s", self._meter.name, fault, again, left)

    def _report(self) -> None:
        """Put up how the meter is doing, as soon as that is known."""
        if self._monitor.state is None or self._monitor.since is None:
            return
        counters = self._session.counters
        today = _now().date()
        if today != self._today:
            self._today, self._at_midnight = today, counters
        status = MeterStatus(
            state=self._monitor.state,
            since=self._monitor.since,
            reason=self._reason,
            last_readout=self._last_readout,
            meter=self._identity,
            missing=self._missing,
            info_code=self._info_code,
            interval_s=self._plan.interval_s,
            quality=self._session.quality,
            counters=counters,
            today=Today(
                counters.telegrams - self._at_midnight.telegrams,
                counters.bytes - self._at_midnight.bytes,
            ),
        )
        self._statuses.put(self._meter.name, status)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


def _number(readout: Readout, register: int, otherwise: int | None) -> int | None:
    """A whole number that came along with a readout."""
    reading = readout.readings.get(register)
    value = reading.value if reading else None
    if not isinstance(value, Decimal | BitField) or value != int(value):
        return otherwise
    return int(value)


def _agree(first: Reading, second: Reading) -> bool:
    """Whether a total was said twice, but for what was counted meanwhile."""
    if not isinstance(first.value, Decimal) or not isinstance(second.value, Decimal):
        return False
    digit = Decimal(1).scaleb(int(second.value.as_tuple().exponent))
    return first.unit == second.unit and 0 <= second.value - first.value <= 2 * digit


def _introduce(readout: Readout) -> str:
    meter = readout.meter
    known = f"MULTICAL {meter.model}" if meter.model else f"type {meter.type_code or 'unknown'}"
    return f"serial number {meter.serial or 'unknown'} answers, {known}"


def _reasons(readout: Readout) -> str:
    named = [f"{name} ({reason})" for name, reason in readout.missing.items()]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"and {len(named) - _NAMED} more"]
    return ", ".join(named)
