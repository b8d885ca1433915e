"""A simulated MULTICAL 402, 403 or 603 without I/O: a request in, a reaction out, faults included.

It shares `kmp/` and the catalog with the real session, in the opposite direction, and has every
register the catalog knows for its model.
"""

import random
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import NamedTuple

from kamstrup_mqtt.catalog import INFO_CODE, REGISTERS, UNITS, VOLUME
from kamstrup_mqtt.errors import TelegramError
from kamstrup_mqtt.kmp import (
    HEAT_METER,
    MAX_REGISTERS,
    Answer,
    Frame,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    GetTypeAnswer,
    GetTypeRequest,
    Message,
    MonthDay,
    RegisterValue,
    Value,
    decode,
    encode,
    encode_value,
)
from kamstrup_mqtt.kmp.value import TEXT
from kamstrup_mqtt.simulator.faults import Fault, Reaction, strike
from kamstrup_mqtt.simulator.house import House

DEFAULT_SERIAL = 71343479
# What another program asks: for more than a meter answers, for nothing, and for something.
_OTHERS_QUESTIONS = (
    GetRegisterRequest(tuple(range(60, 60 + MAX_REGISTERS + 1))),
    GetRegisterRequest(()),
    GetRegisterRequest((VOLUME,)),
)


class _Model(NamedTuple):
    type_code: int
    energy_unit: str
    energy_per_kwh: float
    energy_decimals: int
    small_size: int  # bytes of temperatures, flow and power (kmp.md, 3.4)


# The type codes are the simulator's own: those of real meters are not public.
MODELS: Mapping[str, _Model] = {
    "402": _Model(0x0402, "GJ", 0.0036, 3, 4),
    "403": _Model(0x0403, "MWh", 0.001, 3, 2),
    "603": _Model(0x0603, "kWh", 1.0, 1, 2),
}
_CODES = {symbol: code for code, symbol in sorted(UNITS.items(), reverse=True)}
_CODES |= {"": 51, "datetime": 79}
_SMALL_UNITS = ("°C", "K", "kW", "l/h")
_DATED = ("date", "datetime", "month-day")
# How far away the head flips a bit of an answer, first sometimes and then always, and loses bytes.
_FLIPS = (0.1, 0.6)
_LOSES = (0.5, 1.0)
HIGH_RES_WRAP_WH = 10_000_000  # the 403's high resolution register holds the low digits only


