"""A session with one meter: asks for registers over a link and gives a checked `Readout`.

It asks for 8 registers a telegram, one telegram at a time, waits for each as long as the protocol
allows, and repeats only what is missing. A value is taken from a valid telegram only, and only for
a register that was asked for. It never publishes, stores or schedules.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from kamstrup_mqtt.catalog import model_of_type, register_name, register_numbers, unit_symbol
from kamstrup_mqtt.errors import (
    CommandError,
    FramingError,
    KamstrupError,
    NoAnswerError,
    PortError,
    TelegramError,
    UsageError,
    WrongRegisterError,
)
from kamstrup_mqtt.kmp import (
    BYTE_S,
    HEAT_METER,
    MAX_REGISTERS,
    Answer,
    Direction,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    GetTypeAnswer,
    GetTypeRequest,
    Request,
    decode,
    encode,
)
from kamstrup_mqtt.meter.link import Link
from kamstrup_mqtt.readout import NOT_IN_METER, MeterIdentity, Reading, Readout

ANSWER_DEADLINE_S = 1.6  # an answer starts at the latest so long after the request (kmp.md, 1)
LATENCY_S = 0.3  # what a USB adapter, ser2net and a network may add
REST_S = 1.6  # the quiet a meter wants before a request is repeated (kmp.md, 1)
RETRIES = 2
GIVE_UP_AFTER = 6  # failed tries in a row end a readout: about 13 s when nothing comes back
ABSENT_S = 3600.0  # how long a register the meter left out is not asked for again
LONGEST_VALUE = 12  # bytes; the longest seen on any meter (kmp.md, 3.4)
NOISE = 64  # bytes tolerated around an answer before the line counts as flooded

_log = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT", bound=Answer)


class MeterSession:
    """One meter on one line. Made by `open_meter`, which also closes it.

    The line is reopened by itself when it hung up. `identity` is asked for once a connection.
    """

    def __init__(self, port: str) -> None:
        self.identity = MeterIdentity()
        self._link = Link(port)
        self._lock = asyncio.Lock()  # half duplex: one readout at a time
        self._type_asked = False
        self._absent: dict[int, float] = {}  # register to the time it was left out
        self._quiet_from = 0.0  # the loop's time from which the line may be written to
        self._faults: list[KamstrupError] = []  # of the readout under way
        self._failed_tries = 0  # in a row
        self._heard = False  # whether the meter answered in the readout under way

    async def open(self) -> None:
        """Open the line and forget who was on it. Raises PortError."""
        await self._link.open()
        self.identity = MeterIdentity()
        self._type_asked = False
        self._absent.clear()

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
            if not self._link.is_open:
                await self.open()
            self._faults, self._failed_tries, self._heard = [], 0, False
            return await self._read(registers)

    async def _read(self, registers: tuple[int, ...]) -> Readout:
        started = datetime.now(UTC).astimezone()
        readings: dict[int, Reading] = {}
        await self._identify()
        now = asyncio.get_running_loop().time()
        absent = [r for r in registers if now < self._absent.get(r, -ABSENT_S) + ABSENT_S]
        lost = await self._collect([r for r in registers if r not in absent], readings)
        left_out = [r for r in registers if r not in readings and r not in lost + absent]
        for _ in range(RETRIES):
            lost += await self._collect(left_out, readings)
            left_out = [r for r in left_out if r not in readings and r not in lost]
        await self._identify()
        if self._faults and not self._heard:
            raise self._verdict()
        self._absent.update(dict.fromkeys(left_out, asyncio.get_running_loop().time()))
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

    async def _identify(self) -> None:
        """Ask who the meter is, as far as it has not said so on this connection."""
        with contextlib.suppress(*_LINE_FAULTS):
            if self.identity.serial is None:
                serial = await self._ask(GetSerialNoRequest(), GetSerialNoAnswer)
                self.identity = replace(self.identity, serial=str(serial.serial))
            if not self._type_asked:
                self._type_asked = True
                kind = await self._ask(GetTypeRequest(), GetTypeAnswer)
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
                answer = await self._ask(GetRegisterRequest(tuple(batch)), GetRegisterAnswer)
            except _LINE_FAULTS:
                if len(batch) > 1 and self._heard and self._failed_tries < GIVE_UP_AFTER:
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

    async def _ask(self, request: Request, kind: type[AnswerT]) -> AnswerT:
        """The answer to `request`, asked for again up to `RETRIES` times."""
        for _ in range(1 + RETRIES):
            if self._failed_tries >= GIVE_UP_AFTER:
                break
            try:
                answer = await self._exchange(request, kind)
            except _LINE_FAULTS as fault:
                _log.debug("%s: %s", self._link.port, fault)
                self._faults.append(fault)
                self._failed_tries += 1
            else:
                self._failed_tries, self._heard = 0, True
                return answer
        raise self._verdict()

    async def _exchange(self, request: Request, kind: type[AnswerT]) -> AnswerT:
        """Send `request` once and listen until its answer is there, or none can come any more."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._quiet_from - loop.time())
        try:
            await self._link.open()
            await self._link.discard()
            return await self._listen(request, kind)
        except (PortError, FramingError):  # hung up or flooded: only a new connection helps
            await self._link.close()
            self._quiet_from = loop.time() + REST_S
            raise

    async def _listen(self, request: Request, kind: type[AnswerT]) -> AnswerT:
        loop = asyncio.get_running_loop()
        telegram = encode(request)
        _log.debug("%s > %s", self._link.port, telegram.hex(" "))
        await self._link.write(telegram)
        longest = _longest_answer(request)
        deadline = loop.time() + len(telegram) * BYTE_S + ANSWER_DEADLINE_S + LATENCY_S
        latest = deadline + longest * BYTE_S + REST_S
        reader = FrameReader()
        received = b""
        fault: TelegramError | None = None
        echo = False
        while chunk := await self._link.read(until=deadline):
            received += chunk
            for found in reader.feed(chunk):
                if isinstance(found, Frame) and found.direction is Direction.REQUEST:
                    echo = True
                    continue
                try:
                    answer = _accept(found, request, kind)
                except TelegramError as error:
                    fault = error
                else:
                    _log.debug("%s < %s", self._link.port, received.hex(" "))
                    self._quiet_from = loop.time() + BYTE_S
                    return answer
            if len(received) > len(telegram) + longest + NOISE:
                raise FramingError(f"{len(received)} bytes and no end of the answer")
            if fault or reader.in_frame:  # listening on is also the rest before the next try
                deadline = min(max(deadline, loop.time() + REST_S), latest)
        _log.debug("%s < %s", self._link.port, received.hex(" ") or "nothing")
        raise fault or reader.close() or NoAnswerError(echo=echo)

    def _verdict(self) -> KamstrupError:
        """What to say of the readout's faults: a lost port, else bad answers, else silence."""
        if isinstance(self._faults[-1], PortError):
            return self._faults[-1]
        damaged = [fault for fault in self._faults if isinstance(fault, TelegramError)]
        echoed = [f for f in self._faults if isinstance(f, NoAnswerError) and f.echo]
        return (damaged or echoed or self._faults)[-1]


