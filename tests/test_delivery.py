"""Each readout arrives on exactly one of `values` and `backlog`, whatever broker and disk do."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp

from .conftest import Server
from .gateway import (
    Background,
    Broker,
    Message,
    log_until,
    next_of,
    stop,
    watching,
    write_config,
)
from .wire import Heard, Wire

EVERY_SECOND = ("poll_interval: 28", "poll_interval: 1s")


@contextlib.asynccontextmanager
async def hearing(port: int) -> AsyncIterator[Heard]:
    """All that the broker passes on."""
    heard = Heard()

    async def listen(messages: asyncio.Queue[Message]) -> None:
        while True:
            topic, payload, _ = await messages.get()
            if topic in ("kamstrup/values", "kamstrup/backlog"):
                heard.take(topic, payload)

    async with watching(port) as messages:
        task = asyncio.create_task(listen(messages))
        yield heard
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def answered(meter: SimulatedMeter, more: int) -> None:
    """Wait until the meter was asked so many more times."""
    count = len(meter.requests)
    await until(lambda: len(meter.requests) >= count + more)


@pytest.mark.parametrize("qos", [0, 1])
async def test_after_an_outage_each_readout_has_come_once(
    mosquitto: Broker, background: Background, tmp_path: Path, qos: int
) -> None:
    broker, meter = mosquitto(), SimulatedMeter()
    async with (
        serve_tcp(meter) as port, Wire(broker.port).laid() as wire, hearing(broker.port) as heard
    ):  # fmt: skip
        config = write_config(tmp_path, wire.port, port, EVERY_SECOND, ("qos: 0", f"qos: {qos}"))
        gateway = background("run", "-c", str(config))
        for missed in (1, 1, 1, 5, 2):
            count = len(heard.live)
            await until(lambda count=count: len(heard.live) > count + 1)  # type: ignore[misc]
            await asyncio.sleep(0.3)  # in which it is confirmed
            wire.cut()
            await answered(meter, missed)
            wire.mend()
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 2)
        stop(gateway)
    heard.assert_once()
    assert heard.late


def _pid(server: Server) -> int:
    return int(
        subprocess.run(
            ["pgrep", "-f", " ".join(server.command)], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    )


async def test_a_broker_that_hangs_gets_each_readout_once(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker, meter = mosquitto(), SimulatedMeter()
    async with serve_tcp(meter) as port, hearing(broker.port) as heard:
        gateway = background(
            "run", "-c", str(write_config(tmp_path, broker.port, port, EVERY_SECOND))
        )
        await until(lambda: len(heard.live) > 1)
        await asyncio.sleep(0.3)
        os.kill(_pid(broker), signal.SIGSTOP)
        await log_until(gateway, "Trying again", seconds=60)
        await answered(meter, 3)
        os.kill(_pid(broker), signal.SIGCONT)
        count = len(heard.live)
        await until(lambda: bool(heard.late) and len(heard.live) > count + 2)
        stop(gateway)
    heard.assert_once()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def on(disk: Path) -> tuple[str, str]:
    return ("serial_device:", f"history:\n    path: {disk}/history.db\nserial_device:")


async def test_a_disk_that_is_full_costs_nothing(
    mosquitto: Broker, background: Background, tmp_path: Path, small_disk: Path
) -> None:
    broker, meter = mosquitto(), SimulatedMeter()
    async with (
        serve_tcp(meter) as port, Wire(broker.port).laid() as wire, hearing(broker.port) as heard
    ):  # fmt: skip
        config = write_config(tmp_path, wire.port, port, EVERY_SECOND, on(small_disk))
        gateway = background("run", "-c", str(config))
        await until(lambda: len(heard.live) > 2)
        with contextlib.suppress(OSError), (small_disk / "fill").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        await log_until(gateway, "cannot be written")
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 3)  # outputs go on
        await asyncio.sleep(0.3)
        wire.cut()
        await answered(meter, 5)
        wire.mend()
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 2)
        assert len(heard.late) >= 3
        (small_disk / "fill").unlink()
        await log_until(gateway, "written again")
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 2)
        stop(gateway)
    heard.assert_once()
    assert len(heard.histories) == 1


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_history_that_goes_away_is_missed_and_nothing_else(
    mosquitto: Broker, background: Background, tmp_path: Path, how: str
) -> None:
    broker, meter = mosquitto(), SimulatedMeter()
    path = tmp_path / "config.history.db"
    async with serve_tcp(meter) as port, hearing(broker.port) as heard:
        config = write_config(tmp_path, broker.port, port, EVERY_SECOND)
        gateway = background("run", "-c", str(config))
        await until(lambda: len(heard.live) > 2)
        copy = tmp_path / "copy.db"
        if how == "replaced":
            with (
                contextlib.closing(sqlite3.connect(path)) as one,
                contextlib.closing(sqlite3.connect(copy)) as other,
            ):
                one.backup(other)
            await until(lambda: len(heard.live) > 5)
            copy.replace(path)
        else:
            path.unlink()
        await log_until(gateway, f"was {how} while the gateway ran")
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 2)
        stop(gateway)
        assert path.exists()
        gateway = background("run", "-c", str(config))
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 2)
        stop(gateway)
    heard.assert_once()
    assert len(heard.histories) == (2 if how == "deleted" else 1)


async def test_kills_and_stops_repeat_at_most_what_was_on_its_way(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker, meter = mosquitto(), SimulatedMeter()
    async with serve_tcp(meter) as port, hearing(broker.port) as heard:
        config = write_config(tmp_path, broker.port, port, EVERY_SECOND, ("qos: 0", "qos: 1"))
        for number in range(8):
            gateway = background("run", "-c", str(config))
            count = len(heard.live)
            await until(lambda count=count: len(heard.live) > count)  # type: ignore[misc]
            await asyncio.sleep(0.002 * number)  # perhaps before it is confirmed
            if number % 2:
                gateway.kill()
                gateway.communicate(timeout=10)
            else:
                stop(gateway)
        await asyncio.sleep(1)
    heard.assert_once(most_twice=4)


async def test_a_broker_that_hangs_up_behind_its_welcome_is_noticed_at_once(
    background: Background, tmp_path: Path
) -> None:
    connected: list[float] = []

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        connected.append(asyncio.get_running_loop().time())
        writer.write(b"\x20\x02\x00\x00")
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(welcome, "127.0.0.1", 0) as server,
        serve_tcp(SimulatedMeter()) as port,
    ):
        address = server.sockets[0].getsockname()[1]
        gateway = background("run", "-c", str(write_config(tmp_path, address, port)))
        await until(lambda: len(connected) > 2)
        stop(gateway)
    assert connected[1] - connected[0] < 5  # 10 s before, with a wait of 1 s between


async def test_a_broker_that_often_hung_up_is_told_that_we_are_online(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    """What was on its way then was not what it hung up on."""
    broker, count = mosquitto(), 0

    class Fickle(Wire):
        async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            if count > 5:
                await super().pass_on(reader, writer)
                return
            await reader.read(100)
            writer.write(b"\x20\x02\x00\x00")
            await writer.drain()
            writer.close()

    async with (
        Fickle(broker.port).laid() as wire, serve_tcp(SimulatedMeter()) as port,
        watching(broker.port, "kamstrup/status") as messages,
    ):  # fmt: skip
        gateway = background("run", "-c", str(write_config(tmp_path, wire.port, port)))
        assert await next_of(messages, "kamstrup/status", 90) == "online"
        stop(gateway)


async def test_a_message_that_is_too_large_is_told_with_both_sizes_and_holds_nothing_up(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto("allow_anonymous true", "max_packet_size 400")
    every = ("    - energy\n", "    - all\n")
    version = ("    qos: 0\n", "    qos: 0\n    version: 5\n")
    async with serve_tcp(SimulatedMeter()) as port:
        config = write_config(tmp_path, broker.port, port, EVERY_SECOND, every, version)
        gateway = background("run", "-c", str(config))
        log = await log_until(gateway, "to kamstrup/values: it has", seconds=60)
        log += stop(gateway)
    assert log.count("to kamstrup/values: it has") == 1
    assert "and the broker takes 400 at most" in log


async def test_a_message_that_a_broker_hangs_up_on_holds_nothing_else_up(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    """On MQTT 3.1.1 it says no limit, and what Home Assistant is told is the longest of all."""
    broker = mosquitto("allow_anonymous true", "max_packet_size 2000")
    discovery = ("serial_device:", "homeassistant:\n    discovery: true\nserial_device:")
    async with serve_tcp(SimulatedMeter()) as port, hearing(broker.port) as heard:
        config = write_config(tmp_path, broker.port, port, EVERY_SECOND, discovery)
        gateway = background("run", "-c", str(config))
        log = await log_until(gateway, "are left out from now on", seconds=90)
        count = len(heard.live)
        await until(lambda: len(heard.live) > count + 3)
        stop(gateway)
    assert log.count("closes the connection whenever") == 1
    heard.assert_once(most_twice=4)


async def test_a_disk_that_is_full_at_the_start_holds_nothing_up(
    mosquitto: Broker, background: Background, tmp_path: Path, small_disk: Path
) -> None:
    broker = mosquitto()
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, port, EVERY_SECOND, on(small_disk))
        gateway = background("run", "-c", str(config))
        for _ in range(4):
            values = json.loads(await next_of(messages, "kamstrup/values"))
            assert values["sequence"] is None
        (small_disk / "fill").unlink()
        await log_until(gateway, "written again", seconds=90)
        while (await next_of(messages, "kamstrup/values")).count('"sequence": null'):
            pass
        await asyncio.sleep(2)
        stop(gateway)
        late = []
        while not messages.empty():
            topic, payload, _ = messages.get_nowait()
            late += [payload] * topic.endswith("/backlog")
    assert not late  # all of it was delivered already


async def test_all_of_a_thousand_retained_commands_take_effect(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    import aiomqtt

    broker, count = mosquitto("allow_anonymous true", "max_queued_messages 0"), 500
    meters = "".join(
        f"- {{name: m{number}, port: /dev/nothing{number}, parameters: energy, poll_interval: 1}}\n"
        for number in range(count)
    )
    config = tmp_path / "config.yaml"
    config.write_text(
        f"mqtt: {{host: 127.0.0.1, port: {broker.port}}}\nlog: {{level: error}}\nmeters:\n{meters}"
    )
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for number in range(count):
            topic = f"kamstrup/m{number}/poll_interval"
            await client.publish(topic, "7", retain=True)
    gateway = background("run", "-c", str(config))
    found: dict[str, Any] = {}
    async with watching(broker.port, "kamstrup/+/state") as messages:
        async with asyncio.timeout(100):
            while len(found) < count:
                topic, payload, _ = await messages.get()
                if json.loads(payload)["poll_interval"] == 420:
                    found[topic] = payload
    stop(gateway)
