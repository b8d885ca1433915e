"""Readouts as CSV and JSON lines, to the digit, and CSV of others as readouts.

Text in, text out; nothing here opens a file or the history.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, tzinfo
from decimal import Decimal, InvalidOperation

from kamstrup_mqtt.catalog import FINE_REGISTERS, REGISTERS, register_number
from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.kmp import MAX_DIGITS, Unreadable, within_max_digits
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout
from kamstrup_mqtt.store import Stored
from kamstrup_mqtt.store.codec import KINDS, kind_of, parsed, text_of

_IDENTITY = ("serial", "type", "revision", "model")
_TIMES = ("timestamp", "time", "date", "datetime", "last_changed", "begin")
_MISDATED = "misdated"  # the column that says of a time that it is wrong
_YES = "yes"
_NONE = "(none)"  # a date that the meter does not have yet
_EMPTY = "(empty)"  # a text without a character
_HEADER = re.compile(r"(?P<name>[^\[(]+?)\s*(?:\[(?P<unit>[^\]]*)\])?\s*(?:\((?P<kind>[\w-]+)\))?")
_FIRST_YEAR = 1970  # a machine without a clock begins there
_DAY_FIRST = re.compile(r"(\d{1,2})[-./](\d{1,2})[-./](\d{4})(?:[ T](.*))?")
_WITHOUT_VALUE = {kind_of(None), kind_of(Unreadable(""))}
_NO_STATE = ("", "unknown", "unavailable", "none", "null")
_DIALECTS = ",;\t"
_LONGEST_CELL = 60  # that a message repeats

Column = tuple[int, str, str, str]  # register, name, unit, kind
Line = tuple[str, Readout]  # the meter's configured name, and what was read


def columns_of(layouts: Iterable[str]) -> list[Column]:
    """The columns that hold readouts of these layouts, each once."""
    kinds: dict[tuple[int, str, str], set[str]] = {}
    for layout in layouts:
        for register, name, unit, kind in json.loads(layout):
            kinds.setdefault((register, name, unit), set()).add(kind)
    return [
        (*key, kind)
        for key, found in kinds.items()
        for kind in sorted(found - _WITHOUT_VALUE) or ["none"]
    ]  # fmt: skip


def write_csv(
    readouts: Iterable[Stored], columns: list[Column], *, misdated: bool = False
) -> Iterator[list[str]]:
    """The rows of a CSV file: a heading, and one row a readout.

    Args:
        readouts: as they are stored.
        columns: what of them.
        misdated: whether a column says which times are wrong.

    """
    marks = [_MISDATED] if misdated else []
    yield ["timestamp", "meter", *_IDENTITY, *marks, *map(_heading, columns)]
    for stored in readouts:
        readout = stored.readout
        who = readout.meter.to_dict()
        yield [
            readout.time.isoformat(), stored.meter, *(who[key] or "" for key in _IDENTITY),
            *([_YES if readout.misdated else ""] if misdated else []),
            *(_cell(readout.readings.get(column[0]), column) for column in columns),
        ]  # fmt: skip


def to_json_line(stored: Stored) -> str:
    """A readout as one JSON object: values as text, so that no digit is lost."""
    readout = stored.readout
    return json.dumps(
        {
            "timestamp": readout.time.isoformat(), "meter": stored.meter,
            "serial": readout.meter.serial, "source": stored.source,
            **({_MISDATED: True} if readout.misdated else {}),
            "values": {one.name: {"value": one.told, "unit": one.unit} for one in readout},
        },
        ensure_ascii=False,
    )  # fmt: skip


def read_csv(
    lines: Iterable[str], zone: tzinfo, *, meter: str, serial: str | None = None,
    parameter: str | None = None, unit: str | None = None,
) -> Iterator[Line]:  # fmt: skip
    """The readouts in a CSV file: our own, of Home Assistant, or of a spreadsheet.

    Args:
        lines: the file.
        zone: of times that do not name theirs.
        meter: the configured name of the meter, where the file does not have it.
        serial: its serial number, where the file does not have it.
        parameter: what the states of a file of Home Assistant are.
        unit: of values whose heading does not name one.

    Raises:
        UsageError: a line cannot be understood, or a total goes backwards; it names the line.

    """
    source = iter(lines)
    heading = next(source, "").lstrip("\ufeff")
    mark = max(_DIALECTS, key=heading.count)
    names = [name.strip() for _, row in _rows([heading], mark, 1) for name in row]
    lower = [name.lower() for name in names]
    at = next((lower.index(name) for name in _TIMES if name in lower), None)
    if at is None:
        raise UsageError(f"no column for the time; expected one of {', '.join(_TIMES)}")
    columns = _columns(names, lower, at, parameter, unit)
    totals: dict[tuple[str, int], tuple[datetime, Decimal]] = {}
    for number, cells in _rows(source, mark, 2):
        if not any(cells):
            continue
        row = dict(zip(lower, cells, strict=False))
        try:
            moment = _moment(cells[at], zone)
            readings = {
                column[0]: reading
                for index, column in columns.items()
                if index < len(cells)
                and (reading := _reading(cells[index], column, mark)) is not None
            }
        except (ValueError, IndexError) as error:
            raise UsageError(f"line {number}: {error}") from error
        if not readings:
            continue
        whose = row.get("meter") or meter
        who = MeterIdentity(*(row.get(key) or None for key in _IDENTITY))
        if who.serial is None and serial:
            who = MeterIdentity(serial)
        misdated = (row.get(_MISDATED) or "").strip().lower() == _YES
        if not misdated:
            _check_totals(number, f"{whose} {who.serial}", moment, readings, totals)
        yield whose, Readout(who, moment, readings, {}, misdated)


def _rows(lines: Iterable[str], mark: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, numbered from `first`."""
    number = first - 1
    try:
        for number, cells in enumerate(csv.reader(lines, delimiter=mark), start=first):
            yield number, cells
    except csv.Error as error:
        raise UsageError(f"line {number + 1} is no line of a table: {error}") from error


