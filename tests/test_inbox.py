"""Commands over MQTT to the real gateway: each takes effect once, and none comes back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt

from kamstrup_mqtt.gateway.inbox import Inbox
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import History

from .gateway import Background, Broker, Message, next_of, stop, watching, write_config
from .virtual import virtual

TOPIC = "kamstrup/poll_interval"


async def send(port: int, *payloads: str | bytes, retain: bool = False) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        for payload in payloads:
            await client.publish(TOPIC, payload, retain=retain)


async def interval(messages: asyncio.Queue[Message], seconds: float) -> None:
    """Wait until the state says that the meter is read so often."""
    while json.loads(await next_of(messages, "kamstrup/state", 60))["poll_interval"] != seconds:
        pass


async def until_25_minutes(port: int, messages: asyncio.Queue[Message]) -> set[float]:
    """Set that, which arrives behind what is retained; gives the intervals told meanwhile."""
    told: set[float] = set()
    async with asyncio.timeout(60):
        while 1500 not in told:
            await send(port, "25")  # until the gateway has subscribed
            await asyncio.sleep(0.5)
            while not messages.empty():
                topic, payload, _ = messages.get_nowait()
                if topic == "kamstrup/state":
                    told.add(json.loads(payload)["poll_interval"])
    return told


async def test_two_intervals_in_flight_are_no_endless_loop(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        await next_of(messages, "kamstrup/values")
        async with watching(broker.port, TOPIC) as commands:
            await send(broker.port, "10", "20", "30", "40")
            await interval(messages, 40 * 60)
            await asyncio.sleep(2)
            heard = [commands.get_nowait()[1] for _ in range(commands.qsize())]
        stop(gateway)
    assert heard == ["10", "20", "30", "40"]  # ours, and nothing of the gateway


async def test_an_old_retained_interval_does_not_beat_a_newer_command(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port:
        await send(broker.port, "10", retain=True)  # as version 0.1 left behind
        config = str(write_config(tmp_path, broker.port, port))
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", config)
            await interval(messages, 600)
            await send(broker.port, "20")
            await interval(messages, 1200)
            stop(gateway)
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", config)
            await interval(messages, 1200)
            assert await until_25_minutes(broker.port, messages) <= {1200, 1500}
            stop(gateway)
            await send(broker.port, "30", retain=True)  # news, while nobody listened
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", config)
            await interval(messages, 1800)
            await send(broker.port, "")
            await interval(messages, 1680)
            stop(gateway)


async def test_what_is_no_interval_is_judged_whole_and_harmless(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        await next_of(messages, "kamstrup/values")
        await send(broker.port, b"5" + b" " * 4094 + b"\xff" * 9, b"\xff", b"5 \xff", b"9" * 10**6)
        await send(broker.port, "10")
        await interval(messages, 600)
        log = stop(gateway)
    assert log.count("is ignored: expected minutes such as 28") == 4
    assert log.count("Connected to broker") == 1


async def test_a_retained_interval_is_old_however_many_others_were_set_since(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port:
        await send(broker.port, "5", retain=True)
        config = str(write_config(tmp_path, broker.port, port))
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", config)
            await interval(messages, 300)
            await send(broker.port, *(str(minutes) for minutes in range(100, 140)))
            await interval(messages, 139 * 60)
            stop(gateway)
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", config)
            await interval(messages, 139 * 60)
            assert await until_25_minutes(broker.port, messages) <= {139 * 60, 1500}
            stop(gateway)


class Meter:
    """What a poller is told."""

    def __init__(self) -> None:
        self.interval: float | None = None

    def request(self, registers: tuple[int, ...] = ()) -> None:
        raise AssertionError(registers)

    def boost(self, seconds: float) -> None:
        raise AssertionError(seconds)

    def set_interval(self, seconds: float | None) -> None:
        self.interval = seconds


@contextlib.asynccontextmanager
async def inbox(path: Path) -> AsyncIterator[tuple[Inbox, Meter, History]]:
    """An inbox on a history, as after a start."""
    history, meter = History(path, 1e9, names=["m"]), Meter()
    await history.open()
    box = Inbox((MeterConfig("m", "/dev/x", (60,), 60.0, "kamstrup"),), {"m": meter}, history)
    await box.restore()
    restoring = asyncio.create_task(box.keep_restoring())
    yield box, meter, history
    restoring.cancel()
    await history.close()


async def interval_after_restart(path: Path) -> float | None:
    async with inbox(path) as (_, meter, _history):
        return meter.interval


@virtual
async def test_a_command_while_the_disk_is_away_lasts(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "history.db"
    async with inbox(path) as (box, _, _history):
        await box.take(TOPIC, b"20s", retained=True)
    (tmp_path / "folder").rename(tmp_path / "away")
    (tmp_path / "folder").write_text("in the way")
    async with inbox(path) as (box, meter, history):
        await box.take(TOPIC, b"20s", retained=True)  # who knows whether that is news
        await box.take(TOPIC, b"30s", retained=False)
        for _ in range(2):  # each time the broker is connected anew
            await box.take(TOPIC, b"20s", retained=True)
            assert meter.interval == 30
        (tmp_path / "folder").unlink()
        (tmp_path / "away").rename(tmp_path / "folder")
        await asyncio.sleep(60)
        await box.take(TOPIC, b"20s", retained=True)
        assert meter.interval == 30
        assert await history.setting("m", "poll_interval")
    assert await interval_after_restart(path) == 30


@virtual
async def test_a_history_that_is_replaced_does_not_bring_an_old_interval_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.db"
    async with inbox(path) as (box, meter, history):
        await box.take(TOPIC, b"30s", retained=False)
        path.unlink()
        watching_it = asyncio.create_task(history.watch())
        await asyncio.sleep(60)
        watching_it.cancel()
        assert meter.interval == 30
    assert await interval_after_restart(path) == 30
