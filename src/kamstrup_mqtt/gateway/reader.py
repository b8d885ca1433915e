"""Reads one meter for ever: on the clock, and when somebody asks for it.

What it reads goes into the history, how the meter is doing onto a board; outputs follow both.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from decimal import Decimal

from kamstrup_mqtt.catalog import INFO_CODE
from kamstrup_mqtt.errors import KamstrupError, PortError
from kamstrup_mqtt.gateway.config import MeterConfig
from kamstrup_mqtt.gateway.schedule import duration, next_due, retry_delay
from kamstrup_mqtt.kmp import MAX_REGISTERS, BitField
from kamstrup_mqtt.meter import LinkMonitor, MeterSession
from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.status import MeterStatus
from kamstrup_mqtt.store import Board, History

STANDBY_S = 30 * 60  # without a question for so long, a meter goes to sleep (kmp.md, 1)
_PORT_RETRY_S = 60.0  # looking for a port costs the meter's battery nothing
_NAMED = 8  # missing registers that a line of the log names
_NAP_S = 60.0  # a long sleep looks at the clock now and then, for it may be set

_log = logging.getLogger(__name__)


class Reader:
    """The reading of one meter.

    Args:
        meter: what to read, and when.
        history: where to write what was read.
        statuses: where to put how the meter is doing.

    """

    def __init__(self, meter: MeterConfig, history: History, statuses: Board[MeterStatus]) -> None:
        self._meter = meter
        self._history = history
        self._statuses = statuses
        self._session = MeterSession(meter.port)
        self._monitor = LinkMonitor()
        self._interval_s = meter.interval_s
        self._asked = asyncio.Event()  # somebody wants something before the next reading is due
        self._wanted: dict[int, None] = {}  # the registers asked for, in order
        self._failures = 0
        self._reason = ""
        self._identity = MeterIdentity()
        self._last_readout: datetime | None = None
        self._missing: dict[str, str] = {}
        self._info_code: int | None = None

    def read_now(self, registers: tuple[int, ...] | None = None) -> None:
        """Make a readout now, of all configured registers or of these."""
        self._wanted |= dict.fromkeys(registers or self._meter.registers)
        self._asked.set()

    def set_interval(self, seconds: float | None) -> None:
        """Read at another interval, or with None at the configured one again."""
        seconds = self._meter.interval_s if seconds is None else seconds
        if seconds != self._interval_s:
            self._interval_s = seconds
            _log.info("%s: reading every %s from now on", self._meter.name, duration(seconds))
            self._warn_of_sleep()
            self._report()
            self._asked.set()

    async def run(self) -> None:
        """Read until cancelled; a meter or port that is absent is tried again."""
        _log.info(
            "%s: reading %d registers from %s every %s",
            self._meter.name,
            len(self._meter.registers),
            self._meter.port,
            duration(self._interval_s),
        )
        self._warn_of_sleep()
        due: float | None = None
        registers: tuple[int, ...] = self._meter.registers
        try:
            while True:
                fault = await self._read(registers)
                due = wake = self._next_due(due)
                if fault is not None:
                    wake = min(due, time.time() + self._retry_delay(fault))
                    left = duration(wake - time.time())
                    _log.warning("%s: %s. Next try in %s", self._meter.name, fault, left)
                registers = await self._wait(wake)
        finally:
            await self._session.close()

    async def _read(self, registers: tuple[int, ...]) -> KamstrupError | None:
        """Make one readout and put it up; what went wrong is returned."""
        complete = set(registers) >= set(self._meter.registers)
        # The info code comes along where it costs no telegram of its own.
        room = complete and len(registers) % MAX_REGISTERS
        asked = (*registers, INFO_CODE) if room else registers
        try:
            readout = await self._session.read(asked)
        except KamstrupError as fault:
            self._failures += 1
            self._reason = str(fault)
            self._monitor.failed(fault, _now(), time.monotonic())
            self._report()
            return fault
        if self._failures or self._last_readout is None:
            _log.info("%s: %s", self._meter.name, _introduce(readout))
        self._failures, self._reason = 0, ""
        self._identity = readout.meter
        self._monitor.heard(_now(), time.monotonic())
        if complete:
            self._info_code = _info_code(readout)
        readout = readout.only(registers)
        if complete and self._missing != readout.missing:
            self._missing = dict(readout.missing)
            if self._missing:
                _log.warning("%s: not read: %s", self._meter.name, _reasons(readout))
        if readout.readings:
            self._last_readout = readout.time
        self._report()
        if readout.readings:
            await self._history.append(self._meter.name, readout)
        return None

    async def _wait(self, wake: float) -> tuple[int, ...]:
        """Wait until `wake`, or until somebody asks; gives the registers to read then."""
        # A clock that was set back ends the wait rather than prolonging it.
        while 0 < (left := wake - time.time()) <= self._interval_s + 1:
            try:
                async with asyncio.timeout(min(left, _NAP_S)):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()
            if self._wanted:
                break
            wake = self._next_due(None)  # the interval is another one
        wanted, self._wanted = tuple(self._wanted), {}
        return wanted or self._meter.registers

    def _next_due(self, previous: float | None) -> float:
        now = time.time()
        offset = datetime.fromtimestamp(now).astimezone().utcoffset()
        return next_due(now, offset.total_seconds() if offset else 0.0, self._interval_s, previous)

    def _retry_delay(self, fault: KamstrupError) -> float:
        longest_s = _PORT_RETRY_S if isinstance(fault, PortError) else self._interval_s
        return retry_delay(self._failures, longest_s)

    def _warn_of_sleep(self) -> None:
        if self._interval_s > STANDBY_S:
            _log.warning(
                "%s: meters fall asleep after about 30 minutes without a question, and the "
                "interval is %s: a shorter one keeps the meter awake",
                self._meter.name,
                duration(self._interval_s),
            )

    def _report(self) -> None:
        """Put up how the meter is doing, as soon as that is known."""
        if self._monitor.state is None or self._monitor.since is None:
            return
        self._statuses.put(
            self._meter.name,
            MeterStatus(
                self._monitor.state,
                self._monitor.since,
                self._reason,
                self._last_readout,
                self._identity,
                self._missing,
                self._info_code,
                self._interval_s,
                self._session.quality,
                self._session.counters,
            ),
        )


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


def _info_code(readout: Readout) -> int | None:
    reading = readout.readings.get(INFO_CODE)
    value = reading.value if reading else None
    return int(value) if isinstance(value, Decimal | BitField) else None


def _introduce(readout: Readout) -> str:
    meter = readout.meter
    known = f"MULTICAL {meter.model}" if meter.model else f"type {meter.type_code or 'unknown'}"
    return f"serial number {meter.serial or 'unknown'} answers, {known}"


def _reasons(readout: Readout) -> str:
    named = [f"{name} ({reason})" for name, reason in readout.missing.items()]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"and {len(named) - _NAMED} more"]
    return ", ".join(named)
