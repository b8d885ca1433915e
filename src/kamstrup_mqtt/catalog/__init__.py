"""What registers, units, meter models and info codes mean: tables and their loader.

`registers.csv`, `units.csv`, `models.csv` and `infocodes.csv` hold the knowledge, each row with its
source. A new register or model is a row there, not code. Registers of electricity meters have a
table of their own, which is loaded when somebody asks for one. Nothing here speaks to a meter.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files

from kamstrup_mqtt.errors import UsageError, did_you_mean

ALL = "all"
MAX_REGISTER = 0xFFFF


@dataclass(frozen=True, slots=True)
class Register:
    """A register of the catalog.

    Args:
        number: the register's id on the wire.
        name: the name it has in configuration, topics and JSON.
        title: what it is, for people.
        units: the units meters are known to use; the telegram decides.
        kind: total, measurement, peak, average, date, time, info, config or identity.
        holds: how long a value of it is good for: `live` not at all; `hour` until the full hour;
            `period` as well, and less around midnight, when its day, month or year ends;
            `connection` as long as the line stays open.
        models: the MULTICAL models known to have it.

    """

    number: int
    name: str
    title: str
    units: tuple[str, ...]
    kind: str
    holds: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """What others call a unit.

    Args:
        symbol: as we write it.
        base: the base unit as Prometheus names it; "" where it has none.
        factor: how many of the base unit it is.
        device_class: its class in Home Assistant; None where it has none.
        shown: how Home Assistant writes it.

    """

    symbol: str
    base: str
    factor: Decimal
    device_class: str | None
    shown: str


@dataclass(frozen=True, slots=True)
class Model:
    """A MULTICAL model: its number, the GetType codes known for it, its table of info codes."""

    name: str
    types: tuple[int, ...]
    info_table: str


def _rows(name: str) -> list[dict[str, str]]:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _list(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(";")) if cell else ()


REGISTERS: Mapping[int, Register] = {
    int(row["register"]): Register(
        int(row["register"]),
        row["name"],
        row["title"],
        _list(row["units"]),
        row["kind"],
        row["holds"],
        _list(row["models"]),
    )
    for row in _rows("registers.csv")
}
_UNIT_ROWS = _rows("units.csv")
UNITS: Mapping[int, str] = {int(row["code"]): row["unit"] for row in _UNIT_ROWS}
_BY_SYMBOL: Mapping[str, Unit] = {
    row["unit"]: Unit(
        row["unit"],
        row["base"],
        Decimal(row["factor"] or 1),
        row["class"] or None,
        (row["shown"] or row["unit"]).strip("-"),  # "-": it is written without
    )
    for row in _UNIT_ROWS
}
# Units of energy in GJ, for prices, and for a meter that was replaced by one with another unit.
GJ: Mapping[str, Decimal] = {
    unit.symbol: unit.factor / 10**9 for unit in _BY_SYMBOL.values() if unit.base == "joules"
}
MODELS: Mapping[str, Model] = {
    row["model"]: Model(
        row["model"], tuple(int(code, 16) for code in _list(row["types"])), row["info_table"]
    )
    for row in _rows("models.csv")
}
_INFO_CODES: Mapping[tuple[str, str, int], str] = {
    (row["table"], row["place"], int(row["value"])): row["meaning"]
    for row in _rows("infocodes.csv")
}
_BY_NAME: Mapping[str, Register] = {
    register.name.lower(): register for register in REGISTERS.values()
}
_OLD_NAMES = {"device_text": 254, "unknown_338": 338}  # before it was known what they are
_ELECTRIC = "electric_"
_NAMES = tuple(register.name for register in REGISTERS.values())

_BIT_TABLES = frozenset(table for table, place, _ in _INFO_CODES if place == "bit")
_MAX_INFO_CODE = 99_999_999  # eight digits
INFO_CODE = _BY_NAME["info_code"].number
FLOW = _BY_NAME["flow"].number
VOLUME = _BY_NAME["volume"].number
# Registers that say whose meter it is.
PRIVATE_REGISTERS = frozenset(
    register.number
    for register in REGISTERS.values()
    if register.kind == "identity" and not register.name.startswith("meter_type")
)
# Registers that hold only the low digits of a total, and the register with the whole of it.
FINE_REGISTERS: Mapping[int, int] = {
    _BY_NAME[f"{name}_high_res"].number: _BY_NAME[name].number
    for name in ("energy", "cooling_energy", "volume")
}

# The 31 parameters of kamstrup-402-mqtt, in the order of its documentation.
CLASSIC_PARAMETERS = (
    "energy", "power", "temp1", "temp2", "tempdiff", "flow", "volume",
    "minflow_m", "maxflow_m", "minflowDate_m", "maxflowDate_m", "minpower_m", "maxpower_m",
    "avgtemp1_m", "avgtemp2_m", "minpowerdate_m", "maxpowerdate_m",
    "minflow_y", "maxflow_y", "minflowdate_y", "maxflowdate_y", "minpower_y", "maxpower_y",
    "avgtemp1_y", "avgtemp2_y", "minpowerdate_y", "maxpowerdate_y",
    "temp1xm3", "temp2xm3", "infoevent", "hourcounter",
)  # fmt: skip


def register_name(number: int) -> str:
    """The name of a register: the catalog's, also of electricity meters, or like 0x0123."""
    register = REGISTERS.get(number)
    if register is not None:
        return register.name
    return _electricity().get(number, f"0x{number:04X}")


