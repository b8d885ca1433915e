"""Values of registers: unit code, sign and exponent, and bytes; to exact values and back.

A number is (-1)^S x integer x 10^E, where S is bit 7 of the sign/exponent byte, bit 6 the sign of
E and bits 0 to 5 its size (kmp.md, 4). It becomes a `Decimal` with the meter's own number of
decimals: 227445 with E = -3 is 227.445, 227000 is 227.000. No float is ever involved.

This module knows the codes that change what the bytes mean; the names of units are the catalog's.
"""

from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import NamedTuple

TIME = 47  # decimal hhmmss
DATE = 48  # decimal yymmdd
LONG_DATE = 49  # decimal yyyymmdd
MONTH_DAY = 50  # decimal mmdd
CLOCK = 53  # 8 bytes: flags, weekday, ss, mm, hh, DD, MM, YY
TEXT = 54
TENFOLD = (55, 56, 57)  # m³ x 10, t x 10, GJ x 10
BIT_FIELD = 59
UNDOCUMENTED = (63, 64)  # RTC-Q and date/time: no public source tells the layout
DST_CLOCK = 79  # 7 bytes: minutes of daylight saving, YY, MM, DD, hh, mm, ss

MAX_EXPONENT = 63


class BitField(int):
    """A number whose bits stand for themselves (unit 59)."""

    @property
    def bits(self) -> tuple[int, ...]:
        """The numbers of the bits that are set, lowest first; bit 0 is worth 1."""
        return tuple(bit for bit in range(self.bit_length()) if self >> bit & 1)


