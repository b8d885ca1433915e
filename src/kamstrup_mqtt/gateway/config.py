"""The configuration: `config.yaml` and the environment, to settings the gateway can trust.

The file of kamstrup-402-mqtt works unchanged. Every fault is found in one go, and told with its
file, line and key, what was expected, and the nearest valid name. Nothing here opens a port or
reaches a broker.
"""

import contextlib
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kamstrup_mqtt.catalog import ALL, register_number, register_numbers
from kamstrup_mqtt.errors import KamstrupError, UsageError, did_you_mean
from kamstrup_mqtt.gateway.schedule import (
    INTERVAL,
    cron_expression,
    interval_seconds,
    keep_seconds,
    longest_gap,
)
from kamstrup_mqtt.gateway.source import KeyPath, Source
from kamstrup_mqtt.meter import check_port
from kamstrup_mqtt.outputs import HomeAssistantSettings, MqttSettings
from kamstrup_mqtt.web.access import is_local
from kamstrup_mqtt.web.settings import Price, WebSettings

SINGLE_METER = "meter"  # what logs call the meter of the single-meter form

_FILES = (
    ("mqtt", "password_file"),
    ("mqtt", "tls_ca_cert"),
    ("mqtt", "tls_cert"),
    ("mqtt", "tls_key"),
    ("log", "file"),
    ("history", "path"),
)


class ConfigError(UsageError):
    """The configuration has faults; `faults` holds one line for each."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


def _listed(value: object) -> object:
    """A list, where the user gave one word, or several with commas between."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _explained(check: Callable[[str], object]) -> Callable[[str], str]:
    """A validator that keeps the words of our own errors."""

    def validate(value: str) -> str:
        try:
            check(value)
        except KamstrupError as error:
            raise ValueError(str(error)) from error
        return value

    return validate


def _check_parameter(name: str) -> None:
    if name.strip().lower() != ALL:
        register_number(name)


