"""A meter that is renamed, and moved from the single form to `meters:`, on the real gateway."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import aiomqtt
import httpx

from kamstrup_mqtt.simulator import DEFAULT_SERIAL, SimulatedMeter, serve_tcp

from .conftest import free_port, kamstrup_mqtt
from .gateway import FAST, Background, Broker, Message, next_of, stop, watching, write_config


async def state_with(
    messages: asyncio.Queue[Message], topic: str, **expected: object
) -> dict[str, object]:
    """The next state that says all that."""
    while True:
        state: dict[str, object] = json.loads(await next_of(messages, topic, 60))
        if expected.items() <= state.items():
            return state


async def test_all_ways_out_know_a_renamed_meter_by_its_new_name_only(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker, page = mosquitto(), free_port()
    meter, other = SimulatedMeter(), SimulatedMeter("603", serial=6030001)
    async with (
        serve_tcp(meter) as port,
        serve_tcp(other) as other_port,
        watching(broker.port) as messages,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{page}") as client,
    ):
        config = write_config(tmp_path, broker.port, port, FAST)
        single = config.read_text()
        config.write_text(f"{single}web:\n  listen: 127.0.0.1:{page}\n")
        gateway = background("run", "-c", str(config))
        first = json.loads(await next_of(messages, "kamstrup/values"))
        async with aiomqtt.Client("127.0.0.1", broker.port) as user:
            await user.publish("kamstrup/poll_interval", "3s")
        await state_with(messages, "kamstrup/state", poll_interval=3, poll_interval_from="command")
        (known,) = (await client.get("/api/meters")).json()["meters"]
        assert (known["name"], known["serial"]) == ("meter", str(DEFAULT_SERIAL))
        stop(gateway)

        meters = "".join(
            f"- name: {name}\n  port: {url}\n  poll_interval: 2s\n  parameters: [energy]\n"
            for name, url in (("flat-1", port), ("flat-2", other_port))
        )
        begin, _, _ = single.partition("serial_device")
        config.write_text(f"{begin}meters:\n{meters}web:\n  listen: 127.0.0.1:{page}\n")
        gateway = background("run", "-c", str(config))
        values = json.loads(await next_of(messages, "kamstrup/flat-1/values", 60))
        while values["timestamp"] < first["timestamp"]:  # nothing of the old one is left to come
            values = json.loads(await next_of(messages, "kamstrup/flat-1/values", 60))
        assert (values["serial"], values["history"]) == (first["serial"], first["history"])
        assert values["sequence"] > first["sequence"]
        await state_with(
            messages, "kamstrup/flat-1/state", poll_interval=3, poll_interval_from="command"
        )
        await next_of(messages, "kamstrup/flat-2/values", 60)
        await asyncio.sleep(1)
        listed = {
            one["serial"]: one["name"] for one in (await client.get("/api/meters")).json()["meters"]
        }
        metrics = (await client.get("/metrics")).text
        series = {
            (await client.get(f"/api/meters/{name}/series?by=reading")).text
            for name in ("flat-1", DEFAULT_SERIAL)
        }
        assert (await client.get("/api/meters/meter/latest")).status_code == 404
        log = stop(gateway)
    assert listed == {str(DEFAULT_SERIAL): "flat-1", "6030001": "flat-2"}
    assert 'meter="flat-1"' in metrics
    assert 'meter="meter"' not in metrics
    (only,) = series
    assert len(json.loads(only)["points"]) > 1
    assert "Meter meter is now called flat-1" in log
    for name in ("flat-1", str(DEFAULT_SERIAL)):
        shown = kamstrup_mqtt("history", "-c", str(config), "--meter", name, "--json")
        assert shown.returncode == 0, shown.stderr
    refused = kamstrup_mqtt("history", "-c", str(config), "--meter", "meter")
    assert refused.returncode == 2
    assert "flat-1, flat-2" in refused.stderr
    exported = [
        json.loads(line, parse_float=Decimal)
        for line in kamstrup_mqtt(
            "export", "-c", str(config), "--format", "json"
        ).stdout.splitlines()
    ]
    assert {(one["meter"], one["serial"]) for one in exported} == {
        ("flat-1", str(DEFAULT_SERIAL)), ("flat-2", "6030001"),
    }  # fmt: skip
