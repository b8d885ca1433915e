"""Who is on the line: the serial number and the type of a meter, asked for as rarely as is safe.

On another connection there may be another meter. After a pause, or when somebody doubts it, there
may be one on the same connection too.
"""

from dataclasses import replace
from typing import Protocol

from kamstrup_mqtt.catalog import model_of_type
from kamstrup_mqtt.errors import NoAnswerError, PortError, TelegramError
from kamstrup_mqtt.kmp import (
    GetRegisterRequest,
    GetSerialNoRequest,
    GetTypeRequest,
    Request,
    format_value,
)
from kamstrup_mqtt.meter.transaction import AnswerT
from kamstrup_mqtt.readout import MeterIdentity

LINE_FAULTS = (TelegramError, NoAnswerError, PortError)

_SERIAL_NUMBER = 1001  # register of the same number as GetSerialNo (kmp.md, 3.2)
_TYPE_TRIES = 3  # readouts in which the type is asked for


class Ask(Protocol):
    """Asks a question and gives its answer, or raises one of `LINE_FAULTS`."""

    async def __call__(self, request: Request[AnswerT], /) -> AnswerT:
        """The answer to `request`."""


class Identification:
    """The meter that was met last on a connection; `is_sure` while it is surely still there."""

    def __init__(self) -> None:
        self.meter = MeterIdentity()
        self.connection = 0
        self.is_sure = False
        self._by_register: bool | None = None  # how this meter tells its serial number, if known
        self._type_tries = 0

    @property
    def sure_meter(self) -> MeterIdentity:
        """The meter that is there; of one that is not known for sure nothing is told."""
        return self.meter if self.is_sure else MeterIdentity()

    def move(self, connection: int) -> None:
        """Take it that the line has this connection, perhaps another one than before."""
        if connection != self.connection:
            self.connection = connection
            self._meet(MeterIdentity())
            self.is_sure = False

    def doubt(self) -> None:
        """Take it that there may be another meter on the same connection."""
        self.is_sure = False

    def hear(self, serial: str) -> None:
        """Note a serial number that somebody else asked for."""
        self.is_sure = self.is_sure and serial == self.meter.serial

    def recognize(self, meter: MeterIdentity) -> None:
        """Take over what was known, on an earlier connection, of the meter that is there."""
        if meter.serial == self.meter.serial:
            self.meter = meter

    async def ask_serial(self, ask: Ask, *, has_answered: bool) -> None:
        """Ask for the serial number, unless we are sure; another one is believed when said twice.

        A meter that answers registers only is asked for it when it has answered some.
        """
        if self.is_sure or (self._by_register and not has_answered):
            return
        by_register = has_answered if self._by_register is None else self._by_register
        self._by_register = None
        try:
            serial = await _serial(ask, by_register=by_register)
            known = self.meter.serial
            if serial is None or (
                known not in (None, serial)
                and await _serial(ask, by_register=by_register) != serial
            ):
                return
        except LINE_FAULTS:
            return
        self._by_register = by_register
        if serial != self.meter.serial:
            self._meet(MeterIdentity(serial))
        self.is_sure = True

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
        self._type_tries = 0


async def _serial(ask: Ask, *, by_register: bool) -> str | None:
    if not by_register:
        return str((await ask(GetSerialNoRequest())).serial)
    answer = await ask(GetRegisterRequest((_SERIAL_NUMBER,)))
    told = format_value(answer.values[0].value) if answer.values else ""
    return told if told.isdecimal() else None