_Parameters = Annotated[
    list[Annotated[str, AfterValidator(_explained(_check_parameter))]],
    BeforeValidator(_listed),
    Field(min_length=1, description="a list of parameter names, register numbers, or `all`"),
]
_Interval = Annotated[
    float,
    BeforeValidator(lambda value: interval_seconds(str(value))),
    Field(description=INTERVAL),
]
_Port = Annotated[
    str,
    AfterValidator(_explained(check_port)),
    Field(min_length=1, description="a device such as /dev/ttyUSB0, or socket://host:port"),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _SerialDevice(_Section):
    com_port: _Port


class _Reading(_Section):
    parameters: _Parameters
    poll_interval: _Interval | None = Field(default=None, description=INTERVAL)
    poll_at: Annotated[
        str | None,
        BeforeValidator(lambda value: cron_expression(str(value))),
        Field(description="minutes past the hour such as 59, or five fields as for cron"),
    ] = None
    active_interval: _Interval | None = Field(default=None, description=INTERVAL)
    max_readings_per_day: int | None = Field(default=None, ge=1, description="a number from 1")
    keep_awake: bool | None = Field(default=None, description="true or false")


class _Kamstrup(_Reading):
    """The registers and the schedule of the only meter."""


class _Meter(_Reading):
    name: str = Field(
        pattern=r"^[^+#/\s\x00]+$", description="a name without blanks, slashes, + and #"
    )
    port: _Port


class _History(_Section):
    path: Path | None = Field(default=None, description="a file")
    keep: Annotated[
        float,
        BeforeValidator(lambda value: keep_seconds(str(value))),
        Field(description="how long readouts are kept: days, weeks or years, such as 90d or 2y"),
    ] = 2 * 365 * 86400.0


class LogSettings(_Section):
    """The section `log`: how much is logged, and whether also to a rotating file."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    file: Path | None = Field(default=None, description="a file")


class _File(_Section):
    mqtt: MqttSettings = Field(description="a section with at least the broker's host")
    serial_device: _SerialDevice | None = Field(default=None, description="a section with com_port")
    kamstrup: _Kamstrup | None = Field(
        default=None, description="a section with parameters and poll_interval"
    )
    meters: list[_Meter] = Field(default=[], description="a list of meters")
    homeassistant: HomeAssistantSettings = Field(
        default=HomeAssistantSettings(), description="a section"
    )
    history: _History = Field(default=_History(), description="a section")
    web: WebSettings | None = Field(default=None, description="a section")
    log: LogSettings = Field(default=LogSettings(), description="a section")


# The section models by name, to look up what a key is expected to be.
_SECTIONS: Mapping[str, type[BaseModel]] = {
    "mqtt": MqttSettings,
    "serial_device": _SerialDevice,
    "kamstrup": _Kamstrup,
    "meters": _Meter,
    "homeassistant": HomeAssistantSettings,
    "history": _History,
    "web": WebSettings,
    "log": LogSettings,
}
KNOWN_KEYS = frozenset(_SECTIONS).union(
    Price.model_fields, *(model.model_fields for model in _SECTIONS.values())
)


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """A meter to read: its name in logs, its port, registers, schedule and base topic.

    `interval_s` is the longest time between two readings, also where `poll_at` says when they are.
    """

    name: str
    port: str
    registers: tuple[int, ...]
    interval_s: float
    topic: str
    poll_at: str | None = None
    active_interval_s: float | None = None
    max_readings_per_day: int | None = None
    keep_awake: bool | None = None


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """Where readouts are kept, and for how many seconds."""

    path: Path
    keep_s: float


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without faults; `warnings` say what is unwise in it."""

    mqtt: MqttSettings
    meters: tuple[MeterConfig, ...]
    history: HistoryConfig
    homeassistant: HomeAssistantSettings = field(default_factory=HomeAssistantSettings)
    web: WebSettings | None = None
    log: LogSettings = field(default_factory=LogSettings)
    warnings: tuple[str, ...] = ()
    path: Path | None = None


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in the file at `path`, with the environment on top.

    Args:
        path: the YAML file; paths inside it are relative to its folder.
        environment: variables, by default those of this process; `KAMSTRUP_MQTT__PASSWORD` sets
            `mqtt.password`.

    Raises:
        ConfigError: with all faults at once.

    """
    source = Source(path)
    source.read_file()
    if not source.data and source.faults:
        raise ConfigError(source.faults)
    variables = os.environ if environment is None else environment
    source.read_environment(variables)
    _drop_empty(source.data)
    _check_meters(source)
    _check_schedules(source)
    _check_files(source)
    try:
        content = _File.model_validate(source.data)
    except ValidationError as error:
        for detail in error.errors():
            _note(source, detail["loc"], detail["type"], detail.get("ctx", {}), detail["input"])
    else:
        if content.web and not content.web.password and not is_local(content.web.address[0]):
            source.fault(
                ("web", "listen"),
                "others can reach that: set web.password to what `kamstrup-mqtt password` prints",
            )
    if source.faults:
        raise ConfigError(source.faults)
    history = HistoryConfig(
        content.history.path or _history_path(source.path, variables), content.history.keep
    )
    return Config(
        content.mqtt,
        _meters(content),
        history,
        content.homeassistant,
        content.web,
        content.log,
        _warnings(source),
        path,
    )


def _meters(content: _File) -> tuple[MeterConfig, ...]:
    topic = content.mqtt.topic
    if content.serial_device and content.kamstrup:
        return (_meter(SINGLE_METER, content.serial_device.com_port, topic, content.kamstrup),)
    return tuple(
        _meter(meter.name, meter.port, f"{topic}/{meter.name}", meter) for meter in content.meters
    )


def _meter(name: str, port: str, topic: str, reading: _Reading) -> MeterConfig:
    at = reading.poll_at
    return MeterConfig(
        name,
        port,
        register_numbers(reading.parameters),
        longest_gap(at) if at else reading.poll_interval or 0.0,
        topic,
        at,
        reading.active_interval,
        reading.max_readings_per_day,
        reading.keep_awake,
    )


def _history_path(config: Path, variables: Mapping[str, str]) -> Path:
    """Where readouts are kept unless the user says so: where systemd wants them, or beside us."""
    folder = variables.get("STATE_DIRECTORY")
    return Path(folder) / "history.db" if folder else config.with_suffix(".history.db")


def _section(data: Mapping[str, object], name: str) -> dict[str, Any]:
    content = data.get(name)
    return content if isinstance(content, dict) else {}


def _drop_empty(data: dict[str, object]) -> None:
    """A known key without a value counts as not given."""
    for name, model in _SECTIONS.items():
        content = _section(data, name)
        for key in [key for key in model.model_fields if key in content and content[key] is None]:
            del content[key]
        if name in data and data[name] is None:
            del data[name]


def _check_meters(source: Source) -> None:
    """Either one meter in the older form, or several; their names and ports differ."""
    data, single = source.data, ("serial_device", "kamstrup")
    if "meters" not in data:
        for name in single:
            if name not in data:
                expected = _File.model_fields[name].description
                source.fault((name,), f"this section is missing; expected {expected}")
        return
    for name in single:
        if name in data:
            source.fault((name,), "give either meters, or serial_device and kamstrup, not both")
    meters = data["meters"]
    if meters == []:
        source.fault(("meters",), "expected at least one meter")
    for key in ("name", "port"):
        seen: set[object] = set()
        for index, meter in enumerate(meters if isinstance(meters, list) else []):
            value = meter.get(key) if isinstance(meter, dict) else None
            if isinstance(value, str) and value in seen:
                source.fault(("meters", index, key), f"'{value}' is used by another meter")
            seen.add(value)


def _check_schedules(source: Source) -> None:
    """Every meter has either an interval or moments."""
    places: list[tuple[KeyPath, object]] = [(("kamstrup",), source.data.get("kamstrup"))]
    meters = source.data.get("meters")
    for index, meter in enumerate(meters if isinstance(meters, list) else []):
        places.append((("meters", index), meter))
    for place, content in places:
        if not isinstance(content, dict):
            continue
        if "poll_at" in content and "poll_interval" in content:
            source.fault((*place, "poll_at"), "give either poll_interval or poll_at")
        elif "poll_at" not in content and "poll_interval" not in content:
            source.fault((*place, "poll_interval"), f"required, but missing; expected {INTERVAL}")


def _check_files(source: Source) -> None:
    """Make paths relative to the file's folder, read the password, look for certificates."""
    for section, key in _FILES:
        content = _section(source.data, section)
        if isinstance(content.get(key), str):
            content[key] = str(source.path.parent / content[key])
    mqtt = _section(source.data, "mqtt")
    if _is_true(mqtt.get("authentication")) and "username" not in mqtt:
        source.fault(("mqtt", "authentication"), "expected a username along with it")
    if isinstance(name := mqtt.get("password_file"), str):
        try:
            password = Path(name).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            source.fault(("mqtt", "password_file"), f"cannot be read: {error}")
        else:
            if "password" in mqtt:
                source.fault(("mqtt", "password"), "give either password or password_file")
            mqtt["password"] = password
    if _is_true(mqtt.get("tls_enabled")):
        for key in ("tls_ca_cert", "tls_cert", "tls_key"):
            name = mqtt.get(key)
            if isinstance(name, str) and not Path(name).is_file():
                source.fault(("mqtt", key), f"there is no file {name}")
        if "tls_key" in mqtt and "tls_cert" not in mqtt:
            source.fault(("mqtt", "tls_key"), "expected a tls_cert along with it")


def _warnings(source: Source) -> tuple[str, ...]:
    """What a configuration without faults should still not be."""
    mqtt = _section(source.data, "mqtt")
    warnings = []
    secrets = [Path(mqtt[key]) for key in ("password_file", "tls_key") if key in mqtt]
    if source.names(("mqtt", "password")):
        secrets.append(source.path)
    for path in secrets:
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
            if mode & stat.S_IROTH:
                warnings.append(
                    f"{path} holds a secret and everybody on this machine can read it: "
                    f"`chmod o-rwx {shlex.quote(str(path))}`"
                )
    if _is_true(mqtt.get("tls_enabled")) and _is_true(mqtt.get("tls_insecure")):
        warnings.append(
            "mqtt.tls_insecure: the broker's name is not checked, so that everybody with a "
            "certificate of the same authority can pose as the broker; better set mqtt.host to "
            "the name in its certificate"
        )
    return tuple(warnings)


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1", "y", "t")


def _note(
    source: Source, loc: KeyPath, kind: str, context: Mapping[str, Any], given: object
) -> None:
    """Put a finding of pydantic into our words."""
    model: type[BaseModel] = _File
    key = str(loc[0])
    inside = [part for part in loc[1:] if isinstance(part, str)]
    if inside and key in _SECTIONS:
        model, key = _SECTIONS[key], inside[0]
    known = model.model_fields.get(key)
    if kind == "extra_forbidden" or known is None:
        near = did_you_mean(key, model.model_fields)
        source.fault(loc, f"unknown key '{key}'{near or _known(model)}")
    elif kind == "missing":
        source.fault(loc, f"required, but missing; expected {known.description}")
    elif kind == "value_error" and str(context.get("error", "")):
        source.fault(loc, str(context["error"]))
    else:
        source.fault(loc, f"expected {_expected(loc, known.description)}{_got(key, given)}")


def _expected(loc: KeyPath, description: str | None) -> str:
    if len(loc) == 2 and loc[0] == "meters":
        return "a meter with name, port, parameters and poll_interval"
    return description or "another value"


def _known(model: type[BaseModel]) -> str:
    return f"; known are {', '.join(model.model_fields)}"


def _got(key: str, given: object) -> str:
    if key == "password":
        return ""  # never into a log
    if isinstance(given, str):
        return f", got '{given[:60]}'"
    kinds = {dict: "a section", list: "a list", type(None): "nothing"}
    return f", got {kinds.get(type(given), 'something else')}"
