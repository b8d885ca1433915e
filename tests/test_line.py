"""The line as it is in a meter cupboard: plugs are pulled, bridges restart, meters are replaced."""

import asyncio
import json
from pathlib import Path
from typing import Any

from kamstrup_mqtt.simulator import SimulatedMeter, serve_pty, serve_tcp

from .conftest import Server, free_port
from .gateway import Background, Broker, Message, next_of, stop, watching, write_config

EVERY_SECOND = ("poll_interval: 28", "poll_interval: 1s")


async def state(messages: asyncio.Queue[Message], wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            found = json.loads(await next_of(messages, "kamstrup/state", 40))
            if found["state"] == wanted:
                assert isinstance(found, dict)
                return found


async def test_a_plug_that_is_pulled_and_put_back_under_the_same_name(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    name = tmp_path / "usb-head"
    async with watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, str(name), EVERY_SECOND)
        gateway = background("run", "-c", str(config))
        assert "does not exist" in (await state(messages, "port_missing"))["reason"]
        for _ in range(2):
            async with serve_pty(SimulatedMeter()) as device:
                name.symlink_to(device)
                await state(messages, "ok")
                name.unlink()
            await state(messages, "port_missing")
        log = stop(gateway)
    assert log.count("does not exist") >= 2


async def test_a_bridge_that_restarts(
    mosquitto: Broker, background: Background, ser2net: Any, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_pty(SimulatedMeter()) as device, watching(broker.port) as messages:
        bridge: Server = await asyncio.to_thread(ser2net, device)
        port = f"socket://127.0.0.1:{bridge.port}"
        gateway = background(
            "run", "-c", str(write_config(tmp_path, broker.port, port, EVERY_SECOND))
        )
        await state(messages, "ok")
        await asyncio.to_thread(bridge.stop)
        await state(messages, "port_missing")
        await asyncio.to_thread(bridge.start)
        await state(messages, "ok")
        stop(gateway)


async def test_another_meter_at_the_same_port_is_announced_as_another(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    number = free_port()
    async with watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, f"socket://127.0.0.1:{number}", EVERY_SECOND)
        gateway = background("run", "-c", str(config))
        for serial in (1, 2):
            async with serve_tcp(SimulatedMeter(serial=serial), port=number):
                topic = f"homeassistant/device/kamstrup_{serial}/config"
                content = json.loads(await next_of(messages, topic, 40))
                assert content["device"]["serial_number"] == str(serial)
                while (await state(messages, "ok"))["meter"]["serial"] != str(serial):
                    pass
        log = stop(gateway)
    assert "went back" not in log
    assert "serial number 2 answers" in log


async def test_everything_absent_and_back_in_every_order(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    broker.stop()
    number = free_port()
    config = write_config(tmp_path, broker.port, f"socket://127.0.0.1:{number}", EVERY_SECOND)
    gateway = background("run", "-c", str(config))
    for first_broker in (True, False, True):
        if first_broker:
            await asyncio.to_thread(broker.start)
        async with serve_tcp(SimulatedMeter(), port=number):
            if not first_broker:
                await asyncio.sleep(1)
                await asyncio.to_thread(broker.start)
            async with watching(broker.port) as messages:
                assert "energy" in json.loads(await next_of(messages, "kamstrup/values", 40))
            if first_broker:
                await asyncio.to_thread(broker.stop)
        if not first_broker:
            await asyncio.to_thread(broker.stop)
    stop(gateway)
