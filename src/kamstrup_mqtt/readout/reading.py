"""What one reading of a meter yields: `Reading`, `Readout` and the `MeterIdentity` they belong to.

Values stay exact on every way out: JSON numbers have the meter's own digits, never a float's.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from kamstrup_mqtt.catalog import register_name, register_number
from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.kmp import BitField, Unreadable, Value, format_value

# The registers that a meter, by serial number and revision, left out, and at which unix time.
Lacking = dict[tuple[str, str], dict[int, float]]
NOT_IN_METER = "not in this meter"  # the reason when a valid answer leaves a register out


@dataclass(frozen=True, slots=True)
class MeterIdentity:
    """Who a meter says it is; None for what it has not told yet.

    Args:
        serial: the serial number on its front, in decimal digits.
        type_code: the GetType code, such as "0004"; most codes have no public meaning.
        revision: the software revision, such as "F1".
        model: the MULTICAL model, such as "601", where the type code is documented.

    """

    serial: str | None = None
    type_code: str | None = None
    revision: str | None = None
    model: str | None = None

    def is_other_than(self, before: "MeterIdentity") -> bool:
        """Whether that is surely another meter; not where either did not tell its serial number."""
        return None not in (self.serial, before.serial) and self.serial != before.serial

    def to_dict(self) -> dict[str, str | None]:
        """What is known, as it appears in JSON."""
        return {
            "serial": self.serial,
            "type": self.type_code,
            "revision": self.revision,
            "model": self.model,
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """One register as read: its number and name, the exact value, and the telegram's unit."""

    register: int
    name: str
    value: Value
    unit: str

    @property
    def text(self) -> str:
        """The value as text with all its digits; "" where the meter has none yet."""
        return format_value(self.value)

    @property
    def told(self) -> str | None:
        """The value for others, as text; None for "no date yet" and for what makes no sense.

        All that leaves the program for other programs is made of this.
        """
        return None if self.value is None or isinstance(self.value, Unreadable) else self.text

    @property
    def json(self) -> str:
        """A JSON token with every digit."""
        if isinstance(self.value, Decimal | BitField):
            return self.text
        return json.dumps(self.told, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Readout:
    """All that one reading of a meter yielded.

    `readout["energy"]` and `readout[0x3C]` give a `Reading`; iterating gives all of them.

    Args:
        meter: who answered.
        time: when the reading began, with its offset from UTC.
        readings: what was read, by register number, in the order asked for.
        missing: the names of what was asked for and not read, each with the reason.
        misdated: whether `time` came from a clock that proved wrong; known only later.

    """

    meter: MeterIdentity
    time: datetime
    readings: Mapping[int, Reading]
    missing: Mapping[str, str]
    misdated: bool = field(default=False, compare=False)

    def __getitem__(self, parameter: str | int) -> Reading:
        """The reading of a parameter by name or register number.

        Raises:
            KeyError: it was not asked for, or not read; `missing` tells the reason.

        """
        try:
            return self.readings[register_number(parameter)]
        except UsageError as error:
            raise KeyError(parameter) from error

    def __iter__(self) -> Iterator[Reading]:
        return iter(self.readings.values())

    def __len__(self) -> int:
        return len(self.readings)

    def covers(self, registers: Iterable[int]) -> bool:
        """Whether all of `registers` were asked for, and either read or found missing."""
        return all(r in self.readings or register_name(r) in self.missing for r in registers)

    def only(self, registers: Collection[int]) -> "Readout":
        """The same readout as if only `registers` had been asked for."""
        names = {register_name(register) for register in registers}
        return replace(
            self,
            readings={r: reading for r, reading in self.readings.items() if r in registers},
            missing={name: why for name, why in self.missing.items() if name in names},
        )

    def to_json(self, **more: object) -> str:
        """One JSON object, as on `<topic>/values`: parameters, time, serial number, and `more`."""
        members = [f"{json.dumps(reading.name)}: {reading.json}" for reading in self]
        told = {
            "timestamp": self.time.isoformat(timespec="milliseconds"),
            "serial": self.meter.serial,
            **more,
        }
        members += [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in told.items()]
        return "{" + ", ".join(members) + "}"