def _heading(column: Column) -> str:
    register, name, unit, kind = column
    known = REGISTERS.get(register)
    # That there is no unit is told where one is expected.
    shown = f"{name} [{unit}]" if unit or (known and known.units) else name
    return shown if kind == "number" else f"{shown} ({kind})"


def _cell(reading: Reading | None, column: Column) -> str:
    _, _, unit, kind = column
    if reading is None or reading.unit != unit:
        return ""
    if reading.told is None:
        return _NONE
    return text_of(reading.value) or _EMPTY if kind_of(reading.value) == kind else ""


def _columns(
    names: list[str], lower: list[str], at: int, parameter: str | None, unit: str | None
) -> dict[int, Column]:
    """What each column of a file holds, by its place."""
    if "state" in lower and "entity_id" in lower:
        if parameter is None:
            raise UsageError("this is a history of Home Assistant: name its --parameter")
        number = register_number(parameter)
        return {lower.index("state"): _column(number, REGISTERS[number].name, unit, "number")}
    columns = {}
    for index, name in enumerate(names):
        if index == at or lower[index] in ("meter", _MISDATED, *_IDENTITY):
            continue
        match = _HEADER.fullmatch(name)
        if match is None or (match["kind"] or "number") not in KINDS:
            raise UsageError(f"column '{name}': expected a parameter, such as energy [GJ]")
        number = register_number(match["name"])
        columns[index] = _column(
            number,
            match["name"],
            unit if match["unit"] is None else match["unit"],
            match["kind"] or "number",
        )
    if not columns:
        raise UsageError("no column with a parameter, such as energy [GJ]")
    return columns


def _column(number: int, name: str, unit: str | None, kind: str) -> Column:
    known = REGISTERS.get(number)
    units = known.units if known else ()
    if unit is None and kind == "number" and len(units) > 1:
        raise UsageError(f"column '{name}': its unit is missing; write '{name} [{units[0]}]'")
    return number, known.name if known else name, (*units, "")[0] if unit is None else unit, kind


def _reading(cell: str, column: Column, mark: str) -> Reading | None:
    number, name, unit, kind = column
    text = cell.strip() if kind == "number" else cell
    if text == "" or (kind == "number" and text.lower() in _NO_STATE):
        return None
    if text == _NONE:
        return Reading(number, name, None, unit)
    if text == _EMPTY:
        text = ""
    if kind == "number":
        text = text.upper()  # as in 1E5
        text = text.replace(",", ".") if mark != "," else text
    try:
        value = parsed(kind, text)
    except (InvalidOperation, ValueError, TypeError):
        raise ValueError(f"'{_shortened(cell)}' is not a {kind}") from None
    if isinstance(value, Decimal) and not within_max_digits(value):
        raise ValueError(f"'{_shortened(cell)}' is not a number of at most {MAX_DIGITS} digits")
    return Reading(number, name, value, unit)


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _LONGEST_CELL else f"{cell[:_LONGEST_CELL]}..."


def _moment(text: str, zone: tzinfo) -> datetime:
    text = text.strip()
    match = _DAY_FIRST.fullmatch(text)
    if match is not None:
        text = f"{match[3]}-{int(match[2]):02}-{int(match[1]):02}T{match[4] or '00:00'}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is no time, such as 2026-11-24 10:28") from None
    if moment.year < _FIRST_YEAR:
        raise ValueError(f"'{text}' is before all meters that could be read")
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _check_totals(
    number: int, whose: str, moment: datetime, readings: dict[int, Reading],
    totals: dict[tuple[str, int], tuple[datetime, Decimal]],
) -> None:  # fmt: skip
    for register, reading in readings.items():
        known = REGISTERS.get(register)
        if known is None or known.kind != "total" or register in FINE_REGISTERS:
            continue
        if not isinstance(reading.value, Decimal):
            continue
        before = totals.get((whose, register))
        if before and moment > before[0] and reading.value < before[1]:
            raise UsageError(
                f"line {number}: {reading.name} goes back from {before[1]} to {reading.value}; "
                "another meter? Then import its lines on their own, with --serial"
            )
        totals[whose, register] = (moment, reading.value)
