"""Readouts as rows: exact text, and back to exactly the same readout.

Pure. What was missing in a readout is not kept. SQLite has no checksums, so that what comes from
the disk may be anything: a row that holds no readout raises `RowError`, and nothing else.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from kamstrup_mqtt.kmp import BitField, MonthDay, Unreadable, Value, format_value
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout

# Where a readout comes from, by the number of its column: live, the meter's own loggers, an import.
SOURCES = ("live", "hour", "day", "month", "year", "import")
LIVE, IMPORT = SOURCES.index("live"), SOURCES.index("import")
_SEPARATOR = "\x1f"  # no register of a meter holds it
_ESCAPE = str.maketrans({_SEPARATOR: "?"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DIGITS = "0123456789+-.E"
_MOST_DIGITS = 200  # before and after the point: far beyond what a meter sends
# Microseconds since 1970 between which every time zone has a date.
FIRST = (datetime(1, 1, 3, tzinfo=UTC) - _EPOCH) // _MICROSECOND
LAST = (datetime(9999, 12, 29, tzinfo=UTC) - _EPOCH) // _MICROSECOND


class RowError(ValueError):
    """A row that holds no readout; the words say why."""


def number(text: str) -> Decimal:
    """The number that `text_of` wrote. Raises ValueError or InvalidOperation."""
    if text.strip(_DIGITS):  # what Decimal takes beyond that, such as 22_.445, is no number of ours
        raise ValueError(f"'{text[:20]}' is no number")
    value = Decimal(text)
    if "E" in text or len(text) > _MOST_DIGITS:
        exponent = int(value.as_tuple().exponent)
        if max(abs(exponent), abs(value.adjusted())) > _MOST_DIGITS:
            raise ValueError(f"'{text[:20]}' is no number of a meter")
    return value


# How each kind of value is written, and read again.
_KINDS: Mapping[type, tuple[str, Callable[[str], Value]]] = {
    Decimal: ("number", number),
    BitField: ("bits", lambda text: BitField(int(text))),
    datetime: ("datetime", datetime.fromisoformat),
    date: ("date", date.fromisoformat),
    time: ("time", time.fromisoformat),
    MonthDay: ("month-day", lambda text: MonthDay(*map(int, text.split("-")))),
    str: ("text", str),
    Unreadable: ("raw", Unreadable),
    type(None): ("none", lambda _text: None),
}
_DECODERS = dict(_KINDS.values())
KINDS = tuple(_DECODERS)
_NUMBER = KINDS[0]
# What reading a row that was changed may come upon.
_WRONG = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)


class Row(NamedTuple):
    """A readout as it is kept; the columns of the schema."""

    identity: str
    columns: str
    taken: int
    utc_offset: int
    digits: str
    misdated: int = 0
    source: int = LIVE
    meter_sequence: int | None = None


def encode(readout: Readout) -> Row:
    """The row of a readout."""
    readings = list(readout)
    columns = [[r.register, r.name, r.unit, kind_of(r.value)] for r in readings]
    offset = readout.time.utcoffset()
    return Row(
        json.dumps(readout.meter.to_dict()),
        json.dumps(columns, ensure_ascii=False, separators=(",", ":")),
        taken_of(readout.time),
        int(offset.total_seconds()) if offset else 0,
        _SEPARATOR.join(text_of(reading.value).translate(_ESCAPE) for reading in readings),
        int(readout.misdated),
    )


def decode(row: Row) -> Readout:
    """The readout of a row. Raises RowError."""
    try:
        columns = _columns(row.columns)
        readings = {
            column.register: Reading(
                column.register, column.name, parsed(column.kind, text), column.unit
            )
            for column, text in zip(columns, row.digits.split(_SEPARATOR), strict=True)
        }
        zone = timezone(timedelta(seconds=row.utc_offset))
        moment = moment_of(checked(row.taken)).astimezone(zone)
        return Readout(identity(row.identity), moment, readings, {}, misdated=bool(row.misdated))
    except _WRONG as error:
        raise _row_error(error) from error


def identity(text: str) -> MeterIdentity:
    """Who a meter is, of what is kept of it. Raises RowError."""
    try:
        meter = json.loads(text)
        told = [meter[key] for key in ("serial", "type", "revision", "model")]
        if not all(one is None or isinstance(one, str) for one in told):
            raise RowError("no identity of a meter")
        return MeterIdentity(*(one or None for one in told))
    except _WRONG as error:
        raise _row_error(error) from error


def numbers(columns: str, digits: str, only: int | None = None) -> list[tuple[int, str, Decimal]]:
    """The numeric registers of a row, or `only` one: number, unit and exact value.

    Raises RowError. The digits of what is not wanted are not looked at, but there they must be.
    """
    try:
        texts = digits.split(_SEPARATOR)
        if len(texts) != len(_columns(columns)):
            raise RowError("not as many values as its layout has")
        return [
            (register, unit, number(texts[place]))
            for place, register, unit in _numeric(columns, only)
        ]
    except _WRONG as error:
        raise _row_error(error) from error


def is_layout(columns: str) -> bool:
    """Whether that says what the columns of readouts are."""
    with contextlib.suppress(*_WRONG):
        _columns(columns)
        return True
    return False


def registers_in(columns: str) -> set[int]:
    """The registers with numbers in a layout. Raises RowError."""
    try:
        return {register for _, register, _ in _numeric(columns, None)}
    except _WRONG as error:
        raise _row_error(error) from error


def text_in(value: object) -> str:
    """`value`, where it is text. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(f"{str(value)[:20]} is no text")
    return value


