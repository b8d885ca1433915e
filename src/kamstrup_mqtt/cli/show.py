"""What commands print: readouts and telegrams as tables, lines and JSON."""

import json
import sys

from kamstrup_mqtt.catalog import REGISTERS, info_words, register_name, unit_symbol
from kamstrup_mqtt.errors import FramingError, TelegramError
from kamstrup_mqtt.kmp import (
    Direction,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetTypeAnswer,
    Message,
    RegisterValue,
    Unreadable,
    Value,
    decode,
    format_value,
)
from kamstrup_mqtt.kmp.telegram import COMMAND_NAMES
from kamstrup_mqtt.meter import Port
from kamstrup_mqtt.readout import Reading, Readout

ACKNOWLEDGEMENT = b"\x06"
_NO_BYTES = "no bytes"


def complain(message: str) -> None:
    """Tell a person something on standard error, one line at a time."""
    for line in message.splitlines():
        print(f"kamstrup-mqtt: {line}", file=sys.stderr, flush=True)


def readout_json(readout: Readout) -> str:
    """A readout as `read --json` prints it: values are strings, so that no digit is lost."""
    return json.dumps(
        {
            "meter": readout.meter.to_dict(),
            "timestamp": readout.time.isoformat(timespec="seconds"),
            "values": {
                reading.name: {
                    "value": reading.told,
                    "unit": reading.unit,
                    "register": reading.register,
                }
                for reading in readout
            },
            "missing": list(readout.missing),
        },
        ensure_ascii=False,
    )


def print_readout(readout: Readout) -> None:
    """A readout as a table, with what is missing and what the info code means below it."""
    from rich.console import Console  # noqa: PLC0415 - only drawing needs rich
    from rich.table import Table  # noqa: PLC0415

    meter = readout.meter
    console = Console()
    title = [f"Meter {meter.serial or 'of unknown serial number'}"]
    if meter.model:
        title.append(f"MULTICAL {meter.model}")
    if meter.type_code:
        title.append(f"type {meter.type_code}")
    title.append(readout.time.isoformat(sep=" ", timespec="seconds"))
    table = Table(title=", ".join(title), title_justify="left")
    table.add_column("Parameter", no_wrap=True)
    table.add_column("Value", justify="right", no_wrap=True)
    table.add_column("Unit", no_wrap=True)
    table.add_column("Meaning")
    for reading in readout:
        table.add_row(reading.name, _shown(reading), reading.unit, _meaning(reading, meter.model))
    console.print(table)
    for reason in dict.fromkeys(readout.missing.values()):
        names = [name for name, why in readout.missing.items() if why == reason]
        console.print(f"{reason.capitalize()}: {', '.join(names)}", highlight=False)


def print_ports(ports: list[Port]) -> None:
    """One line a port, the stable name first."""
    for port in ports:
        device = f" ({port.device})" if port.device != port.path else ""
        print(f"{port.path}{device}: {port.description}")


def explain(telegram: str) -> dict[str, object]:
    """What a telegram in hex says, as `decode --json` prints it.

    Noise around it is passed over, and so is our own echo in front of an answer, for that is how
    lines are found in logs.

    Args:
        telegram: hex digits, with blanks, colons, dashes, commas or 0x between bytes as one likes.

    """
    try:
        raw = _from_hex(telegram)
    except ValueError:
        return _problem("hex", f"'{telegram.strip()[:60]}' is not hexadecimal, two digits a byte")
    if raw == ACKNOWLEDGEMENT:
        return {"direction": "answer", "address": None, "command": "Acknowledge"}
    reader = FrameReader()
    found = [item for item in (*reader.feed(raw), reader.close()) if item is not None]
    answers = [
        item for item in found if isinstance(item, Frame) and item.direction is Direction.ANSWER
    ]
    try:
        if not found:
            raise FramingError("no telegram: one begins with 80 to the meter, or 40 from the meter")
        item = answers[0] if answers else found[-1]
        if isinstance(item, TelegramError):
            raise item
        return _explained(item, decode(item))
    except TelegramError as error:
        return _problem(error.kind, str(error))


def explanation_text(explanation: dict[str, object]) -> str:
    """An explanation for people: a headline, and a line for each register."""
    if "error" in explanation:
        return f"not valid ({explanation['error']}): {explanation['detail']}"
    headline = f"{explanation['command']} {explanation['direction']}"
    if explanation["address"] is not None:
        headline += f", address {explanation['address']}"
    told = [key for key in ("type", "revision", "serial") if key in explanation]
    lines = [headline, *(f"  {key} {explanation[key] or 'not told'}" for key in told)]
    registers = explanation.get("registers")
    for register in registers if isinstance(registers, list) else []:
        if isinstance(register, int):
            lines.append(f"  {register_name(register)} ({register})")
        else:
            valid = register.get("valid", True)
            value = register["value"] or ("none yet" if valid else _NO_BYTES)
            lines.append(
                f"  {register['name']} ({register['register']}) = {value} {register['unit']}"
                f"{'' if valid else ' (not valid)'}".rstrip()
            )
    return "\n".join(lines)


def _from_hex(text: str) -> bytes:
    digits = text.lower()
    for separator in ("0x", ":", "-", ","):
        digits = digits.replace(separator, " ")
    raw = bytes.fromhex(digits)
    if not raw:
        raise ValueError(text)
    return raw


def _problem(kind: str, detail: str) -> dict[str, object]:
    return {"error": kind, "detail": detail}


def _explained(frame: Frame, message: Message) -> dict[str, object]:
    explanation: dict[str, object] = {
        "direction": frame.direction.name.lower(),
        "address": frame.address,
        "command": COMMAND_NAMES[frame.command],
    }
    match message:
        case GetTypeAnswer(type_code):
            explanation |= {"type": f"{type_code:04X}", "revision": message.revision}
        case GetSerialNoAnswer(serial):
            explanation |= {"serial": str(serial)}
        case GetRegisterRequest(registers):
            explanation |= {"registers": list(registers)}
        case GetRegisterAnswer(values):
            explanation |= {"registers": [_register(value) for value in values]}
    return explanation


def _register(item: RegisterValue) -> dict[str, object]:
    value = item.value
    explained: dict[str, object] = {
        "register": item.register,
        "name": register_name(item.register),
        "unit": unit_symbol(item.unit),
        "value": _text(value),
    }
    return explained | {"valid": False} if isinstance(value, Unreadable) else explained


def _text(value: Value) -> str | None:
    return format_value(value) or None


def _shown(reading: Reading) -> str:
    if isinstance(reading.value, Unreadable):
        return f"{reading.text or _NO_BYTES} (not valid)"
    return reading.text or "none yet"


def _meaning(reading: Reading, model: str | None) -> str:
    register = REGISTERS.get(reading.register)
    title = register.title if register else ""
    if reading.name == "info_code" and model and reading.text.isdigit():
        return "; ".join((title, *info_words(int(reading.text), model)))
    return title
