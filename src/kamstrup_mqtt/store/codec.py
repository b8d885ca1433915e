"""Readouts as rows: exact text, and back to exactly the same readout.

Pure. What was missing in a readout is not kept.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from kamstrup_mqtt.kmp import BitField, MonthDay, Unreadable, Value, format_value
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout

_SEPARATOR = "\x1f"  # no register of a meter holds it
_ESCAPE = str.maketrans({_SEPARATOR: "?"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# How each kind of value is written, and read again.
_KINDS: Mapping[type, tuple[str, Callable[[str], Value]]] = {
    Decimal: ("number", Decimal),
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


# Readouts with their number and the meter's configured name; the rest are the fields of a `Row`.
READOUTS = (
    "SELECT sequence, name, identity, columns, taken, utc_offset, digits FROM readout "
    "JOIN meter ON meter.id = readout.meter JOIN layout ON layout.id = readout.layout "
)


class Row(NamedTuple):
    """A readout as it is kept; the columns of the schema."""

    identity: str
    columns: str
    taken: int
    utc_offset: int
    digits: str


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
    )


def decode(row: Row) -> Readout:
    """The readout of a row."""
    columns = json.loads(row.columns)
    texts = row.digits.split(_SEPARATOR)
    readings = {
        register: Reading(register, name, parsed(kind, text), unit)
        for (register, name, unit, kind), text in zip(columns, texts, strict=True)
    }
    zone = timezone(timedelta(seconds=row.utc_offset))
    return Readout(
        identity(row.identity),
        moment_of(row.taken).astimezone(zone),
        readings,
        {},
    )


def identity(text: str) -> MeterIdentity:
    """Who a meter is, of what is kept of it."""
    meter = json.loads(text)
    return MeterIdentity(meter["serial"], meter["type"], meter["revision"], meter["model"])


def numbers(
    columns: str, digits: str, only: int | None = None
) -> Iterator[tuple[int, str, Decimal]]:
    """The numeric registers of a row, or `only` one: number, unit and exact value."""
    for (register, unit, is_number), text in zip(
        _columns(columns), digits.split(_SEPARATOR), strict=True
    ):
        if is_number and only in (None, register):
            yield register, unit, Decimal(text)


def number_of(columns: str, digits: str, register: int) -> tuple[str, str] | None:
    """One numeric register of a row: its unit, and its exact value as text."""
    place = _place(columns, register)
    return (place[1], digits.split(_SEPARATOR, place[0] + 1)[place[0]]) if place else None


@lru_cache(maxsize=256)
def _place(columns: str, register: int) -> tuple[int, str] | None:
    found = (
        (index, unit)
        for index, (known, unit, is_number) in enumerate(_columns(columns))
        if known == register and is_number
    )
    return next(found, None)


@lru_cache(maxsize=64)
def _columns(columns: str) -> list[tuple[int, str, bool]]:
    return [(register, unit, kind == "number") for register, _, unit, kind in json.loads(columns)]


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
