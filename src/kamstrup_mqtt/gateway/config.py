"""The configuration: `config.yaml` and the environment, to settings the gateway can trust.

The file of kamstrup-402-mqtt works unchanged. Every fault is found in one go, and told with its
file, line and key, what was expected, and the nearest valid name. Nothing here opens a port or
reaches a broker.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kamstrup_mqtt.catalog import ALL, register_number, register_numbers
from kamstrup_mqtt.consumption import CURRENCY, Price
from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.gateway.checks import (
    check_broker,
    check_meters,
    check_prices,
    check_schedules,
    clean_texts,
    is_true,
)
from kamstrup_mqtt.gateway.faults import note_faults
from kamstrup_mqtt.gateway.paths import check_files, readable_secrets
from kamstrup_mqtt.gateway.source import Source
from kamstrup_mqtt.meter import check_port
from kamstrup_mqtt.outputs import HomeAssistantSettings, MqttSettings
from kamstrup_mqtt.polling.moments import cron_expression, longest_gap
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.quantities import INTERVAL, interval_seconds, keep_seconds, size_bytes
from kamstrup_mqtt.store import MAX_BYTES
from kamstrup_mqtt.web.peers import is_local, parse_network
from kamstrup_mqtt.web.settings import WebSettings

_LONGEST_EXPRESSION = 1000  # characters of a cron expression; nobody means more
_gap = lru_cache(longest_gap)  # many meters have one expression
SINGLE_METER = "meter"  # what logs call the meter of the single-meter form


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


def _moments(value: object) -> str:
    if len(text := str(value)) > _LONGEST_EXPRESSION:
        raise ValueError
    return cron_expression(text)


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
        BeforeValidator(_moments),
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
    max_size: Annotated[
        int,
        BeforeValidator(lambda value: size_bytes(str(value))),
        Field(description="what the file may take, from 1MB: such as 500MB or 2GB"),
    ] = MAX_BYTES


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
    prices: list[Price] = Field(default=[], description="a list of since, price and per")
    currency: str | None = Field(default=None, max_length=8, description="such as EUR or DKK")
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
    "prices": Price,
    "log": LogSettings,
}
KNOWN_KEYS = frozenset(_File.model_fields).union(
    *(model.model_fields for model in _SECTIONS.values())
)


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """Where readouts are kept, for how many seconds, and how many bytes that may take."""

    path: Path
    keep_s: float
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without faults; `warnings` say what is unwise in it."""

    mqtt: MqttSettings
    meters: tuple[MeterConfig, ...]
    history: HistoryConfig
    homeassistant: HomeAssistantSettings = field(default_factory=HomeAssistantSettings)
    web: WebSettings | None = None
    prices: tuple[Price, ...] = ()
    currency: str = CURRENCY
    log: LogSettings = field(default_factory=LogSettings)
    warnings: tuple[str, ...] = ()
    path: Path | None = None


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in the file at `path`, with the environment on top.

    Args:
        path: the YAML file; paths inside it are relative to its folder.
        environment: variables, by default those of this process; `KAMSTRUP_MQTT__PASSWORD` sets
            `mqtt.password`, and `KAMSTRUP_METERS` all meters, as in YAML.

    Raises:
        ConfigError: with all faults at once.

    """
    source = Source(path)
    source.read_file()
    if not source.data and source.faults:
        raise ConfigError(source.faults)
    variables = os.environ if environment is None else environment
    source.read_environment(variables)
    empty = _drop_empty(source)
    clean_texts(source)
    check_meters(source, {key: one.description or "" for key, one in _File.model_fields.items()})
    check_schedules(source)
    check_broker(source)
    check_prices(source)
    history_path = _history_path(source.path, variables)
    check_files(source, history_path)
    try:
        content = _File.model_validate(source.data)
    except ValidationError as error:
        note_faults(source, error, _File, _SECTIONS)
    else:
        page = content.web
        if page and not (page.password or page.allow or is_local(page.address[0])):
            source.fault(
                ("web", "listen"),
                "others can reach that: set web.password to what `kamstrup-mqtt password` prints, "
                "or web.allow to the addresses that need none",
            )
    if source.faults:
        raise ConfigError(source.faults)
    history = HistoryConfig(
        content.history.path or history_path,
        content.history.keep,
        content.history.max_size,
    )
    return Config(
        content.mqtt,
        _meters(content),
        history,
        content.homeassistant,
        page,
        tuple(content.prices or (page.prices if page else ())),
        content.currency or (page and page.currency) or CURRENCY,
        content.log,
        (*empty, *_warnings(source), *_open_to_all(content.web)),
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
        _gap(at) if at else reading.poll_interval or 0.0,
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


def _drop_empty(source: Source) -> list[str]:
    """What has no value counts as not given; gives a warning for each such section."""
    warnings = []
    for name in _File.model_fields:
        fields = _SECTIONS[name].model_fields if name in _SECTIONS else {}
        content = source.data.get(name)
        for one in content if isinstance(content, list) else [content]:
            if isinstance(one, dict):
                for key in [key for key in fields if key in one and one[key] is None]:
                    del one[key]
        if name in source.data and source.data[name] in (None, {}):
            warnings.append(source.told((name,), "is empty, which is the same as leaving it out"))
            del source.data[name]
    return warnings


def _warnings(source: Source) -> tuple[str, ...]:
    """What a configuration without faults should still not be."""
    mqtt = source.section("mqtt")
    warnings = readable_secrets(source)
    if is_true(mqtt.get("tls_enabled")) and is_true(mqtt.get("tls_insecure")):
        warnings.append(
            "mqtt.tls_insecure: the broker's name is not checked, so that everybody with a "
            "certificate of the same authority can pose as the broker; better set mqtt.host to "
            "the name in its certificate"
        )
    return tuple(warnings)


def _open_to_all(page: WebSettings | None) -> list[str]:
    """What is said about a page that everybody may see."""
    return [
        f"web.allow: with {one} everybody may see the page, without a password"
        for one in (page.allow if page else [])
        if parse_network(one).prefixlen == 0
    ]
