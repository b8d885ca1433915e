"""The latest readouts and counters as text for Prometheus. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from importlib.metadata import version

from kamstrup_mqtt.catalog import REGISTERS, unit_of
from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.readout.status import LinkState, MeterStatus

# What may not stand in a name, because it is short for a unit, or a unit or type itself.
_WORDS = {
    "m": "month", "y": "year", "d": "day", "h": "hour", "a": "first", "b": "second",
    "hours": "time", "days": "time", "counter": "number",
}  # fmt: skip
_KINDS = ("total", "measurement", "peak", "average", "info")
_COUNTERS = {
    "telegrams": "Telegrams sent to the meter",
    "crc_errors": "Answers with a wrong checksum",
    "damaged": "Answers unusable for another reason",
    "timeouts": "Telegrams without any answer",
    "retries": "Telegrams that repeated another one",
    "implausible": "Totals that could not be, and were asked for again",
    "bytes": "Bytes sent and received",
}


def exposition(
    readouts: Mapping[str, Readout], statuses: Mapping[str, MeterStatus],
    *, connected: bool, backlog: int,
) -> str:  # fmt: skip
    """The text that a scrape gets.

    Args:
        readouts: the latest readout of each meter, by its configured name.
        statuses: how each meter is doing.
        connected: whether the broker is connected.
        backlog: readouts that wait for the broker.

    """
    families: dict[str, tuple[str, str, list[str]]] = {}

    def add(name: str, kind: str, text: str, labels: Mapping[str, str], value: object) -> None:
        family = families.setdefault(f"kamstrup_{name}", (kind, text, []))
        shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        family[2].append(f"kamstrup_{name}{f'{{{shown}}}' if shown else ''} {value}")

    add("build_info", "gauge", "Version of kamstrup-mqtt", {"version": version("kamstrup-mqtt")}, 1)
    add("broker_connected", "gauge", "Whether the broker is connected", {}, int(connected))
    add("backlog_readouts", "gauge", "Readouts that wait for the broker", {}, backlog)
    for meter, readout in readouts.items():
        labels = {"meter": meter, "serial": readout.meter.serial or ""}
        for reading in readout:
            register = REGISTERS.get(reading.register)
            if register is None or not isinstance(reading.value, Decimal):
                continue
            if register.kind not in _KINDS:
                continue
            unit = unit_of(reading.unit)
            words = [_WORDS.get(word, word) for word in register.name.lower().split("_")]
            name = "_".join([*words, unit.base] if unit.base else words)
            add(
                f"meter_{name}",
                "gauge",
                register.title,
                labels,
                f"{EXACT.multiply(reading.value, unit.factor):f}",
            )
        add(
            "last_success_timestamp_seconds", "gauge", "When the last readout began", labels,
            f"{readout.time.timestamp():.3f}",
        )  # fmt: skip
    for meter, status in statuses.items():
        labels = {"meter": meter, "serial": status.meter.serial or ""}
        add(
            "meter_up", "gauge", "Whether the meter answers", labels,
            int(status.state is LinkState.OK),
        )  # fmt: skip
        if status.quality is not None:
            add(
                "signal_quality_ratio", "gauge", "Share of the latest telegrams with an answer",
                labels, status.quality / 100,
            )  # fmt: skip
        for key, value in asdict(status.counters).items():
            add(f"{key}_total", "counter", _COUNTERS[key], labels, value)
    lines = []
    for name, (kind, text, samples) in families.items():
        lines += [f"# HELP {name} {_escaped(text)}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
