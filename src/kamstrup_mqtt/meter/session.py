"""A session with one meter: asks for registers and gives a checked `Readout`.

It asks for 8 registers a telegram, identifies the meter once a connection, and repeats only what is
missing. It never publishes, stores or schedules.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from kamstrup_mqtt.catalog import model_of_type, register_name, register_numbers, unit_symbol
from kamstrup_mqtt.errors import (
    CommandError,
    KamstrupError,
    NoAnswerError,
    PortError,
    TelegramError,
    UsageError,
    WrongRegisterError,
)
from kamstrup_mqtt.kmp import (
    MAX_REGISTERS,
    GetRegisterRequest,
    GetSerialNoRequest,
    GetTypeRequest,
    Request,
    format_value,
)
from kamstrup_mqtt.meter.link import Link, Tap
from kamstrup_mqtt.meter.transaction import AnswerT, Transactions
from kamstrup_mqtt.readout import NOT_IN_METER, Clock, Lacking, MeterIdentity, Now, Reading, Readout
from kamstrup_mqtt.readout.status import Counters

RETRIES = 2
# Failed tries in a row that end a readout. Where nothing was heard at all they take about 12 s, for
# a user who waits; a meter that did answer is given more.
GIVE_UP_UNHEARD = 6
GIVE_UP_HEARD = 9
GIVE_UP_SILENT = 2  # a meter that was silent last time is not hammered: one try of each question
_SERIAL_NUMBER = 1001  # register of the same number as GetSerialNo (kmp.md, 3.2)
_STRANGER_S = 300.0  # nobody replaces a meter, or moves a head, unnoticed in a shorter pause
LACKING_S = 7 * 86400.0  # how long a register the meter left out is not asked for again

_LINE_FAULTS = (TelegramError, NoAnswerError, PortError)

_log = logging.getLogger(__name__)


class MeterSession:
    """One meter on one line, given by its port or as it is. Made by `open_meter`, which closes it.

    The line is reopened by itself when it hung up. `identity` is asked for once a connection, and
    whether it is still the same meter after a pause, or when somebody doubts it.
    """

    def __init__(
        self, line: str | Link, tap: Tap | None = None, *, clock: Clock = Now.read
    ) -> None:
        self.identity = MeterIdentity()
        self.lacking: Lacking = {}
        self._link = line if isinstance(line, Link) else Link(line, tap)
        self._transactions = Transactions(self._link)
        self._clock = clock
        self._lock = asyncio.Lock()  # half duplex: one readout at a time
        self._sure = False  # whether `identity` is known to be who is there now
        self._serial_by_register = False  # how this meter tells its serial number
        self._silent = False  # whether the last readout heard nothing
        self._type_tries = 0
        self._connection = 0  # the one on which `identity` was met
        self._faults: list[KamstrupError] = []  # of the readout under way
        self._failed_tries = 0  # in a row
        self._heard = False  # whether the meter answered in the readout under way
        self._begun_at = 0.0  # the loop's time

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
            answer = await self._transactions.exchange(GetSerialNoRequest())
            self._note_connection()
            self._sure = self._sure and str(answer.serial) == self.identity.serial

    def doubt_identity(self) -> None:
        """Have the next readout ask who is there."""
        self._sure = False

    async def open(self) -> None:
        """Open the line, if it is not, and forget who was on it before. Raises PortError."""
        await self._link.open()
        self._note_connection()

    def _note_connection(self) -> None:
        """On another connection there may be another meter."""
        if self._connection != self._link.connection:
            self._connection = self._link.connection
            self._serial_by_register = False
            self._meet(None)

    def _meet(self, serial: str | None) -> None:
        """Take it that the meter with this serial number is there, perhaps another one."""
        self._sure = serial is not None
        if serial is None or serial != self.identity.serial:
            self.identity = MeterIdentity(serial)
            self._type_tries = 0
            self.lacking.pop(("", ""), None)  # of a meter that does not say who it is

    async def close(self) -> None:
        """Close the line."""
        await self._link.close()

    async def read(self, parameters: Iterable[str | int]) -> Readout:
        """Read parameters in as few telegrams as the meter allows.

        Args:
            parameters: names in any case, register numbers, or `all`.

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
            self._sure = self._sure and self.idle_s < _STRANGER_S
            try:
                readout = await self._read_one_meter(registers)
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
        self._faults, self._failed_tries, self._heard = [], 0, False
        await self.open()

    async def _read_one_meter(self, registers: tuple[int, ...]) -> Readout:
        """A readout of one meter: after a hang-up amid it, another one may answer."""
        for _ in range(1 + RETRIES):
            self._note_connection()
            await self._ask_serial()
            before, connection = self.identity.serial, self._connection
            readout = await self._read(registers)
            is_same = readout.meter.serial is not None and readout.meter.serial == before
            if connection == self._connection or is_same:
                return readout
        if self._faults:
            raise self._verdict()
        raise PortError(
            f"{self._link.port} hung up amid each reading: see what is on the other side",
            "port_missing",
        )

    async def _read(self, registers: tuple[int, ...]) -> Readout:
        started, readings = self._clock().moment, dict[int, Reading]()
        absent = [r for r in registers if r in self._known_lacking]
        lost = await self._collect([r for r in registers if r not in absent], readings)
        left_out = [r for r in registers if r not in readings and r not in lost + absent]
        in_vain = 0  # a register that two more answers leave out is not in this meter
        while left_out and in_vain < RETRIES:
            known = len(readings)
            lost += await self._collect(left_out, readings)
            left_out = [r for r in left_out if r not in readings and r not in lost]
            in_vain = 0 if len(readings) > known else in_vain + 1
        await self._ask_serial()
        await self._ask_type()
        if self._faults and not self._heard:
            raise self._verdict()
        if readings:  # a meter that leaves out everything has lost more than registers
            self._note_lacking(left_out)
        reasons = dict.fromkeys(left_out + absent, NOT_IN_METER)
        if lost:
            reasons |= dict.fromkeys(lost, _reason(self._verdict()))
            if not readings:
                raise self._verdict()
        return Readout(
            self.identity,
            started,
            {r: readings[r] for r in registers if r in readings},
            {register_name(r): reasons[r] for r in registers if r in reasons},
        )

    @property
    def _known_lacking(self) -> set[int]:
        """The registers that this meter left out in the last days."""
        serial, revision = self.identity.serial or "", self.identity.revision
        now = self._clock().wall
        return {
            register
            for (its, told), registers in self.lacking.items()
            if its == serial and revision in (None, told)
            for register, since in registers.items()
            if abs(now - since) < LACKING_S
        }

    def _note_lacking(self, left_out: list[int]) -> None:
        if left_out:
            key = (self.identity.serial or "", self.identity.revision or "")
            found = dict.fromkeys(left_out, self._clock().wall)
            self.lacking[key] = self.lacking.get(key, {}) | found

    async def _ask_serial(self) -> None:
        """Ask for the serial number, unless we are sure; another one is believed when said twice.

        A meter that answers registers only is asked for it when it has answered some.
        """
        by_register = self._heard
        if self._sure or (self._serial_by_register and not by_register):
            return
        with contextlib.suppress(*_LINE_FAULTS):
            serial = await self._serial(by_register=by_register)
            if serial is None:
                return
            known = self.identity.serial
            if known in (None, serial) or await self._serial(by_register=by_register) == serial:
                self._serial_by_register = by_register
                self._meet(serial)

    async def _serial(self, *, by_register: bool) -> str | None:
        if not by_register:
            return str((await self._ask(GetSerialNoRequest())).serial)
        answer = await self._ask(GetRegisterRequest((_SERIAL_NUMBER,)))
        told = format_value(answer.values[0].value) if answer.values else ""
        return told if told.isdecimal() else None

    async def _ask_type(self) -> None:
        """Ask for the type once a readout, until it is told or the meter seems not to have it."""
        if self.identity.type_code or self._type_tries > RETRIES or not self._heard:
            return
        self._type_tries += 1
        with contextlib.suppress(*_LINE_FAULTS):
            kind = await self._transactions.exchange(GetTypeRequest())
            if self._connection != self._link.connection:
                self._note_connection()  # who knows whose type that is
                return
            self.identity = replace(
                self.identity,
                type_code=f"{kind.type_code:04X}",
                revision=kind.revision,
                model=model_of_type(kind.type_code),
            )

    async def _collect(self, registers: list[int], readings: dict[int, Reading]) -> list[int]:
        """Ask for `registers`, add what came to `readings`, and return those that got no answer.

        A telegram that fails although the meter answers others is asked for in halves: a shorter
        one gets through more noise, and a register that upsets a meter costs only itself.
        """
        batches = [
            registers[i : i + MAX_REGISTERS] for i in range(0, len(registers), MAX_REGISTERS)
        ]
        lost: list[int] = []
        while batches:
            batch = batches.pop(0)
            try:
                answer = await self._ask(GetRegisterRequest(tuple(batch)))
            except _LINE_FAULTS:
                if len(batch) > 1 and self._heard and not self._hopeless:
                    middle = len(batch) // 2
                    batches[:0] = [batch[:middle], batch[middle:]]
                else:
                    lost += batch
                continue
            for value in answer.values:
                readings[value.register] = Reading(
                    value.register,
                    register_name(value.register),
                    value.value,
                    unit_symbol(value.unit),
                )
        return lost

    async def _ask(self, request: Request[AnswerT]) -> AnswerT:
        """The answer to `request`, asked for again up to `RETRIES` times."""
        for retry in range(1 if self._is_silent else 1 + RETRIES):
            if self._hopeless:
                break
            self._transactions.counters.retries += retry > 0
            try:
                answer = await self._transactions.exchange(request)
            except _LINE_FAULTS as fault:
                _log.debug("%s: %s", self._link.port, fault)
                self._faults.append(fault)
                self._failed_tries += 1
            else:
                self._failed_tries, self._heard = 0, True
                self._note_connection()  # a hang-up may have come before it
                return answer
        raise self._verdict()

    @property
    def _is_silent(self) -> bool:
        return self._silent and not self._heard

    @property
    def _hopeless(self) -> bool:
        unheard = GIVE_UP_SILENT if self._silent else GIVE_UP_UNHEARD
        return self._failed_tries >= (GIVE_UP_HEARD if self._heard else unheard)

    def _verdict(self) -> KamstrupError:
        """What to say of the readout's faults: a lost port, else bad answers, else silence."""
        if isinstance(self._faults[-1], PortError):
            return self._faults[-1]
        damaged = [fault for fault in self._faults if isinstance(fault, TelegramError)]
        if damaged:
            return _with_advice(damaged[-1])
        echoed = [f for f in self._faults if isinstance(f, NoAnswerError) and f.echo]
        return (echoed or self._faults)[-1]


def _with_advice(fault: TelegramError) -> TelegramError:
    foreign = isinstance(fault, WrongRegisterError | CommandError)
    advice = (
        "another program may be using the line"
        if foreign
        else "the head may be some millimetres off, or in strong light"
    )
    return type(fault)(f"the meter's answer was unusable: {fault}; {advice}")


def _reason(fault: KamstrupError) -> str:
    if isinstance(fault, TelegramError):
        return f"no usable answer ({fault.kind})"
    return "line lost" if isinstance(fault, PortError) else "no answer"


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
