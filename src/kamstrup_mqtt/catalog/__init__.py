"""What registers, units, meter models and info codes mean: four tables and their loader.

`registers.csv`, `units.csv`, `models.csv` and `infocodes.csv` hold the knowledge, each row with its
source. A new register or model is a row there, not code. Nothing here speaks to a meter.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
UNITS: Mapping[int, str] = {int(row["code"]): row["unit"] for row in _rows("units.csv")}
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
_NAMES = tuple(register.name for register in REGISTERS.values())

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
    """The name of a register: the catalog's, or its number like 0x0123."""
    register = REGISTERS.get(number)
    return register.name if register else f"0x{number:04X}"


def unit_symbol(code: int) -> str:
    """The symbol of a unit code, "" for plain numbers, "unit 67" for a code nobody documented.

    Dates and times have their kind as a unit: date, time, datetime, month-day.
    """
    return UNITS.get(code, f"unit {code}")


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
        0 or the model has no public table. Above 65535 the number can only be the eight digits of
        the display, below it is a sum of bits (infocodes.md). What is neither is named as it is.

    """
    table = MODELS[model].info_table if model in MODELS else ""
    if not table or not code:
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


def _number(text: str) -> int | None:
    text = text.strip().lower()
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        return None
