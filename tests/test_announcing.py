"""Discovery, state and commands through a real broker, as Home Assistant and users meet them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiomqtt

from kamstrup_mqtt.kmp import GetRegisterRequest
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, serve_tcp

from .gateway import (
    FAST,
    Background,
    Broker,
    log_until,
    next_of,
    stop,
    watching,
    write_config,
)  # fmt: skip

CONFIG = "homeassistant/device/kamstrup_71343479/config"


async def send(port: int, topic: str, payload: bytes | str, **more: Any) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.publish(topic, payload, qos=1, **more)


async def retained(port: int, seconds: float = 0.5) -> dict[str, str]:
    found: dict[str, str] = {}
    async with watching(port) as messages:
        await asyncio.sleep(seconds)
        while not messages.empty():
            topic, payload, kept = messages.get_nowait()
            if kept:
                found[topic] = payload
    return found


async def test_home_assistant_finds_everything_with_the_first_readout(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        shown = json.loads(await next_of(messages, "kamstrup/homeassistant"))
        kept = await retained(broker.port)  # values are not, as configured
        log = stop(gateway)
    assert kept.keys() == {
            CONFIG, "kamstrup/status", "kamstrup/state", "kamstrup/units", "kamstrup/homeassistant"
        }  # fmt: skip
    content = json.loads(kept[CONFIG])
    assert content["device"]["serial_number"] == "71343479"
    assert shown.keys() == {"energy", "volume", "temp1", "temp2"}
    own = {
        "link_state", "last_readout", "signal_quality", "telegrams", "crc_errors", "damaged",
        "timeouts", "retries", "implausible", "today_telegrams", "today_bytes", "problem",
        "read_now", "poll_interval",
    }  # fmt: skip
    assert content["components"].keys() == shown.keys() | own
    state = json.loads(kept["kamstrup/state"])
    assert state["state"] == "ok"
    assert state["meter"] == {
        "serial": "71343479", "type": "0402", "revision": "A1", "model": None,
    }  # fmt: skip
    assert state["info"] == {"code": 0, "faults": []}
    assert state["counters"]["telegrams"] == 3
    assert state["poll_interval"] == 28 * 60
    assert state["since"] <= state["last_readout"][:17] + "59" + state["last_readout"][19:]
    assert "kamstrup/homeassistant" not in log  # one line a readout is enough


async def test_discovery_can_be_switched_off_and_parameters_have_topics_of_their_own(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    changes = (
        ("username: user1", "username: user1\n    topics: per_parameter"),
        ("- temp2", "- maxpowerdate_m"),
        ("kamstrup:\n    parameters", "homeassistant: {discovery: off}\nkamstrup:\n    parameters"),
    )
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, *changes)))
        values = json.loads(await next_of(messages, "kamstrup/values"), parse_float=str)
        for name in ("energy", "volume", "temp1", "maxpowerdate_m"):
            assert await next_of(messages, f"kamstrup/{name}") == values[name]
        kept = await retained(broker.port)
        stop(gateway)
    assert kept.keys() == {"kamstrup/status", "kamstrup/state", "kamstrup/units"}


async def test_a_message_on_read_reads_now_and_a_list_limits_it(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    change = ("retain: False", "retain: True")
    meter = SimulatedMeter()
    async with serve_tcp(meter) as port, watching(broker.port) as messages:
        await send(broker.port, "kamstrup/read", "left behind", retain=True)
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, change)))
        await next_of(messages, "kamstrup/values")
        for payload, names in (
            ("", {"energy", "volume", "temp1", "temp2"}),
            ("now!", {"energy", "volume", "temp1", "temp2"}),
            ('["Power", 74]', {"power", "flow"}),
            ('{"nothing": "known"}', {"energy", "volume", "temp1", "temp2"}),
            (b"\xff\x00" * 1_000_000, {"energy", "volume", "temp1", "temp2"}),
        ):
            await send(broker.port, "kamstrup/read", payload)
            values = json.loads(await next_of(messages, "kamstrup/values"))
            assert values.keys() == names | {"timestamp", "serial", "sequence", "history"}
        asked = len(meter.requests)
        for payload in ('["enrgy"]', "[true]", '["a\\nb"]'):
            await send(broker.port, "kamstrup/read", payload)
        await asyncio.sleep(1)
        assert len(meter.requests) == asked
        # What was asked for by the way does not take the place of the full set.
        assert "energy" in json.loads((await retained(broker.port))["kamstrup/values"])
        log = stop(gateway)
    assert log.count("a retained message on kamstrup/read is ignored") == 1
    assert "is ignored: unknown parameter 'enrgy', did you mean 'energy'?" in log
    assert "is ignored: a list of parameters holds names and register numbers only" in log
    assert "is ignored: unknown parameter 'a?b'" in log


async def test_the_interval_changes_at_once_and_survives_a_restart(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        config = str(write_config(tmp_path, broker.port, port))
        gateway = background("run", "-c", config)
        await next_of(messages, "kamstrup/values")
        await send(broker.port, "kamstrup/poll_interval", "soon")
        await send(broker.port, "kamstrup/poll_interval", "2s")
        for _ in range(2):
            await next_of(messages, "kamstrup/values", seconds=10)
        log = stop(gateway)
        assert "is ignored: expected minutes such as 28" in log
        gateway = background("run", "-c", config)
        for _ in range(3):
            await next_of(messages, "kamstrup/values", seconds=10)
        kept = await retained(broker.port)
        assert json.loads(kept["kamstrup/state"])["poll_interval"] == 2
        components = json.loads(kept[CONFIG])["components"]
        assert components["energy"]["expire_after"] < 28 * 60
        assert components["poll_interval"]["command_topic"] == "kamstrup/poll_interval"
        await send(broker.port, "kamstrup/poll_interval", "", retain=True)
        async with asyncio.timeout(60):
            while json.loads(await next_of(messages, "kamstrup/state"))["poll_interval"] != 1680:
                pass
        stop(gateway)


async def test_the_birth_of_home_assistant_brings_everything_again(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        before = await next_of(messages, "kamstrup/homeassistant")
        for _ in range(3):
            await send(broker.port, "homeassistant/status", "online")
        assert "components" in await next_of(messages, CONFIG)
        assert await next_of(messages, "kamstrup/homeassistant") == before
        stop(gateway)
        values = [messages.get_nowait()[0] for _ in range(messages.qsize())]
    assert "kamstrup/values" not in values  # others need no second copy


async def test_what_is_no_longer_configured_disappears(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        for changes, gone in (((), set()), ((("    - temp2\n", ""),), {"temp2"}), ((), set())):
            config = write_config(tmp_path, broker.port, port, *changes)
            gateway = background("run", "-c", str(config))
            await next_of(messages, "kamstrup/homeassistant")
            async with asyncio.timeout(60):
                while True:
                    found = json.loads((await retained(broker.port))[CONFIG])["components"]
                    if {name for name, entity in found.items() if len(entity) == 1} == gone:
                        break
            assert {"energy", "temp2"} <= found.keys()
            stop(gateway)


async def test_the_state_says_what_the_line_is_like(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter(faults={Fault.SILENT: 1.0})

    async def until(state: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                found = json.loads(await next_of(messages, "kamstrup/state", 60))
                if found["state"] == state:
                    assert isinstance(found, dict)
                    return found

    async with watching(broker.port) as messages:
        async with serve_tcp(meter) as port:
            config = write_config(tmp_path, broker.port, port, FAST)
            gateway = background("run", "-c", str(config))
            silent = await until("silent")
            meter.faults.clear()
            ok = await until("ok")
            meter.faults[Fault.BAD_CRC] = 1.0
            garbled = await until("garbled")
            meter.faults.clear()
        missing = await until("port_missing")
        stop(gateway)
    assert "the meter did not answer" in silent["reason"]
    assert silent["counters"]["timeouts"] >= 6
    assert silent["last_readout"] is None
    assert silent["meter"]["serial"] is None
    assert silent["signal_quality"] == 0
    assert ok["reason"] == ""
    assert ok["last_readout"]
    assert garbled["counters"]["crc_errors"] + garbled["counters"]["damaged"] >= 6
    assert garbled["counters"]["retries"] >= 4
    assert "unusable" in garbled["reason"]
    assert garbled["last_readout"] >= ok["last_readout"]
    assert "refused the connection" in missing["reason"]
    assert missing["meter"]["serial"] == "71343479"


async def test_an_info_code_is_a_problem_in_words(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter("402")
    meter.info_code = 24
    async with serve_tcp(meter) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        state = json.loads(await next_of(messages, "kamstrup/state"))
        values = json.loads(await next_of(messages, "kamstrup/values"))
        stop(gateway)
    assert state["info"]["code"] == 24
    assert "24" in state["info"]["faults"][0]
    assert "info_code" not in values
    request = meter.requests[1]
    assert isinstance(request, GetRegisterRequest)
    assert request.registers == (60, 68, 86, 87, 99, 1001)


async def test_a_config_topic_full_of_rubbish_does_no_harm(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        await send(broker.port, CONFIG, b"\xff{" * 500_000, retain=True)
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        await log_until(gateway, "Publishing")
        await next_of(messages, "kamstrup/homeassistant")
        assert "components" in json.loads((await retained(broker.port))[CONFIG])
        stop(gateway)
