"""Reads Kamstrup MULTICAL heat meters through the optical eye, to the digit.

    from kamstrup_mqtt import open_meter

    async with open_meter("/dev/ttyUSB0") as meter:
        readout = await meter.read(["energy", "power", 0x10A])
        print(readout["energy"].value, readout["energy"].unit)  # Decimal("227.445"), "GJ"

Everything public is here; all other modules may change from one version to the next.
"""

from kamstrup_mqtt.errors import (
    CommandError,
    CrcError,
    FramingError,
    KamstrupError,
    LengthError,
    NoAnswerError,
    PortError,
    StuffingError,
    TelegramError,
    TruncatedError,
    UsageError,
    WrongRegisterError,
)
from kamstrup_mqtt.kmp import BitField, MonthDay, Unreadable, Value
from kamstrup_mqtt.meter import MeterSession, open_meter
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout

__all__ = [
    "BitField",
    "CommandError",
    "CrcError",
    "FramingError",
    "KamstrupError",
    "LengthError",
    "MeterIdentity",
    "MeterSession",
    "MonthDay",
    "NoAnswerError",
    "PortError",
    "Reading",
    "Readout",
    "StuffingError",
    "TelegramError",
    "TruncatedError",
    "Unreadable",
    "UsageError",
    "Value",
    "WrongRegisterError",
    "open_meter",
]
