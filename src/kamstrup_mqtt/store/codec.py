"""Readouts as rows: exact text, and back to exactly the same readout.

Pure. What was missing in a readout is not kept.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
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
    columns = [[r.register, r.name, r.unit, _KINDS[type(r.value)][0]] for r in readings]
    offset = readout.time.utcoffset()
    return Row(
        json.dumps(readout.meter.to_dict()),
        json.dumps(columns, ensure_ascii=False, separators=(",", ":")),
        (readout.time - _EPOCH) // _MICROSECOND,
        int(offset.total_seconds()) if offset else 0,
        _SEPARATOR.join(_text(reading.value) for reading in readings),
    )


def decode(row: Row) -> Readout:
    """The readout of a row."""
    meter = json.loads(row.identity)
    columns = json.loads(row.columns)
    texts = row.digits.split(_SEPARATOR)
    readings = {
        register: Reading(register, name, _DECODERS[kind](text), unit)
        for (register, name, unit, kind), text in zip(columns, texts, strict=True)
    }
    zone = timezone(timedelta(seconds=row.utc_offset))
    return Readout(
        MeterIdentity(meter["serial"], meter["type"], meter["revision"], meter["model"]),
        (_EPOCH + row.taken * _MICROSECOND).astimezone(zone),
        readings,
        {},
    )


def _text(value: Value) -> str:
    if isinstance(value, Decimal):
        return str(value)  # with its exponent, which says how exact it is
    return format_value(value).translate(_ESCAPE)
