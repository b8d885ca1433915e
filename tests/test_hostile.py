"""What comes from outside and cannot be right, though its checksum is: it costs only itself."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS
from kamstrup_mqtt import MeterIdentity, MeterSession, Reading, Readout
from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.cli.show import explain, explanation_text, readout_json
from kamstrup_mqtt.consumption import BYS, Archive, Price
from kamstrup_mqtt.consumption.exchange import to_json_line
from kamstrup_mqtt.kmp import (
    Frame,
    GetRegisterAnswer,
    GetRegisterRequest,
    RegisterValue,
    decode,
    decode_value,
    encode,
)
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice, HomeAssistantSettings
from kamstrup_mqtt.readout.capture import read_capture
from kamstrup_mqtt.simulator import Fault, Reaction, SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import History, Stored
from kamstrup_mqtt.web.figures import efficiency, latest, series

from .conftest import free_port, kamstrup_mqtt
from .gateway import Background, Broker, next_of, stop, watching
from .virtual import VirtualLink, virtual


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        pytest.param(target, seed, id=f"{target}: {seed}")
        for target in SEEDS
        for seed in SEEDS[target]
    ],
)
def test_a_seed_of_the_fuzzing(target: str, seed: str) -> None:
    TARGETS[target](SEEDS[target][seed])


registers = st.sampled_from([60, 266, 68, 239, 63, 99, 98, 1001, 1002, 348, 404, 0x1234])
anything = st.builds(
    RegisterValue,
    registers,
    st.sampled_from([1, 8, 39, 47, 48, 50, 51, 53, 54, 57, 59, 64, 79]) | st.integers(0, 255),
    st.sampled_from([0x00, 0x1B, 0x3F, 0x43, 0x5B, 0x7F, 0x80]) | st.integers(0, 255),
    st.binary(max_size=12) | st.binary(max_size=255),
)


@given(st.lists(anything, max_size=8).map(tuple))
def test_any_answer_comes_out_on_every_way(values: tuple[RegisterValue, ...]) -> None:
    TARGETS["values"](GetRegisterAnswer(values).to_data())


GJ = 8


def test_a_register_of_no_bytes_has_no_value_on_any_way_out() -> None:
    none = RegisterValue(60, GJ, 0x43, b"")
    explanation = explain(encode(GetRegisterAnswer((none,))).hex())
    assert explanation["registers"] == [
        {"register": 60, "name": "energy", "unit": "GJ", "value": None, "valid": False}
    ]
    assert "energy (60) = no bytes GJ (not valid)" in explanation_text(explanation)
    reading = Reading(60, "energy", none.value, "GJ")
    readout = Readout(MeterIdentity("1"), BEGIN, {60: reading}, {})
    assert json.loads(readout.to_json())["energy"] is None
    assert json.loads(readout_json(readout))["values"]["energy"]["value"] is None
    assert json.loads(to_json_line(Stored(1, "m", readout)))["values"]["energy"]["value"] is None
    assert latest(readout)["values"] == {
        "energy": {"value": None, "unit": "GJ", "title": REGISTERS[60].title}
    }
    assert reading.text == ""


def test_no_more_decimals_are_shown_than_a_browser_can() -> None:
    device = HomeAssistantDevice(HomeAssistantSettings(), "", "t", "t/status", (60,))
    value = decode_value(GJ, 0x5B, b"\x01")
    readings = {60: Reading(60, "energy", value, "GJ")}
    device.note_readout(Readout(MeterIdentity("1"), BEGIN, readings, {}))
    energy = json.loads(device.config())["components"]["energy"]
    assert energy["suggested_display_precision"] == 20
    assert json.loads(device.states(BEGIN), parse_float=Decimal)["energy"] == value


# Sign/exponent and bytes of totals as they may follow one another, up to the longest numbers.
TOTALS = [(0x00, "00"), (0x43, "0001"), (0x5B, "01"), (0x5B, "02"), (0x1B, "09"), (0x9B, "09"),
          (0x00, "09" * 11), (0x43, "ffffffffffffffff"), (0x40, ""), (0x3F, "ff")]  # fmt: skip
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("step", [timedelta(minutes=10), timedelta(days=2)])
async def test_the_history_of_extreme_totals_can_be_asked_anything(
    tmp_path: Path, step: timedelta
) -> None:
    history = History(tmp_path / "history.db", 1e9)
    await history.open()
    names = {60: "energy", 68: "volume", 97: "temp1xm3", 110: "temp2xm3", 86: "temp1"}
    for number, (sign_exponent, data) in enumerate(3 * TOTALS):
        value = decode_value(GJ, sign_exponent, bytes.fromhex(data))
        found = {key: Reading(key, name, value, "GJ") for key, name in names.items()}
        taken = BEGIN + number * step
        await history.append("meter", Readout(MeterIdentity("1"), taken, found, {}))
        await history.note_outdoor(Decimal(number), taken)
    await history.close()
    end = BEGIN + 30 * step
    prices = [Price(since=BEGIN.date(), price=Decimal("123.45"), per="MWh")]
    with Archive(tmp_path / "history.db") as archive:
        for by in BYS:
            efficiency(archive, "meter", BEGIN, end, by)
            for register in names:
                for spread in (False, True):
                    archive.used("meter", register, BEGIN, end, by, spread=spread)
                assert json.dumps(
                    series(archive, "meter", register, BEGIN, end, by=by, prices=prices)
                )


async def test_what_was_counted_between_the_longest_numbers_is_exact(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", 1e9)
    await history.open()
    least, most = Decimal("1E-27"), Decimal(10**27)
    for minute, value in enumerate((least, most, most + 1)):
        named = ((60, "energy"), (86, "temp1"))
        found = {key: Reading(key, name, value, "GJ") for key, name in named}
        taken = BEGIN + timedelta(minutes=10 + minute)
        await history.append("meter", Readout(MeterIdentity("1"), taken, found, {}))
    await history.close()
    with Archive(tmp_path / "history.db") as archive:
        end = BEGIN + timedelta(hours=1)
        _, used = archive.used("meter", 60, BEGIN, end, "hour")
        _, means = archive.series("meter", 86, BEGIN, end, "hour")
    assert f"{used.periods[0].used:f}" == "1" + 26 * "0" + "0." + 26 * "9" + "9"
    assert [mean.value for mean in means] == [Decimal(2 * 10**27 + 1) // 3]


class RegistersOnly(SimulatedMeter):
    """A meter that tells its serial number only as a register, and there it is a text."""

    def react(self, frame: Frame, now: float) -> Reaction:
        if frame.command != 0x10:
            return Reaction()
        text = RegisterValue(1001, 54, 0x00, b"+/#")
        request = decode(frame)
        assert isinstance(request, GetRegisterRequest)
        values = self.measure(tuple(one for one in request.registers if one != 1001))
        said = (text,) if 1001 in request.registers else ()
        return Reaction(encode(GetRegisterAnswer((*values, *said))))


@virtual
async def test_a_serial_number_that_is_none_is_not_believed() -> None:
    """It would be part of a topic."""
    readout = await MeterSession(VirtualLink(RegistersOnly())).read(["energy"])
    assert readout["energy"].text == "227.445"
    assert readout.meter.serial is None


async def test_the_gateway_lives_with_a_meter_that_says_anything(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(mosquitto)
    port, capture = free_port(), tmp_path / "capture.txt"
    meter = SimulatedMeter(
        "403", faults={Fault.OTHER_PROGRAM: 0.1, Fault.STRANGE_VALUES: 1.0}, seed=12
    )
    config = tmp_path / "config.yaml"
    parameters = [
        "energy",
        "energy_high_res",
        "volume",
        "clock",
        "date",
        "target_date",
        "info_code",
    ]
    async with serve_tcp(meter) as url, watching(broker.port) as messages:
        config.write_text(
            f"mqtt: {{host: 127.0.0.1, port: {broker.port}, topics: per_parameter, retain: true}}\n"
            f"serial_device: {{com_port: '{url}'}}\n"
            f"kamstrup: {{parameters: {json.dumps(parameters)}, poll_interval: 1s}}\n"
            f"web: {{listen: '127.0.0.1:{port}'}}\n"
        )
        gateway = background("run", "-c", str(config), "--capture", str(capture))
        seen: set[str] = set()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as page:
            for _ in range(12):
                values = json.loads(await next_of(messages, "kamstrup/values", 60))
                assert values.keys() <= {*parameters, "timestamp", "serial", "sequence", "history"}
                seen |= {type(value).__name__ for value in values.values()}
                json.loads(await next_of(messages, "kamstrup/state", 60))
                for path in (
                    "metrics",
                    f"api/meters/{meter.serial}/latest",
                    f"api/meters/{meter.serial}/series?parameter=energy&by=hour",
                    f"api/meters/{meter.serial}/series?parameter=energy",
                ):
                    assert (await page.get(path)).status_code == 200
        assert {"NoneType", "int", "float"} <= seen
        meter.faults.clear()  # and back to what is true, as soon as the meter says it twice
        meter.house.advance(0)
        async with asyncio.timeout(60):
            while True:
                values = json.loads(await next_of(messages, "kamstrup/values", 60))
                if values.get("info_code") == 0 and 0 < values.get("energy", 0) < 1e6:
                    break
        log = await asyncio.to_thread(stop, gateway)
    assert "internal error" not in log
    assert len(read_capture(capture.read_text().splitlines())) > 24
    done = await asyncio.to_thread(kamstrup_mqtt, "export", "-c", str(config))
    assert done.stdout.count("\n") > 12
