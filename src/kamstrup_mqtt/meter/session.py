"""A session with one meter: asks for registers and gives a checked `Readout`.

It asks for 8 registers a telegram, identifies the meter once a connection, and repeats only what is
missing. It never publishes, stores or schedules.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace

from kamstrup_mqtt.catalog import register_name, register_numbers, unit_symbol
from kamstrup_mqtt.errors import (
    KamstrupError,
    NoAnswerError,
    PortError,
    UsageError,
)
from kamstrup_mqtt.kmp import (
    MAX_REGISTERS,
    GetRegisterRequest,
    GetSerialNoRequest,
    RegisterValue,
    Request,
)
from kamstrup_mqtt.meter.identification import LINE_FAULTS, SERIAL_NUMBER, Identification
from kamstrup_mqtt.meter.link import Link, Tap
from kamstrup_mqtt.meter.transaction import AnswerT, Transactions
from kamstrup_mqtt.meter.tries import RETRIES, Tries, reason
from kamstrup_mqtt.readout import NOT_IN_METER, Clock, Lacking, MeterIdentity, Now, Reading, Readout
from kamstrup_mqtt.readout.status import Counters

LACKING_S = 7 * 86400.0  # how long a register the meter left out is not asked for again

_log = logging.getLogger(__name__)


class _AnotherMeterError(Exception):
    """Another meter than the one whose readings there are, or perhaps another one, answers."""


@dataclass(slots=True)
class _Gathering:
    """The readings of a readout under way, which are all of one meter."""

    connection: int  # on which that meter is
    meter: MeterIdentity | None = None  # None before the first reading
    readings: dict[int, Reading] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)  # registers of which no answer came

    def unread(self, registers: Iterable[int]) -> list[int]:
        """Those of `registers` that are neither read nor lost."""
        return [r for r in registers if r not in self.readings and r not in self.lost]


class MeterSession:
    """One meter on one line, given by its port or as it is. Made by `open_meter`, which closes it.

    The line is reopened by itself when it hung up. `identity` is asked for once a connection, and
    whether it is still the same meter after a pause, or when somebody doubts it.
    """

    def __init__(
        self, line: str | Link, tap: Tap | None = None, *, clock: Clock = Now.read
    ) -> None:
        self.lacking: Lacking = {}
        self._link = line if isinstance(line, Link) else Link(line, tap)
        self._transactions = Transactions(self._link)
        self._clock = clock
        self._lock = asyncio.Lock()  # half duplex: one readout at a time
        self._who = Identification()
        self.read_on = 0  # the connection on which the last readout came
        self._silent = False  # whether the last readout heard nothing
        self._tries = Tries()  # of the readout under way
        self._begun_at = 0.0  # the loop's time

    @property
    def identity(self) -> MeterIdentity:
        """Who was met last on this connection."""
        return self._who.meter

    @property
    def counters(self) -> Counters:
        """What happened on the line so far; a copy."""
        return replace(self._transactions.counters)

    @property
    def quality(self) -> int | None:
        """Percent of the latest telegrams that got a usable answer; None before the first."""
        return self._transactions.quality

    @property
    def connection(self) -> int:
        """The number of the connection; what was read on an earlier one may be another meter's."""
        return self._link.connection

    @property
    def idle_s(self) -> float:
        """Seconds since the meter was asked last."""
        return asyncio.get_running_loop().time() - self._transactions.asked_at

    @property
    def was_answered(self) -> bool:
        """Whether anything came back in the latest readout, though perhaps nothing of use."""
        return self._transactions.heard_at >= self._begun_at

    def count_implausible(self, number: int) -> None:
        """Note that so many values, though undamaged, could not be."""
        self._transactions.counters.implausible += number

    async def ping(self) -> None:
        """Ask the cheapest question there is, once.

        Raises:
            KamstrupError: as `read` does, when no usable answer came.

        """
        async with self._lock:
            await self._begin()
            try:
                answer = await self._ask_once(GetSerialNoRequest())
            except KamstrupError:
                self._who.doubt()  # the head may be on its way to another meter
                raise
            self._who.hear(str(answer.serial))

    def doubt_identity(self) -> None:
        """Have the next readout ask who is there."""
        self._who.doubt()

    async def open(self) -> None:
        """Open the line, if it is not, and forget who was on it before. Raises PortError."""
        await self._link.open()
        self._move()

    def _move(self) -> None:
        """Take note of the connection: on another one there may be another meter."""
        if self._who.connection != self._link.connection:
            self.lacking.pop(("", ""), None)  # of a meter that does not say who it is
        self._who.move(self._link.connection)

    async def close(self) -> None:
        """Close the line."""
        await self._link.close()

    async def read(self, parameters: Iterable[str | int], *, anew: bool = False) -> Readout:
        """Read parameters in as few telegrams as the meter allows.

        Args:
            parameters: names in any case, register numbers, or `all`.
            anew: ask also for what the meter did not have lately.

        Returns:
            What was read. A register that the meter does not have, or that could not be read while
            others could, is in `missing` with the reason.

        Raises:
            UsageError: a parameter does not exist.
            PortError: the line cannot be opened, or was lost for good.
            NoAnswerError: the meter did not answer at all.
            TelegramError: it answered, and no answer was usable.

        """
        if isinstance(parameters, str):
            parameters = [parameters]
        registers = register_numbers(parameters)
        if not registers:
            raise UsageError("no parameters to read: name at least one, or `all`")
        async with self._lock:
            await self._begin()
            try:
                readout = await self._read_one_meter(registers, anew=anew)
            except NoAnswerError:
                # A peer that vanished without a word looks the same, and who answers next may be
                # another meter: begin anew.
                self._silent = True
                await self.close()
                raise
            self._silent = False
            return readout

    async def _begin(self) -> None:
        self._begun_at = asyncio.get_running_loop().time()
        self._tries = Tries(was_silent=self._silent)
        await self.open()

    async def _read_one_meter(self, registers: tuple[int, ...], *, anew: bool) -> Readout:
        """A readout of one meter, begun anew where another one answers amid it."""
        if self._link.is_tapped or not self._who.will_be_told(len(registers)):
            await self._ask_serial()
        for _ in range(1 + RETRIES):
            with contextlib.suppress(_AnotherMeterError):
                return await self._read(registers, anew=anew)
            await self._ask_serial()
        raise self._hung_up()

    async def _read(self, registers: tuple[int, ...], *, anew: bool) -> Readout:
        started = self._clock().moment
        absent = [] if anew else [r for r in registers if r in self._known_lacking]
        asked = [r for r in registers if r not in absent]
        gathered = _Gathering(self._who.connection)
        await self._collect(asked, gathered)
        left_out = gathered.unread(asked)
        in_vain = 0  # a register that two more answers leave out is not in this meter
        while left_out and in_vain < RETRIES:
            known = len(gathered.readings)
            await self._collect(left_out, gathered)
            left_out = gathered.unread(asked)
            in_vain = 0 if len(gathered.readings) > known else in_vain + 1
        if self._tries.faults and not self._tries.heard:
            raise self._tries.verdict()
        await self._ask_serial()
        await self._who.ask_type(self._ask_once)
        meter = gathered.meter or MeterIdentity()
        if gathered.connection == self._who.connection:
            meter = self._who.sure_meter
        if gathered.readings:  # a meter that leaves out everything has lost more than registers
            self._note_lacking(meter, left_out)
        self.read_on = gathered.connection
        reasons = dict.fromkeys(left_out + absent, NOT_IN_METER)
        if gathered.lost:
            reasons |= dict.fromkeys(gathered.lost, reason(self._tries.verdict()))
            if not gathered.readings:
                raise self._tries.verdict()
        return Readout(
            meter,
            started,
            {r: gathered.readings[r] for r in registers if r in gathered.readings},
            {register_name(r): reasons[r] for r in registers if r in reasons},
        )

    @property
    def _known_lacking(self) -> set[int]:
        """The registers that this meter left out in the last days."""
        meter = self._who.meter
        now = self._clock().wall
        return {
            register
            for (its, told), registers in self.lacking.items()
            if its == (meter.serial or "") and meter.revision in (None, told)
            for register, since in registers.items()
            if abs(now - since) < LACKING_S
        }

    def _note_lacking(self, meter: MeterIdentity, left_out: list[int]) -> None:
        if left_out:
            key = (meter.serial or "", meter.revision or "")
            found = dict.fromkeys(left_out, self._clock().wall)
            self.lacking[key] = self.lacking.get(key, {}) | found

    async def _ask_serial(self) -> None:
        await self._who.ask_serial(self._ask, has_answered=self._tries.heard)
        if self.identity.serial:
            self.lacking.pop(("", ""), None)

    async def _collect(self, registers: list[int], gathered: _Gathering) -> None:
        """Ask for `registers`, and gather what comes, and those that got no answer.

        A telegram that fails although the meter answers others is asked for in halves: a shorter
        one gets through more noise, and a register that upsets a meter costs only itself.
        """
        batches = [
            registers[i : i + MAX_REGISTERS] for i in range(0, len(registers), MAX_REGISTERS)
        ]
        while batches:
            batch = batches.pop(0)
            try:
                values = await self._ask_registers(tuple(batch), gathered)
            except LINE_FAULTS:
                if len(batch) > 1 and self._tries.heard and not self._tries.are_over:
                    middle = len(batch) // 2
                    batches[:0] = [batch[:middle], batch[middle:]]
                else:
                    gathered.lost += batch
                continue
            for value in values:
                gathered.readings[value.register] = Reading(
                    value.register,
                    register_name(value.register),
                    value.value,
                    unit_symbol(value.unit),
                )

    async def _ask_registers(
        self, registers: tuple[int, ...], gathered: _Gathering
    ) -> list[RegisterValue]:
        """What the meter says that gave what is gathered."""
        for _ in range(1 + RETRIES):
            # A capture leaves nothing of a damaged answer that may hold a serial number.
            along = () if self._link.is_tapped else self._who.along(registers)
            try:
                answer = await self._ask(GetRegisterRequest(registers + along))
            except LINE_FAULTS:
                if along:
                    self._who.failed_along()
                raise
            is_another = SERIAL_NUMBER in registers + along and not self._who.hear_along(answer)
            if await self._is_theirs(gathered, is_another=is_another):
                return [value for value in answer.values if value.register in registers]
        fault = self._hung_up()
        self._fail(fault)
        raise fault

    async def _is_theirs(self, gathered: _Gathering, *, is_another: bool) -> bool:
        """Whether the answer that just came is of the meter that gave what is gathered.

        False when nobody knows, for the line hung up behind it too.

        Raises:
            _AnotherMeterError: it is not, or not surely.
            PortError: the line hung up, and the meter does not say who it is.

        """
        who, connection = self._who, self._who.connection
        if connection != gathered.connection:
            await self._ask_serial()
            if connection != who.connection:
                return False
        if is_another:
            raise _AnotherMeterError
        if gathered.meter is not None and connection != gathered.connection:
            if not who.is_sure:
                fault = self._hung_up()
                self._fail(fault)
                raise fault
            if None is gathered.meter.serial or gathered.meter.serial != who.meter.serial:
                raise _AnotherMeterError
            who.recognize(gathered.meter)
        gathered.meter, gathered.connection = who.sure_meter, connection
        return True

    def _hung_up(self) -> PortError:
        return PortError(
            f"{self._link.port} hung up amid each reading: see what is on the other side",
            "port_missing",
        )

    async def _ask(self, request: Request[AnswerT]) -> AnswerT:
        """The answer to `request`, asked for again up to `RETRIES` times."""
        for retry in range(self._tries.of_a_question):
            if self._tries.are_over:
                break
            self._transactions.counters.retries += retry > 0
            try:
                answer = await self._ask_once(request)
            except LINE_FAULTS as fault:
                self._fail(fault)
            else:
                self._tries.succeeded()
                return answer
        raise self._tries.verdict()

    async def _ask_once(self, request: Request[AnswerT]) -> AnswerT:
        answer = await self._transactions.exchange(request)
        self._move()  # a hang-up may have come before it
        return answer

    def _fail(self, fault: KamstrupError) -> None:
        _log.debug("%s: %s", self._link.port, fault)
        self._tries.failed(fault)


@contextlib.asynccontextmanager
async def open_meter(port: str, tap: Tap | None = None) -> AsyncIterator[MeterSession]:
    """Open a session with the meter on `port`, and close it at the end.

    Args:
        port: a device path such as `/dev/serial/by-id/...`, `socket://host:port` or
            `rfc2217://host:port`.
        tap: called with all bytes that pass, as they pass.

    Raises:
        PortError: the port cannot be opened; the message says what to check.

    """
    session = MeterSession(port, tap)
    await session.open()
    try:
        yield session
    finally:
        await session.close()
