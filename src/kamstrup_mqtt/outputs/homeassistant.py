"""How a meter presents itself to Home Assistant: the discovery message, and the states it shows.

Pure: what is known of the meter goes in, topics and payloads come out. Units and device classes
are paired as Home Assistant's documentation allows from version 2025.3 on.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kamstrup_mqtt.catalog import FINE_REGISTERS, REGISTERS, VOLUME, register_name, unit_of
from kamstrup_mqtt.outputs.fusion import FusedCounter
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout
from kamstrup_mqtt.readout.status import LinkState, MeterStatus

_INTERVALS = 3  # so many readings may fail before a value counts as outdated
_GRACE_S = 60
_MOST_DECIMALS = 20  # that browsers show

_STATE_CLASSES = {
    "total": "total_increasing",
    "measurement": "measurement",
    "peak": "measurement",
    "average": "measurement",
}
_COUNTED = ("energy", "volume", "water")  # classes of which Home Assistant takes only totals
_MEASURED = ("power", "temperature", "pressure", "volume_flow_rate")  # and only measurements
_ICONS = {"l/h": "mdi:pipe", "K": "mdi:thermometer-lines", "m³·°C": "mdi:water-thermometer"}
_DIAGNOSTIC = ("info", "config", "identity", "date", "time")
_SELDOM_WANTED = ("config", "identity")
_DATED = ("date", "time", "datetime", "month-day")
_EVENT_COUNTERS = ("infoevent", "config_change_counter")
_WATER_METERS = ("input_a", "input_b", "input_a2", "input_b2")  # on the pulse inputs
_COUNTERS = {
    "telegrams": "Telegrams",
    "crc_errors": "Checksum errors",
    "damaged": "Damaged answers",
    "timeouts": "Timeouts",
    "retries": "Retries",
    "implausible": "Implausible totals",
}
_TODAY = {"today.telegrams": "Telegrams today", "today.bytes": "Bytes today"}
_PROBLEM = "problem"


class HomeAssistantSettings(BaseModel):
    """The section `homeassistant` of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    discovery: bool = Field(default=True, description="true or false")
    prefix: str = Field(
        default="homeassistant",
        pattern=r"^[^+#\x00]+$",
        description="a topic prefix without the wildcards + and #",
    )
    volume_as: Literal["volume", "water"] = Field(
        default="volume", description="volume, or water for the water dashboard"
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """A parameter as Home Assistant knows it, from all readouts so far."""

    reading: Reading
    time: datetime
    decimals: int


class HomeAssistantDevice:
    """One meter, which its serial number identifies, as a device of Home Assistant.

    Args:
        settings: the section of the configuration.
        name: the meter's name for people.
        base: the topic under which the meter publishes.
        status_topic: where the gateway says online or offline.
        registers: the configured registers, in order.

    """

    def __init__(
        self,
        settings: HomeAssistantSettings,
        name: str,
        base: str,
        status_topic: str,
        registers: tuple[int, ...],
    ) -> None:
        self._settings = settings
        self._name = name
        self._base = base
        self._status_topic = status_topic
        self._registers = registers
        self._fused: dict[int, FusedCounter] = defaultdict(FusedCounter)
        self._shown: dict[int, _Shown] = {}
        self._removed: dict[str, str] = {}  # component to platform
        self._meter = MeterIdentity()
        self._interval_s = 0.0
        self._has_info = False

    @property
    def topic(self) -> str | None:
        """Where the discovery message goes; None as long as nobody knows who the meter is."""
        serial = self._meter.serial
        return f"{self._settings.prefix}/device/kamstrup_{serial}/config" if serial else None

    @property
    def state_topic(self) -> str:
        """Where the states go that Home Assistant shows."""
        return f"{self._base}/homeassistant"

    @property
    def known(self) -> bool:
        """Whether there is something to announce."""
        return bool(self._meter.serial and self._shown)

    def note_status(self, status: MeterStatus) -> None:
        """Learn who the meter is, how often it is read, and whether it has an info code."""
        self._meet(status.meter)
        self._interval_s = status.interval_s
        self._has_info = self._has_info or status.info_code is not None

    def note_readout(self, readout: Readout) -> None:
        """Learn the units, digits and values of a readout."""
        if readout.meter.serial is None:  # it may be another meter's
            return
        self._meet(readout.meter)
        readings = dict(readout.readings)
        for fine, coarse in FINE_REGISTERS.items():
            if fine in readings and coarse in self._registers:
                total = None
                if coarse in readings:
                    total = self._fused[fine].update(readings[coarse], readings[fine])
                if total is None:
                    del readings[fine]
                else:
                    readings[fine] = total
        for register, reading in readings.items():
            if register in self._registers:
                before = self._shown.get(register)
                decimals = max(_decimals(reading), before.decimals if before else 0)
                self._shown[register] = _Shown(reading, readout.time, decimals)

    def note_announced(self, payload: bytes) -> None:
        """Learn from its retained message what an earlier run announced.

        What is no longer configured is to disappear, and Home Assistant keeps what it is not told
        to remove.
        """
        kept = {_PROBLEM, *self._own_entities(), *map(register_name, self._registers)}
        try:
            components = json.loads(payload)["components"]
            self._removed = {
                str(name): str(component["platform"])
                for name, component in components.items()
                if name not in kept and len(component) > 1
            }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._removed = {}

    def config(self) -> str:
        """The discovery message: the device and all its entities."""
        meter = self._meter
        device = {
            "identifiers": [f"kamstrup_{meter.serial}"],
            "name": self._name,
            "manufacturer": "Kamstrup",
            "model": f"MULTICAL {meter.model}" if meter.model else "MULTICAL",
            "model_id": meter.type_code,
            "serial_number": meter.serial,
            "sw_version": meter.revision,
        }
        answers = f"value_json.state == '{LinkState.OK}'"
        content = {
            "device": {key: value for key, value in device.items() if value is not None},
            "origin": {"name": "kamstrup-mqtt", "sw_version": version("kamstrup-mqtt")},
            "availability": self._availability(f"{answers} and {self._is_this_meter}"),
            "availability_mode": "all",
            "components": {
                **{shown.reading.name: self._sensor(shown) for shown in self._shown.values()},
                **self._own_entities(),
                **{name: {"platform": platform} for name, platform in self._removed.items()},
            },
        }
        return json.dumps(content, ensure_ascii=False)

    def states(self, now: datetime) -> str:
        """What Home Assistant shows: the latest of each parameter, null where that is too old."""
        oldest = now.timestamp() - self._expire_after
        members = [
            f"{json.dumps(shown.reading.name)}: "
            + (shown.reading.json if shown.time.timestamp() >= oldest else "null")
            for shown in self._shown.values()
        ]
        return "{" + ", ".join(members) + "}"

    @property
    def _expire_after(self) -> int:
        return math.ceil(_INTERVALS * self._interval_s) + _GRACE_S

    @property
    def _is_this_meter(self) -> str:
        """Another meter may come to the same topics; a gateway that just began knows none yet."""
        is_it = f"value_json.meter.serial == '{self._meter.serial}'"
        return f"({is_it} or value_json.last_readout is none)"

    def _meet(self, meter: MeterIdentity) -> None:
        if meter.serial is None:
            return
        if meter.serial != self._meter.serial:
            self._shown.clear()
            self._removed.clear()
            self._fused.clear()
            self._has_info = False
        self._meter = meter

    def _availability(self, condition: str) -> list[dict[str, str]]:
        template = "{{ 'online' if " + condition + " else 'offline' }}"
        return [
            {"topic": self._status_topic},
            {"topic": f"{self._base}/state", "value_template": template},
        ]

    def _sensor(self, shown: _Shown) -> dict[str, Any]:
        """The entity of a parameter."""
        reading = shown.reading
        register = REGISTERS.get(reading.register)
        kind = register.kind if register else ""
        known = unit_of(reading.unit)
        device_class, unit = known.device_class, known.shown
        if device_class == "volume" and reading.name in _WATER_METERS:
            device_class = "water"
        elif device_class == "volume" and reading.register == VOLUME:
            device_class = self._settings.volume_as
        state_class = _STATE_CLASSES.get(kind)
        if FINE_REGISTERS.get(reading.register, reading.register) not in self._registers:
            state_class = None  # on its own it drops each time it wraps
        if reading.name in _EVENT_COUNTERS:
            state_class = "total_increasing"
        if device_class in _COUNTED and state_class != "total_increasing":
            state_class = None
        if device_class in _MEASURED and state_class != "measurement":
            state_class = None
        numeric = reading.unit not in _DATED and not isinstance(reading.value, str)
        seldom = kind in _SELDOM_WANTED
        return self._entity(
            "sensor",
            reading.name,
            register.title if register else f"Register {reading.name}",
            state_topic=self.state_topic,
            value_template="{{ value_json['" + reading.name + "'] }}",
            device_class=device_class,
            state_class=state_class if numeric else None,
            unit_of_measurement=unit or None,
            suggested_display_precision=shown.decimals if numeric and unit else None,
            icon=_ICONS.get(reading.unit),
            entity_category="diagnostic" if kind in _DIAGNOSTIC or unit == "h" else None,
            enabled_by_default=False if seldom else None,
            expire_after=self._expire_after,
        )

    def _own_entities(self) -> dict[str, dict[str, Any]]:
        """The entities that tell of the meter and its line, and the controls."""
        state_topic = f"{self._base}/state"
        # What says why there are no values must not vanish together with them.
        shared = {"availability": self._availability(self._is_this_meter)}
        told = shared | {"state_topic": state_topic, "entity_category": "diagnostic"}

        def field(name: str) -> dict[str, Any]:
            return told | {"value_template": "{{ value_json." + name + " }}"}

        def add(platform: str, component: str, name: str, **more: object) -> None:
            entities[component] = self._entity(platform, component, name, **more)

        entities: dict[str, dict[str, Any]] = {}
        add(
            "sensor",
            "link_state",
            "Link",
            **field("state"),
            device_class="enum",
            options=list(LinkState),
            json_attributes_topic=state_topic,
            json_attributes_template="{{ {'reason': value_json.reason, "
            "'missing': value_json.missing} | tojson }}",
            icon="mdi:connection",
        )
        add(
            "sensor",
            "last_readout",
            "Last readout",
            **field("last_readout"),
            device_class="timestamp",
        )
        add(
            "sensor",
            "signal_quality",
            "Signal quality",
            **field("signal_quality"),
            unit_of_measurement="%",
            state_class="measurement",
            icon="mdi:signal",
        )
        counted = {f"counters.{name}": title for name, title in _COUNTERS.items()} | _TODAY
        for path, name in counted.items():
            add(
                "sensor",
                path.removeprefix("counters.").replace(".", "_"),
                name,
                **field(path),
                state_class="total_increasing",
                enabled_by_default=False,
            )
        if self._has_info:
            add(
                "binary_sensor",
                _PROBLEM,
                "Problem",
                **told,
                value_template="{{ None if value_json.info is none else "
                "'ON' if value_json.info.code else 'OFF' }}",
                device_class="problem",
                json_attributes_topic=state_topic,
                json_attributes_template="{{ (value_json.info or {}) | tojson }}",
            )
        add(
            "button",
            "read_now",
            "Read now",
            **shared,
            command_topic=f"{self._base}/read",
            icon="mdi:refresh",
        )
        add(
            "number",
            "poll_interval",
            "Reading interval",
            **told | {"entity_category": "config"},
            command_topic=f"{self._base}/poll_interval",
            value_template="{{ [value_json.poll_interval / 60, 10080] | min | round(2) }}",
            device_class="duration",
            unit_of_measurement="min",
            min=0.02,
            max=7 * 24 * 60,
            step=0.01,
            mode="box",
        )
        return entities

    def _entity(self, platform: str, component: str, name: str, **more: object) -> dict[str, Any]:
        entity = {
            "platform": platform,
            "unique_id": f"kamstrup_{self._meter.serial}_{component}",
            "name": name,
        } | more
        return {key: value for key, value in entity.items() if value is not None}


def _decimals(reading: Reading) -> int:
    value = reading.value
    if not isinstance(value, Decimal):
        return 0
    return min(max(0, -int(value.as_tuple().exponent)), _MOST_DECIMALS)
