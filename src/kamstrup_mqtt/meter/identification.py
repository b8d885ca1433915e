"""Who is on the line: the serial number and the type of a meter, asked for as rarely as is safe.

On another connection there may be another meter, and after a while on the same one too. A telegram
with room for one more register asks for the serial number along with the others, so that its answer
says whose it is; where there is no room, or no such register, it is asked for by itself.
"""

import asyncio
from dataclasses import replace
from typing import Protocol

from kamstrup_mqtt.catalog import model_of_type
from kamstrup_mqtt.errors import NoAnswerError, PortError, TelegramError
from kamstrup_mqtt.kmp import (
    MAX_REGISTERS,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoRequest,
    GetTypeRequest,
    Request,
    format_value,
)
from kamstrup_mqtt.meter.transaction import AnswerT
from kamstrup_mqtt.readout import MeterIdentity

LINE_FAULTS = (TelegramError, NoAnswerError, PortError)
SERIAL_NUMBER = 1001  # register of the same number as GetSerialNo (kmp.md, 3.2)

HOLDS_S = 300.0  # nobody replaces a meter, or moves a head, unnoticed in a shorter time
_MOST_DIGITS = 10  # of 32 bits
_MOST_FAILED = 2
_TYPE_TRIES = 3  # readouts in which the type is asked for


class Ask(Protocol):
    """Asks a question and gives its answer, or raises one of `LINE_FAULTS`."""

    async def __call__(self, request: Request[AnswerT], /) -> AnswerT:
        """The answer to `request`."""


class Identification:
    """The meter that was met last on a connection."""

    def __init__(self) -> None:
        self.meter = MeterIdentity()
        self.connection = 0
        self._told_at: float | None = None  # the loop's time at which it last said who it is
        self._other: str | None = None  # a serial number that was said once in place of its own
        self._tells_along: bool | None = None  # whether it says it along with other registers
        self._along_failed = 0  # telegrams that asked it along, while that never worked
        self._by_register: bool | None = None  # how it tells it when asked by itself, if known
        self._type_tries = 0

    @property
    def is_sure(self) -> bool:
        """Whether `meter` is surely there still."""
        now = asyncio.get_running_loop().time()
        return self._told_at is not None and now - self._told_at < HOLDS_S

    @property
    def sure_meter(self) -> MeterIdentity:
        """The meter that is there; of one that is not known for sure nothing is told."""
        return self.meter if self.is_sure else MeterIdentity()

    def move(self, connection: int) -> None:
        """Take it that the line has this connection, perhaps another one than before."""
        if connection != self.connection:
            self.connection = connection
            self._meet(MeterIdentity())
            self._told_at, self._tells_along, self._along_failed = None, None, 0

    def doubt(self) -> None:
        """Take it that there may be another meter on the same connection."""
        self._told_at = None

    def hear(self, serial: str) -> bool:
        """Take note of a serial number; whether it is that of the meter that was met.

        Another one is believed when it is said twice.
        """
        if self.meter.serial is None or serial == self._other:
            self._meet(MeterIdentity(serial))
        elif serial != self.meter.serial:
            self._told_at, self._other = None, serial
            return False
        self._told_at = asyncio.get_running_loop().time()
        return True

    def recognize(self, meter: MeterIdentity) -> None:
        """Take over what was known, on an earlier connection, of the meter that is there."""
        if meter.serial == self.meter.serial:
            self.meter = meter

    def along(self, registers: tuple[int, ...]) -> tuple[int, ...]:
        """What to ask along with `registers`, so that the answer says whose it is."""
        has_room = len(registers) < MAX_REGISTERS and SERIAL_NUMBER not in registers
        return (SERIAL_NUMBER,) if has_room and self._tells_along is not False else ()

    def will_be_told(self, count: int) -> bool:
        """Whether an answer of so many registers, in full telegrams, is going to say who it is."""
        is_known = self._tells_along is not False and self.meter.serial is not None
        return is_known and count % MAX_REGISTERS > 0

    def hear_along(self, answer: GetRegisterAnswer) -> bool:
        """Take note of what an answer says of whose it is; False when that is another meter."""
        serial = _serial_in(answer)
        if serial is None:
            self.doubt()
            self._tells_along = self._tells_along or False
            return True
        self._tells_along = True
        return self.hear(serial)

    def failed_along(self) -> None:
        """Ask nothing along any more, if that never worked: it may be what telegrams fail for."""
        self._along_failed += 1
        if self._tells_along is None and self._along_failed >= _MOST_FAILED:
            self._tells_along = False

    async def ask_serial(self, ask: Ask, *, has_answered: bool) -> None:
        """Ask for the serial number, unless we are sure.

        A meter that answers registers only is asked for it when it has answered some.
        """
        if self.is_sure or (self._by_register and not has_answered):
            return
        by_register = has_answered if self._by_register is None else self._by_register
        self._by_register = None
        try:
            for _ in range(2):
                serial = await _serial(ask, by_register=by_register)
                if serial is None:
                    return
                self._by_register = by_register
                if self.hear(serial):
                    return
        except LINE_FAULTS:
            return

    async def ask_type(self, ask: Ask) -> None:
        """Ask for the type, until it is told or the meter seems not to have it."""
        if self.meter.type_code or self._type_tries == _TYPE_TRIES:
            return
        self._type_tries += 1
        connection = self.connection
        try:
            kind = await ask(GetTypeRequest())
        except LINE_FAULTS:
            return
        if connection == self.connection:  # else who knows whose type that is
            self.meter = replace(
                self.meter,
                type_code=f"{kind.type_code:04X}",
                revision=kind.revision,
                model=model_of_type(kind.type_code),
            )

    def _meet(self, meter: MeterIdentity) -> None:
        self.meter = meter
        self._other = None
        self._type_tries = 0


async def _serial(ask: Ask, *, by_register: bool) -> str | None:
    if not by_register:
        return str((await ask(GetSerialNoRequest())).serial)
    return _serial_in(await ask(GetRegisterRequest((SERIAL_NUMBER,))))


def _serial_in(answer: GetRegisterAnswer) -> str | None:
    """The serial number in an answer, if it has one."""
    for value in answer.values:
        if value.register == SERIAL_NUMBER:
            told = format_value(value.value)
            return told if told.isdecimal() and len(told) <= _MOST_DIGITS else None
    return None