def source_in(value: object) -> str:
    """The source with that number. Raises RowError."""
    if not isinstance(value, int) or not 0 <= value < len(SOURCES):
        raise RowError(f"{str(value)[:20]} is no source of a readout")
    return SOURCES[value]


def number_in(value: object) -> int | None:
    """`value`, where it is a whole number or none. Raises RowError."""
    if value is not None and not isinstance(value, int):
        raise RowError(f"{str(value)[:20]} is no number")
    return value


def checked(taken: object) -> int:
    """`taken`, where it is a time that every zone has. Raises RowError."""
    if not isinstance(taken, int) or not FIRST <= taken <= LAST:
        raise RowError(f"{str(taken)[:20]} is no time")
    return taken


class _Column(NamedTuple):
    register: int
    name: str
    unit: str
    kind: str


@lru_cache(maxsize=64)
def _columns(columns: str) -> list[_Column]:
    found = []
    for register, name, unit, kind in json.loads(columns):
        if type(register) is not int or kind not in _DECODERS:
            raise RowError("no layout of a readout")
        found.append(_Column(register, text_in(name), text_in(unit), kind))
    return found


@lru_cache(maxsize=256)
def _numeric(columns: str, only: int | None) -> list[tuple[int, int, str]]:
    """Place, register and unit of the columns with numbers."""
    return [
        (place, column.register, column.unit)
        for place, column in enumerate(_columns(columns))
        if column.kind == _NUMBER and only in (None, column.register)
    ]


def _row_error(error: Exception) -> RowError:
    return error if isinstance(error, RowError) else RowError(str(error) or type(error).__name__)


def taken_of(moment: datetime) -> int:
    """A moment as it is kept: microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(taken: int) -> datetime:
    """The moment, in UTC, that is kept as `taken`."""
    return _EPOCH + taken * _MICROSECOND


def kind_of(value: Value) -> str:
    """The kind of a value, one of `KINDS`."""
    return _KINDS[type(value)][0]


def text_of(value: Value) -> str:
    """A value as text that `parsed` reads."""
    if isinstance(value, Decimal):
        return str(value)  # with its exponent, which says how exact it is
    return format_value(value)


def parsed(kind: str, text: str) -> Value:
    """The value of a kind in `text`. Raises ValueError or InvalidOperation."""
    return _DECODERS[kind](text)