_LINE_FAULTS = (TelegramError, NoAnswerError, PortError)


def _accept(found: Frame | TelegramError, request: Request, kind: type[AnswerT]) -> AnswerT:
    """The message in `found` if it answers `request`; a TelegramError for anything else."""
    if isinstance(found, TelegramError):
        raise found
    answer = decode(found)
    if found.address != HEAT_METER or not isinstance(answer, kind):
        raise CommandError(f"{type(answer).__name__} of address 0x{found.address:02X}, not ours")
    if isinstance(request, GetRegisterRequest) and isinstance(answer, GetRegisterAnswer):
        answered = [value.register for value in answer.values]
        if len(set(answered)) != len(answered) or not set(answered) <= set(request.registers):
            names = ", ".join(map(register_name, answered))
            raise WrongRegisterError(f"the answer holds {names}, which was not the question")
    return answer


def _longest_answer(request: Request) -> int:
    """Bytes of the longest answer to expect, every one of them stuffed."""
    if isinstance(request, GetRegisterRequest):
        return 2 * (4 + len(request.registers) * (5 + LONGEST_VALUE)) + 2
    return 2 * (4 + 4) + 2


def _reason(fault: KamstrupError) -> str:
    if isinstance(fault, TelegramError):
        return f"no usable answer ({fault.kind})"
    return "line lost" if isinstance(fault, PortError) else "no answer"


@contextlib.asynccontextmanager
async def open_meter(port: str) -> AsyncIterator[MeterSession]:
    """Open a session with the meter on `port`, and close it at the end.

    Args:
        port: a device path such as `/dev/serial/by-id/...`, `socket://host:port` or
            `rfc2217://host:port`.

    Raises:
        PortError: the port cannot be opened; the message says what to check.

    """
    session = MeterSession(port)
    await session.open()
    try:
        yield session
    finally:
        await session.close()