class MonthDay(NamedTuple):
    """A day of every year (unit 50), such as the yearly target date."""

    month: int
    day: int

    def __str__(self) -> str:
        return f"{self.month:02}-{self.day:02}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What the meter sent where it makes no date, time or text: kept raw, never guessed.

    Args:
        raw: the decimal number as sent, or the bytes in hex for layouts nobody documented.

    """

    raw: str

    def __str__(self) -> str:
        return self.raw


# None is the meter's "no date yet".
Value = Decimal | date | time | datetime | MonthDay | BitField | str | Unreadable | None


def decode_value(unit: int, sign_exponent: int, data: bytes) -> Value:
    """The exact value of a register.

    Args:
        unit: the unit code of the telegram, 0 to 255.
        sign_exponent: the byte of sign and exponent.
        data: the value bytes, big endian, any number of them.

    Returns:
        A Decimal for every quantity; date, time, datetime, MonthDay, BitField or str where the
        unit code says so; None for a date of 0; Unreadable for what these bytes cannot be.

    """
    return _READERS.get(unit, _read_number)(sign_exponent, data)


def encode_value(value: Value, unit: int, size: int = 4) -> tuple[int, bytes]:
    """Sign/exponent byte and value bytes of `value`: what a meter would send.

    Args:
        value: what `decode_value` returns for this unit.
        unit: the unit code.
        size: the number of value bytes of a number.

    Raises:
        ValueError: the value does not fit the unit or the size.

    """
    match value:
        case Decimal():
            return _encode_number(value, unit, size)
        case BitField():
            return 0, _to_bytes(int(value), size)
        case str():
            return 0, value.encode("latin-1")
        case None:
            return 0, bytes({CLOCK: 8, DST_CLOCK: 7}.get(unit, size))
        case datetime() if unit == DST_CLOCK:
            return 0, bytes((0, value.year - 2000, *value.timetuple()[1:6]))
        case datetime():
            clock = (value.second, value.minute, value.hour, value.day, value.month)
            return 0, bytes((0, value.isoweekday(), *clock, value.year - 2000))
        case date():
            year = value.year if unit == LONG_DATE else value.year - 2000
            return 0, _to_bytes(year * 10000 + value.month * 100 + value.day, size)
        case time():
            return 0, _to_bytes(value.hour * 10000 + value.minute * 100 + value.second, size)
        case MonthDay():
            return 0, _to_bytes(value.month * 100 + value.day, size)
    # Only what `decode_value` could not read is left.
    return 0, (
        bytes.fromhex(value.raw) if unit in UNDOCUMENTED else _to_bytes(int(value.raw), size)
    )


def _encode_number(value: Decimal, unit: int, size: int) -> tuple[int, bytes]:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is no number")  # noqa: TRY004 - an infinity, or not a number
    if unit in TENFOLD:
        exponent -= 1
    integer = int("".join(map(str, digits)))
    if exponent > 0:
        integer, exponent = integer * 10**exponent, 0
    if exponent < -MAX_EXPONENT:
        raise ValueError(f"{value} has more than {MAX_EXPONENT} decimals")
    code = -exponent | (0x40 if exponent else 0) | (0x80 if sign and integer else 0)
    return code, _to_bytes(integer, size)


def _to_bytes(number: int, size: int) -> bytes:
    try:
        return number.to_bytes(size, "big")
    except OverflowError as error:
        raise ValueError(f"{number} does not fit {size} bytes") from error


# What follows the integer for each sign/exponent byte without S. Positive exponents are written
# out as zeros, so that every Decimal prints plainly.
_SCALE = tuple("0" * code if code < 0x40 else f"E-{code & 0x3F}" for code in range(0x80))


def _read_number(sign_exponent: int, data: bytes) -> Decimal:
    integer = int.from_bytes(data, "big")
    if sign_exponent & 0x80:
        integer = -integer
    return Decimal(f"{integer}{_SCALE[sign_exponent & 0x7F]}")


def _read_tenfold(sign_exponent: int, data: bytes) -> Decimal:
    sign, digits, exponent = _read_number(sign_exponent, data).as_tuple()
    return Decimal((sign, (*digits, 0), 0) if exponent == 0 else (sign, digits, int(exponent) + 1))


def _packed(sign_exponent: int, data: bytes) -> int | None:
    """The decimal number that packs a date or time, or None where it is scaled or negative."""
    return None if sign_exponent & 0xBF else int.from_bytes(data, "big")


def _unreadable(sign_exponent: int, data: bytes) -> Unreadable:
    """A packed number that is no date or time, as the plain number the meter sent."""
    return Unreadable(format_value(_read_number(sign_exponent, data)))


def _read_time(sign_exponent: int, data: bytes) -> Value:
    packed = _packed(sign_exponent, data)
    try:
        return time(packed // 10000, packed // 100 % 100, packed % 100)  # type: ignore[operator]
    except (TypeError, ValueError):
        return _unreadable(sign_exponent, data)


def _read_date(sign_exponent: int, data: bytes) -> Value:
    packed = _packed(sign_exponent, data)
    if packed == 0:
        return None
    if packed is None or packed >= 1_000_000:
        return _unreadable(sign_exponent, data)
    return _calendar_day(packed + 20_000_000) or _unreadable(sign_exponent, data)


def _read_long_date(sign_exponent: int, data: bytes) -> Value:
    packed = _packed(sign_exponent, data)
    if packed == 0:
        return None
    return _calendar_day(packed) or _unreadable(sign_exponent, data)


def _calendar_day(packed: int | None) -> date | None:
    try:
        return date(packed // 10000, packed // 100 % 100, packed % 100)  # type: ignore[operator]
    except (TypeError, ValueError, OverflowError):
        return None


def _read_month_day(sign_exponent: int, data: bytes) -> Value:
    packed = _packed(sign_exponent, data)
    if packed == 0:
        return None
    if packed is None or _calendar_day(20_000_000 + packed) is None:  # 2000 had a 29 February
        return _unreadable(sign_exponent, data)
    return MonthDay(packed // 100, packed % 100)


def _read_clock(_sign_exponent: int, data: bytes) -> Value:
    if len(data) != 8:
        return Unreadable(data.hex())
    second, minute, hour, day, month, year = data[2:]
    return _moment(data, 2000 + year, month, day, hour, minute, second)


def _read_dst_clock(_sign_exponent: int, data: bytes) -> Value:
    # The first byte tells the minutes of daylight saving. Whether they are to be added is not
    # documented (kmp.md, 4), so the meter's own standard time is reported.
    if len(data) != 7:
        return Unreadable(data.hex())
    return _moment(data, 2000 + data[1], *data[2:])


def _moment(data: bytes, *fields: int) -> Value:
    if not any(data):
        return None
    try:
        return datetime(*fields)  # type: ignore[arg-type]  # noqa: DTZ001 - the meter has no zone
    except ValueError:
        return Unreadable(data.hex())


def _read_text(_sign_exponent: int, data: bytes) -> Value:
    text = data.rstrip(b"\x00 ").decode("latin-1")
    return text if text.isascii() and text.isprintable() else Unreadable(data.hex())


def _read_bits(_sign_exponent: int, data: bytes) -> Value:
    return BitField(int.from_bytes(data, "big"))


def _read_raw(_sign_exponent: int, data: bytes) -> Value:
    return Unreadable(data.hex())


_READERS = (
    {
        TIME: _read_time,
        DATE: _read_date,
        LONG_DATE: _read_long_date,
        MONTH_DAY: _read_month_day,
        CLOCK: _read_clock,
        TEXT: _read_text,
        BIT_FIELD: _read_bits,
        DST_CLOCK: _read_dst_clock,
    }
    | dict.fromkeys(UNDOCUMENTED, _read_raw)
    | dict.fromkeys(TENFOLD, _read_tenfold)
)


def format_value(value: Value) -> str:
    """`value` as text for people and machines: plain decimals, ISO dates, "" for none yet."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, (date, time)):
        return value.isoformat()
    return "" if value is None else str(value)