class SimulatedMeter:
    """A meter in a house.

    Args:
        model: 402, 403 or 603.
        serial: its serial number.
        faults: how often each fault strikes, from 0 to 1; at most one a request.
        seed: of the chance that decides on faults.
        speed: seconds that pass in the house for each second outside.

    """

    def __init__(
        self,
        model: str = "402",
        serial: int = DEFAULT_SERIAL,
        faults: Mapping[Fault, float] | None = None,
        seed: int | None = None,
        speed: float = 1.0,
    ) -> None:
        self.model = model
        self.serial = serial
        self.faults = dict(faults or {})
        self.info_code = 0
        self.house = House(datetime.now().astimezone().replace(tzinfo=None), speed)
        self.registers = frozenset(r.number for r in REGISTERS.values() if model in r.models)
        self.requests: deque[Message] = deque(maxlen=1000)  # the latest, for whoever watches
        self._chance = random.Random(seed)
        self._head = 0.0
        self._drift: tuple[float, float] | None = None  # its begin, and how long it takes
        self._now = 0.0

    def measure(self, numbers: Iterable[int]) -> tuple[RegisterValue, ...]:
        """What those of its registers hold now, without a telegram."""
        values = self._values()
        return tuple(self._register(n, values) for n in numbers if n in self.registers)

    def wake(self) -> None:
        """Press a key: the meter stays awake from now on."""
        self.faults.pop(Fault.ASLEEP, None)

    @property
    def head(self) -> float:
        """How far the head is from its place: 0 hears all, from 1 on nothing."""
        if self._drift is None:
            return self._head
        begun, takes_s = self._drift
        return self._head + (self._now - begun) / takes_s

    def place_head(self, away: float) -> None:
        """Put the head so far `away` from its place."""
        self._head, self._drift = away, None

    def drift(self, seconds: float) -> None:
        """Let the head slip from where it is, by so many seconds from 0 to 1."""
        self._head, self._drift = self.head, (self._now, seconds)

    def react(self, frame: Frame, now: float) -> Reaction:
        """What happens when `frame` arrives: an answer, silence, or a fault.

        Args:
            frame: a request.
            now: a monotonic time in seconds, by which the house lives on.

        """
        self.house.advance(now)
        if self._now == 0.0 and self._drift is not None:  # a drift begins with the first request
            self._drift = (now, self._drift[1])
        self._now = now
        try:
            request = decode(frame)
        except TelegramError:
            return Reaction()
        answer = self._answer(request) if frame.address == HEAT_METER else None
        if answer is None:
            return Reaction()
        self.requests.append(request)
        for fault, rate in self.faults.items():
            if self._chance.random() < rate:
                if fault is Fault.OTHER_PROGRAM:
                    return self._talk_to_other()
                return strike(fault, answer, self._chance)
        return Reaction(self._as_heard(encode(answer)))

    def _talk_to_other(self) -> Reaction:
        """Another program's questions, and the meter's answer to the one that it answers."""
        said = b""
        for question in _OTHERS_QUESTIONS:
            answer = self._answer(question)
            said += encode(question) + (encode(answer) if answer else b"")
        return Reaction(said)

    def _as_heard(self, telegram: bytes) -> bytes:
        """What a head that is not in its place makes of an answer: flipped bits, lost bytes."""
        heard = bytearray(telegram)
        if self._chance.random() < _share(self.head, *_FLIPS):
            heard[self._chance.randrange(1, len(heard) - 1)] ^= 1 << self._chance.randrange(8)
        lost = _share(self.head, *_LOSES)
        return bytes(byte for byte in heard if self._chance.random() >= lost)

    def _answer(self, request: Message) -> Answer | None:
        """The right answer, or None where a meter stays silent."""
        match request:
            case GetTypeRequest():
                return GetTypeAnswer(MODELS[self.model].type_code, 0x0101)
            case GetSerialNoRequest():
                return GetSerialNoAnswer(self.serial)
            case GetRegisterRequest(numbers) if 1 <= len(numbers) <= MAX_REGISTERS:
                return GetRegisterAnswer(self.measure(numbers))
        return None

    def _register(self, number: int, values: Mapping[int, Value]) -> RegisterValue:
        model, units = MODELS[self.model], REGISTERS[number].units
        symbol = (*units, "")[0]
        if len(units) > 1 and symbol != "Wh":  # energy, in the unit that the meter is set to
            symbol = model.energy_unit
        value = values.get(number, None if symbol in _DATED else Decimal(0))
        unit = TEXT if isinstance(value, str) else _CODES[symbol]
        size = model.small_size if symbol in _SMALL_UNITS else 4
        return RegisterValue(number, unit, *encode_value(value, unit, size))

    def _values(self) -> dict[int, Value]:
        """What the registers of the house hold now; all others are at zero."""
        house, model = self.house, MODELS[self.model]
        now = house.now.replace(microsecond=0)
        values: dict[int, Value] = {}
        month = now.date().replace(day=1)
        for first, day, share in ((123, month.replace(month=1), 1.0), (138, month, 0.9)):
            values |= dict.fromkeys(range(first, first + 8, 2), day)  # the days of the peaks
            moments = range(383, 387) if first == 123 else range(387, 391)
            values |= dict.fromkeys(moments, datetime.combine(day, time(6, 30)))
            values[first + 1] = _exact(house.max_flow_l_h * share, 0)
            values[first + 5] = _exact(house.max_power_kw * share, 1)
        return values | {
            60: _exact(house.energy_kwh * model.energy_per_kwh, model.energy_decimals),
            68: _exact(house.volume_l / 1000, 3),
            74: _exact(house.flow_l_h, 0),
            80: _exact(house.power_kw, 1),
            86: _exact(house.supply_c, 2),
            87: _exact(house.return_c, 2),
            89: _exact(house.supply_c, 2) - _exact(house.return_c, 2),
            97: _exact(house.supply_l_k / 1000, 0),
            98: MonthDay(12, 31),
            INFO_CODE: Decimal(self.info_code),
            110: _exact(house.return_l_k / 1000, 0),
            146: Decimal("68.12"),
            147: Decimal("34.90"),
            149: Decimal("67.53"),
            150: Decimal("34.18"),
            155: _exact(house.energy_kwh, 3),
            223: _exact(house.volume_l, 1),
            229: _exact(house.supply_c, 2),
            230: _exact(house.return_c, 2),
            239: _exact(house.volume_l, 1),
            266: _exact(house.energy_kwh * 1000 % HIGH_RES_WRAP_WH, 0),
            348: now,
            379: _exact(house.supply_c, 2),
            380: _exact(house.return_c, 2),
            381: _exact(house.supply_c, 2),
            382: _exact(house.return_c, 2),
            398: _exact(house.supply_c, 1),
            399: _exact(house.return_c, 1),
            400: _exact(house.supply_c, 1) - _exact(house.return_c, 1),
            404: f"MULTICAL {self.model}",
            1001: Decimal(self.serial),
            1002: now.time(),
            1003: now.date(),
            1004: _exact(house.hours, 0),
            1010: Decimal(self.serial),
        }


def _share(away: float, begins: float, ends: float) -> float:
    """0 up to `begins`, 1 from `ends` on, and in proportion between them."""
    return min(1.0, max(0.0, (away - begins) / (ends - begins)))


def _exact(number: float, decimals: int) -> Decimal:
    """A simulated quantity with the decimals of the meter's display."""
    return Decimal(round(number * 10**decimals)).scaleb(-decimals)