def unit_symbol(code: int) -> str:
    """The symbol of a unit code, "" for plain numbers, "unit 67" for a code nobody documented.

    Dates and times have their kind as a unit: date, time, datetime, month-day.
    """
    return UNITS.get(code, f"unit {code}")


def unit_of(symbol: str) -> Unit:
    """What others call a unit, by its symbol; one that nobody knows keeps its symbol."""
    return _BY_SYMBOL.get(symbol) or Unit(symbol, "", Decimal(1), None, symbol)


def register_number(parameter: str | int) -> int:
    """The register that a user means by a name in any case, or a number such as 60 or 0x10A.

    Raises:
        UsageError: no such name or number; the message offers the nearest name.

    """
    number = parameter if isinstance(parameter, int) else _number(parameter)
    if number is not None:
        if 0 <= number <= MAX_REGISTER:
            return number
        raise UsageError(f"there is no register {parameter}: numbers go from 0 to 0xFFFF")
    name = str(parameter).strip().lower()
    if name in _BY_NAME:
        return _BY_NAME[name].number
    if name in _OLD_NAMES:
        return _OLD_NAMES[name]
    if name.startswith(_ELECTRIC):
        for number, known in _electricity().items():
            if known == name:
                return number
    raise UsageError(f"unknown parameter '{parameter}'{did_you_mean(name, _NAMES)}")


def register_numbers(parameters: Iterable[str | int]) -> tuple[int, ...]:
    """The registers of several parameters, each once, in order; `all` means the whole catalog.

    Raises:
        UsageError: one of them does not exist.

    """
    found: dict[int, None] = {}
    for parameter in parameters:
        if isinstance(parameter, str) and parameter.strip().lower() == ALL:
            found.update(dict.fromkeys(REGISTERS))
        else:
            found[register_number(parameter)] = None
    return tuple(found)


def model_of_type(type_code: int) -> str | None:
    """The MULTICAL model with this GetType code, or None: most codes are not public."""
    return next((model.name for model in MODELS.values() if type_code in model.types), None)


def info_words(code: int, model: str) -> tuple[str, ...]:
    """The faults an info code (register 99) names, in words.

    Args:
        code: the number as the meter sent it; 0 means all is well.
        model: the MULTICAL model, such as "403".

    Returns:
        One sentence a fault, parts without a known meaning named as such; empty when the code is
        0, or when nothing public says what it means on this model. Above 65535 the number can only
        be the eight digits of the display; below it is a sum of bits, where the model is known to
        send that: whether a 603 or 803 does, no source tells (infocodes.md). What is neither is
        named as it is.

    """
    table = MODELS[model].info_table if model in MODELS else ""
    if not table or not code:
        return ()
    if code <= 0xFFFF and table not in _BIT_TABLES:
        return ()
    if not 0 <= code <= _MAX_INFO_CODE:
        return (f"not documented: info code {code}",)
    if code > 0xFFFF:
        parts = [
            (f"digit {place}", int(digit))
            for place, digit in enumerate(f"{code:08}", start=1)
            if digit != "0"
        ]
    else:
        parts = [("bit", 1 << bit) for bit in range(16) if code >> bit & 1]
    words = [
        _INFO_CODES.get((table, place, value), f"not documented: {place} {value}")
        for place, value in parts
    ]
    return tuple(dict.fromkeys(words))


@cache
def _electricity() -> Mapping[int, str]:
    """The names of the registers of electricity meters: a long table that few need."""
    return {int(row["register"]): row["name"] for row in _rows("electricity.csv")}


def _number(text: str) -> int | None:
    text = text.strip().lower()
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        return None
