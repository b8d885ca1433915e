"""Values of registers: unit code, sign and exponent, and bytes; to exact values and back.

A number is (-1)^S x integer x 10^E, where S is bit 7 of the sign/exponent byte, bit 6 the sign of
E and bits 0 to 5 its size (kmp.md, 4). It becomes a `Decimal` with the meter's own number of
decimals: 227445 with E = -3 is 227.445, 227000 is 227.000. No float is ever involved.

Whatever the bytes are, they have a value: where they make none, it is `Unreadable`.

This module knows the codes that change what the bytes mean; the names of units are the catalog's.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import NamedTuple

TIME = 47  # decimal hhmmss
DATE = 48  # decimal yymmdd
LONG_DATE = 49  # decimal yyyymmdd
MONTH_DAY = 50  # decimal mmdd
CLOCK = 53  # 8 bytes: flags, weekday, ss, mm, hh, DD, MM, YY
TEXT = 54
TENFOLD = (55, 56, 57)  # m³ x 10, t x 10, GJ x 10
BIT_FIELD = 59
CLOCK_Q = 63  # as CLOCK
SECONDS = 72  # 5 bytes: flags, seconds since 2000
UNDOCUMENTED = (64, 73, 74)  # date/time, of which no source tells the layout, and IP addresses
DST_CLOCK = 79  # 7 bytes: minutes of summer time, YY, MM, DD, hh, mm, ss of standard time
_IN_HEX = (
    CLOCK,
    CLOCK_Q,
    SECONDS,
    TEXT,
    *UNDOCUMENTED,
    DST_CLOCK,
)  # how their bytes are told when they make none

MAX_EXPONENT = 63
# Of a number, written out. No meter known sends more than 25 (10 bytes, kmp.md, 4); the size and
# exponent of a register could make 677. With 28 sums and differences stay exact everywhere.
MAX_DIGITS = 28
# To reckon with values: the longest beside the smallest take 55 digits, and 10,000 of them 59.
EXACT = Context(prec=60)
_MILLENNIUM = datetime(2000, 1, 1)  # noqa: DTZ001 - the meter has no zone
_SURELY_SHORT = 8  # 8 bytes and 8 zeros are 28 digits


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
    """What the meter sent where it makes no number, date, time or text: kept raw, never guessed.

    Args:
        raw: the decimal number as sent, or the bytes in hex where they are none; "" for a register
            of no bytes.

    """

    raw: str

    def __str__(self) -> str:
        return self.raw


# None is the meter's "no date yet".
Value = Decimal | date | time | datetime | MonthDay | BitField | str | Unreadable | None


def decode_value(unit: int, sign_exponent: int, data: bytes) -> Value:
    """The exact value of a register. Any bytes have one.

    Args:
        unit: the unit code of the telegram, 0 to 255.
        sign_exponent: the byte of sign and exponent.
        data: the value bytes, big endian, any number of them.

    Returns:
        A Decimal for every quantity; date, time, datetime, MonthDay, BitField or str where the
        unit code says so; None for a date of 0; Unreadable for what these bytes cannot be, for no
        bytes, and for a number of more than `MAX_DIGITS` digits.

    """
    if not data:
        return Unreadable("")
    return _READERS.get(unit, _read_number)(sign_exponent, data)


def encode_value(value: Value, unit: int, size: int = 4) -> tuple[int, bytes]:
    """Sign/exponent byte and value bytes of `value`: what a meter would send.

    They decode to the same value. What `decode_value` made of so many bytes fits as many again.

    Args:
        value: what `decode_value` returns for this unit.
        unit: the unit code.
        size: the number of value bytes of a number.

    Raises:
        ValueError: the value does not fit the unit or the size.

    """
    code, data = _encoded(value, unit, size)
    if decode_value(unit, code, data) != value:
        raise ValueError(f"{value!r} is nothing that {len(data)} bytes of unit {unit} can say")
    return code, data


def _encoded(value: Value, unit: int, size: int) -> tuple[int, bytes]:
    match value:
        case Unreadable(raw):
            return _encode_raw(raw, unit, size)
        case Decimal():
            return _encode_number(value, unit, size)
        case BitField():
            return 0, _to_bytes(int(value), size)
        case str():
            return 0, value.encode("latin-1") or bytes(size)
        case None:
            return 0, bytes({CLOCK: 8, CLOCK_Q: 8, SECONDS: 5, DST_CLOCK: 7}.get(unit, size))
        case datetime() if unit == DST_CLOCK:
            return 0, bytes((0, value.year - 2000, *value.timetuple()[1:6]))
        case datetime() if unit == SECONDS:
            seconds = (value - _MILLENNIUM) // timedelta(seconds=1)
            return 0, b"\x02" + seconds.to_bytes(4, "big")  # the bit that says it is valid
        case datetime():
            clock = (value.second, value.minute, value.hour, value.day, value.month)
            return 0, bytes((0, value.isoweekday(), *clock, value.year - 2000))
        case date():
            year = value.year if unit == LONG_DATE else value.year - 2000
            packed = year * 10000 + value.month * 100 + value.day
        case time():
            packed = value.hour * 10000 + value.minute * 100 + value.second
        case _:
            packed = value.month * 100 + value.day
    return _encode_number(Decimal(packed), unit, size)


def _encode_raw(raw: str, unit: int, size: int) -> tuple[int, bytes]:
    if not raw or unit in _IN_HEX:
        return 0, bytes.fromhex(raw)
    try:
        return _encode_number(Decimal(raw), unit, size)
    except InvalidOperation as error:
        raise ValueError(f"'{raw}' is no number") from error


def _encode_number(value: Decimal, unit: int, size: int) -> tuple[int, bytes]:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is no number")  # noqa: TRY004 - an infinity, or not a number
    if exponent > 2 * MAX_EXPONENT:
        raise ValueError(f"{value} has more than {2 * MAX_EXPONENT} zeros")
    if exponent < -MAX_EXPONENT:
        raise ValueError(f"{value} has more than {MAX_EXPONENT} decimals")
    zeros = max(0, exponent)
    integer, scale = int("".join(map(str, digits))) * 10**zeros, exponent - zeros
    if unit in TENFOLD:
        scale -= 1
    # Zeros are written out where there is room, as meters do.
    while exponent >= 0 and integer >= 256**size and scale < MAX_EXPONENT and not integer % 10:
        integer, scale = integer // 10, scale + 1
    code = abs(scale) | (0x40 if scale < 0 else 0) | (0x80 if sign and integer else 0)
    return code, _to_bytes(integer, size)


def _to_bytes(number: int, size: int) -> bytes:
    try:
        return number.to_bytes(size, "big")
    except OverflowError as error:
        raise ValueError(f"{number} does not fit {size} bytes") from error


def within_max_digits(number: Decimal) -> bool:
    """Whether `number`, written out, has at most `MAX_DIGITS` digits, so that it can be a value."""
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        return False
    return max(1, len(digits) + exponent) + max(0, -exponent) <= MAX_DIGITS


# What follows the integer for each sign/exponent byte without S. Positive exponents are written
# out as zeros, so that every Decimal prints plainly.
_SCALE = tuple("0" * code if code < 0x40 else f"E-{code & 0x3F}" for code in range(0x80))


def _number(sign_exponent: int, data: bytes) -> Decimal:
    """The number that was sent, of whatever length."""
    integer = int.from_bytes(data, "big")
    if sign_exponent & 0x80:
        integer = -integer
    return Decimal(f"{integer}{_SCALE[sign_exponent & 0x7F]}")


def _read_number(sign_exponent: int, data: bytes) -> Value:
    number = _number(sign_exponent, data)
    if len(data) <= _SURELY_SHORT and sign_exponent & 0x3F <= _SURELY_SHORT:
        return number
    return _checked(number)


def _checked(number: Decimal) -> Value:
    return number if within_max_digits(number) else Unreadable(format_value(number))


def _read_tenfold(sign_exponent: int, data: bytes) -> Value:
    sign, digits, exponent = _number(sign_exponent, data).as_tuple()
    return _checked(
        Decimal((sign, (*digits, 0), 0) if exponent == 0 else (sign, digits, int(exponent) + 1))
    )


def _packed(read: Callable[[int], Value]) -> Callable[[int, bytes], Value]:
    """A reader of decimal digits in one number, which `read` takes apart or refuses.

    What it refuses, and what has decimals or a minus, is the plain number as the meter sent it.
    """

    def read_packed(sign_exponent: int, data: bytes) -> Value:
        number = _number(sign_exponent, data)
        if number.as_tuple().exponent == 0 and number >= 0:
            with contextlib.suppress(ValueError, OverflowError):
                return read(int(number))
        return Unreadable(format_value(number))

    return read_packed


def _time(packed: int) -> Value:
    return time(packed // 10000, packed // 100 % 100, packed % 100)


def _date(packed: int) -> Value:
    if packed >= 1_000_000:
        raise ValueError(packed)
    return _long_date(packed and packed + 20_000_000)


def _long_date(packed: int) -> Value:
    return date(packed // 10000, packed // 100 % 100, packed % 100) if packed else None


def _month_day(packed: int) -> Value:
    if not packed:
        return None
    day = date(2000, packed // 100, packed % 100)  # a year with a 29 February
    return MonthDay(day.month, day.day)


def _read_clock(_sign_exponent: int, data: bytes) -> Value:
    if len(data) != 8:
        return Unreadable(data.hex())
    second, minute, hour, day, month, year = data[2:]
    return _moment(data, 2000 + year, month, day, hour, minute, second)


def _read_dst_clock(_sign_exponent: int, data: bytes) -> Value:
    if len(data) != 7:
        return Unreadable(data.hex())
    standard = _moment(data, 2000 + data[1], *data[2:])
    if not isinstance(standard, datetime):
        return standard
    return standard + timedelta(minutes=data[0])  # a meter on summer time (TD403 7.10)


def _read_seconds(_sign_exponent: int, data: bytes) -> Value:
    if len(data) != 5:
        return Unreadable(data.hex())
    seconds = int.from_bytes(data[1:], "big")
    return _MILLENNIUM + timedelta(seconds=seconds) if any(data) else None


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
    bits = BitField(int.from_bytes(data, "big"))
    return bits if bits < 10**MAX_DIGITS else Unreadable(str(bits))


def _read_raw(_sign_exponent: int, data: bytes) -> Value:
    return Unreadable(data.hex())


_READERS = (
    {
        TIME: _packed(_time),
        DATE: _packed(_date),
        LONG_DATE: _packed(_long_date),
        MONTH_DAY: _packed(_month_day),
        CLOCK: _read_clock,
        CLOCK_Q: _read_clock,
        SECONDS: _read_seconds,
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
