"""Home Assistant: the discovery message field by field, as its documentation allows."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import MeterIdentity, Reading, Readout
from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS, REGISTERS, UNITS, register_numbers
from kamstrup_mqtt.outputs import HomeAssistantSettings
from kamstrup_mqtt.outputs.fusion import FusedCounter
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice
from kamstrup_mqtt.readout.status import LinkState, MeterStatus

# From Home Assistant's documentation of sensors, as of 2025.3 (the classes we may use): the units
# and state classes that a device class accepts.
CLASSES: dict[str, tuple[set[str | None], set[str | None]]] = {
    "energy": (
        {"J", "kJ", "MJ", "GJ", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal"},
        {None, "total", "total_increasing"},
    ),
    "power": ({"mW", "W", "kW", "MW", "GW", "TW"}, {None, "measurement"}),
    "temperature": ({"°C", "°F", "K"}, {None, "measurement"}),
    "volume": ({"L", "mL", "m³", "gal", "ft³"}, {None, "total", "total_increasing"}),
    "water": ({"L", "m³", "gal", "ft³"}, {None, "total", "total_increasing"}),
    "volume_flow_rate": ({"m³/h", "ft³/min", "L/min", "gal/min", "mL/s"}, {None, "measurement"}),
    "duration": ({"d", "h", "min", "s", "ms"}, {None, "measurement", "total", "total_increasing"}),
    "pressure": ({"bar", "mbar", "Pa", "hPa", "kPa", "psi"}, {None, "measurement"}),
    "date": ({None}, {None}),
    "timestamp": ({None}, {None}),
    "enum": ({None}, {None}),
}
# What each platform takes in a discovery message, of what we use, and what it must have.
COMMON = {
    "platform", "unique_id", "name", "availability", "availability_mode", "icon",
    "entity_category", "enabled_by_default", "json_attributes_topic", "json_attributes_template",
}  # fmt: skip
PLATFORMS: dict[str, tuple[set[str], set[str]]] = {
    "sensor": (
        {"state_topic"},
        {"value_template", "device_class", "state_class", "unit_of_measurement", "options",
         "suggested_display_precision", "expire_after"},
    ),
    "binary_sensor": ({"state_topic"}, {"value_template", "device_class", "expire_after"}),
    "button": ({"command_topic"}, {"payload_press", "device_class"}),
    "number": (
        {"command_topic"},
        {"state_topic", "value_template", "device_class", "unit_of_measurement", "min", "max",
         "step", "mode", "retain"},
    ),
}  # fmt: skip
DEVICE = {
    "identifiers", "name", "manufacturer", "model", "model_id", "serial_number", "sw_version",
}  # fmt: skip

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
METER = MeterIdentity("71343479", "0402", "F1", "402")


def device(
    parameters: list[str | int], settings: HomeAssistantSettings | None = None
) -> HomeAssistantDevice:
    registers = register_numbers(parameters)
    return HomeAssistantDevice(
        settings or HomeAssistantSettings(), "Heat meter", "heat", "heat/status", registers
    )


def status(meter: MeterIdentity = METER, interval_s: float = 1680) -> MeterStatus:
    return MeterStatus(LinkState.OK, NOON, "", NOON, meter, {}, 0, interval_s, False, 100)


def readout(*readings: Reading, meter: MeterIdentity = METER, time: datetime = NOON) -> Readout:
    return Readout(meter, time, {reading.register: reading for reading in readings}, {})


def reading(name: str, value: str, unit: str) -> Reading:
    (register,) = register_numbers([name])
    return Reading(register, name, Decimal(value), unit)


def announced(device: HomeAssistantDevice) -> dict[str, Any]:
    content = json.loads(device.config())
    assert isinstance(content, dict)
    return content


def check(content: dict[str, Any]) -> None:
    """That Home Assistant takes every field of a discovery message."""
    assert content.keys() == {
        "device", "origin", "availability", "availability_mode", "components",
    }  # fmt: skip
    assert content["device"].keys() <= DEVICE
    assert content["device"]["identifiers"]
    assert content["origin"]["name"] == "kamstrup-mqtt"
    assert content["availability_mode"] in {"all", "any", "latest"}
    identifiers = set()
    for component, entity in content["components"].items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", component)
        if entity.keys() == {"platform"}:
            continue
        needed, possible = PLATFORMS[entity["platform"]]
        assert needed <= entity.keys() <= needed | possible | COMMON, component
        identifiers.add(entity["unique_id"])
        assert entity["name"]
        for place in (content, entity):
            for one in place.get("availability", []):
                assert one.keys() <= {"topic", "value_template"}
        if entity["platform"] in ("sensor", "binary_sensor"):
            assert entity.get("entity_category") in {None, "diagnostic"}
        if entity["platform"] == "sensor":
            device_class, unit = entity.get("device_class"), entity.get("unit_of_measurement")
            state_class = entity.get("state_class")
            assert state_class in {None, "measurement", "total", "total_increasing"}
            assert ("options" in entity) is (device_class == "enum")
            if device_class is not None:
                units, state_classes = CLASSES[device_class]
                assert unit in units, component
                assert state_class in state_classes, component
    assert len(identifiers) == sum(len(e) > 1 for e in content["components"].values())


@pytest.mark.parametrize("register", REGISTERS.values(), ids=lambda register: register.name)
def test_every_register_in_every_unit_is_something_home_assistant_takes(register: Any) -> None:
    for unit in {*register.units, *UNITS.values(), "unit 67"}:
        shown = device([register.number])
        shown.note_status(status())
        shown.note_readout(readout(Reading(register.number, register.name, Decimal("1.25"), unit)))
        check(announced(shown))
    for value in (None, "text", NOON.date()):
        shown.note_readout(readout(Reading(register.number, register.name, value, "date")))
        check(announced(shown))


def test_the_usual_parameters_are_what_they_are() -> None:
    shown = device(list(CLASSIC_PARAMETERS))
    shown.note_status(status())
    expected = {
        "energy": ("227.445", "GJ", "energy", "total_increasing", "GJ", 3, None),
        "volume": ("2131.93", "m³", "volume", "total_increasing", "m³", 2, None),
        "power": ("4.7", "kW", "power", "measurement", "kW", 1, None),
        "temp1": ("71.02", "°C", "temperature", "measurement", "°C", 2, None),
        "tempdiff": ("36.75", "K", None, "measurement", "K", 2, None),
        "flow": ("111", "l/h", None, "measurement", "L/h", 0, None),
        "temp1xm3": ("150230", "m³·°C", None, "total_increasing", "m³·°C", 0, None),
        "infoevent": ("3", "", None, "total_increasing", None, None, "diagnostic"),
        "hourcounter": ("31622", "h", "duration", "total_increasing", "h", 0, "diagnostic"),
        "maxflow_m": ("906", "l/h", None, "measurement", "L/h", 0, None),
    }
    shown.note_readout(
        readout(*(reading(name, value, unit) for name, (value, unit, *_) in expected.items()))
    )
    components = announced(shown)["components"]
    for name, (_, _, device_class, state_class, unit, precision, category) in expected.items():
        entity = components[name]
        assert entity["unique_id"] == f"kamstrup_71343479_{name}"
        assert (
            entity.get("device_class"),
            entity.get("state_class"),
            entity.get("unit_of_measurement"),
            entity.get("suggested_display_precision"),
            entity.get("entity_category"),
        ) == (device_class, state_class, unit, precision, category), name
        assert entity["expire_after"] > 1680


def test_the_unit_is_the_one_of_the_telegram() -> None:
    for unit in ("GJ", "MWh", "kWh"):
        shown = device(["energy"])
        shown.note_status(status())
        shown.note_readout(readout(reading("energy", "1.0", unit)))
        assert announced(shown)["components"]["energy"]["unit_of_measurement"] == unit


def test_the_device_says_who_it_is() -> None:
    shown = device(["energy"])
    shown.note_status(status())
    assert not shown.known
    shown.note_readout(readout(reading("energy", "1.0", "GJ")))
    assert shown.topic == "homeassistant/device/kamstrup_71343479/config"
    content = announced(shown)
    assert content["device"] == {
        "identifiers": ["kamstrup_71343479"],
        "name": "Heat meter",
        "manufacturer": "Kamstrup",
        "model": "MULTICAL 402",
        "model_id": "0402",
        "serial_number": "71343479",
        "sw_version": "F1",
    }
    assert [one["topic"] for one in content["availability"]] == ["heat/status", "heat/state"]


def test_volume_for_the_water_dashboard_is_a_choice() -> None:
    shown = device(["volume"], HomeAssistantSettings(volume_as="water"))
    shown.note_status(status())
    shown.note_readout(readout(reading("volume", "1.0", "m³")))
    assert announced(shown)["components"]["volume"]["device_class"] == "water"
    check(announced(shown))


def test_what_an_earlier_run_announced_and_nobody_wants_any_more_is_removed() -> None:
    before, shown = device(["energy", "volume", "power"]), device(["energy", "power"])
    for one in (before, shown):
        one.note_status(status())
    before.note_readout(
        readout(reading("energy", "1", "GJ"), reading("volume", "1", "m³"),
                reading("power", "1", "kW"))
    )  # fmt: skip
    shown.note_readout(readout(reading("energy", "1", "GJ")))
    shown.note_announced(before.config().encode())
    content = announced(shown)
    check(content)
    assert content["components"]["volume"] == {"platform": "sensor"}
    assert "power" not in content["components"]  # wanted still, and only not read yet
    shown.note_announced(shown.config().encode())
    assert "volume" not in announced(shown)["components"]


@given(st.binary() | st.sampled_from([b"[]", b'{"components": 1}', b'{"components": {"a": []}}']))
def test_what_others_keep_on_our_topic_does_no_harm(payload: bytes) -> None:
    shown = device(["energy"])
    shown.note_readout(readout(reading("energy", "1", "GJ")))
    before = shown.config()
    shown.note_announced(payload)
    assert shown.config() == before


def test_a_register_that_is_lost_once_keeps_its_state_until_that_is_too_old() -> None:
    shown = device(["energy", "power"])
    shown.note_status(status(interval_s=60))
    shown.note_readout(readout(reading("energy", "1.50", "GJ"), reading("power", "2", "kW")))
    later = NOON + timedelta(seconds=60)
    shown.note_readout(readout(reading("energy", "1.60", "GJ"), time=later))
    assert shown.states(later) == '{"energy": 1.60, "power": 2}'
    late = NOON + timedelta(seconds=300)
    shown.note_readout(readout(reading("energy", "1.70", "GJ"), time=late))
    assert shown.states(late) == '{"energy": 1.70, "power": null}'


def test_another_meter_on_the_same_port_is_another_device() -> None:
    shown = device(["energy", "power"])
    shown.note_status(status())
    shown.note_readout(readout(reading("energy", "1", "GJ"), reading("power", "2", "kW")))
    other = MeterIdentity("5")
    shown.note_status(status(other))
    assert not shown.known
    shown.note_readout(readout(reading("energy", "1", "GJ"), meter=other))
    assert shown.topic == "homeassistant/device/kamstrup_5/config"
    assert shown.states(NOON) == '{"energy": 1}'


def test_a_meter_whose_type_comes_later_is_announced_again() -> None:
    shown = device(["energy"])
    shown.note_readout(readout(reading("energy", "1", "GJ"), meter=MeterIdentity("5")))
    first = shown.config()
    shown.note_readout(readout(reading("energy", "1", "GJ"), meter=MeterIdentity("5", "0402")))
    assert shown.config() != first


class Meter:
    """What a meter counts, and how its two registers show it."""

    def __init__(self, wh: int, wrap: int, unit: str, per_wh: Decimal, decimals: int) -> None:
        self.wh, self.wrap, self.unit = wh, wrap, unit
        self.per_wh, self.digit = per_wh, Decimal(1).scaleb(-decimals)

    def readings(self) -> tuple[Reading, Reading]:
        main = (self.wh * self.per_wh).quantize(self.digit, rounding="ROUND_DOWN")
        return (
            Reading(60, "energy", main, self.unit),
            Reading(266, "energy_high_res", Decimal(self.wh % self.wrap), "Wh"),
        )


GJ, MWH, KWH = Decimal("0.0000036"), Decimal("0.000001"), Decimal("0.001")
displays = st.sampled_from([("GJ", GJ, 2), ("GJ", GJ, 3), ("MWh", MWH, 3), ("kWh", KWH, 1)])


@given(
    st.integers(0, 10**9), st.sampled_from([10**6, 10**7, 10**8, 10**9]), displays,
    st.lists(st.integers(0, 50_000), max_size=30),
)  # fmt: skip
def test_the_fused_counter_is_exact_wherever_the_fine_register_wraps(
    start: int, wrap: int, display: tuple[str, Decimal, int], steps: list[int]
) -> None:
    meter, fused = Meter(start, wrap, *display), FusedCounter()
    for step in (0, *steps):
        meter.wh += step
        total = fused.update(*meter.readings())
        assert total is not None
        assert total.value == meter.wh
        assert total.unit == "Wh"


@given(
    st.integers(0, 10**9), st.sampled_from([2**20, 2**24, 36_000_000, 1_234_567]), displays,
    st.lists(st.integers(0, 50_000), max_size=30),
)  # fmt: skip
def test_a_fine_register_that_wraps_anywhere_else_still_gives_a_counter_that_never_drops(
    start: int, wrap: int, display: tuple[str, Decimal, int], steps: list[int]
) -> None:
    meter, fused = Meter(start, wrap, *display), FusedCounter()
    last = Decimal(0)
    for step in (0, *steps):
        meter.wh += step
        total = fused.update(*meter.readings())
        assert total is not None
        assert isinstance(total.value, Decimal)
        assert total.value >= last
        digit_wh = meter.digit / meter.per_wh
        assert abs(total.value - meter.wh) <= 4 * digit_wh
        last = total.value


def test_the_example_of_the_meter_at_60_gj() -> None:
    total = FusedCounter().update(
        Reading(60, "energy", Decimal("59.96"), "GJ"),
        Reading(266, "energy_high_res", Decimal(6655807), "Wh"),
    )
    assert total is not None
    assert total.value == 16655807


def test_units_that_cannot_be_compared_give_no_counter() -> None:
    fine = Reading(266, "energy_high_res", Decimal(1), "Wh")
    fused = FusedCounter()
    assert fused.update(Reading(60, "energy", Decimal(1), "m³"), fine) is None
    assert fused.update(Reading(60, "energy", Decimal(1), "unit 67"), fine) is None
    assert fused.update(Reading(60, "energy", None, "GJ"), fine) is None


def test_the_fine_register_alone_is_no_counter_for_statistics() -> None:
    shown = device(["energy_high_res"])
    shown.note_readout(readout(reading("energy_high_res", "5", "Wh")))
    assert "state_class" not in announced(shown)["components"]["energy_high_res"]
    both = device(["energy_high_res", "energy"])
    both.note_readout(
        readout(reading("energy", "60.000", "MWh"), reading("energy_high_res", "5", "Wh"))
    )
    assert announced(both)["components"]["energy_high_res"]["state_class"] == "total_increasing"
    assert json.loads(both.states(NOON))["energy_high_res"] == 60000005
