"""What fails takes no other part of the gateway down, and is told."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import MqttError

from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.gateway.config import load_config
from kamstrup_mqtt.gateway.run import run_gateway
from kamstrup_mqtt.gateway.service import ask_health
from kamstrup_mqtt.gateway.supervisor import Supervisor
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.outputs import mqtt
from kamstrup_mqtt.outputs.broker import Session
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import History, Stored
from kamstrup_mqtt.tasks import end_tasks, run_together

from .conftest import free_port
from .gateway import Broker, Message, next_of, watching
from .virtual import virtual


@contextlib.asynccontextmanager
async def house(
    mosquitto: Broker, tmp_path: Path, more: str = ""
) -> AsyncIterator[tuple[Path, asyncio.Queue[Message]]]:
    """A gateway in this process that reads two meters each second."""
    broker = mosquitto()
    config = tmp_path / "config.yaml"
    async with (
        serve_tcp(SimulatedMeter("403", serial=1)) as left,
        serve_tcp(SimulatedMeter("603", serial=2)) as right,
        watching(broker.port) as messages,
    ):
        config.write_text(f"""
mqtt: {{host: 127.0.0.1, port: {broker.port}, topic: heat}}
meters:
- {{name: left, port: "{left}", parameters: energy, poll_interval: 1s}}
- {{name: right, port: "{right}", parameters: energy, poll_interval: 1s}}
{more}
""")
        gateway = asyncio.create_task(run_gateway(load_config(config)))
        try:
            yield config, messages
        finally:
            await end_tasks([gateway])


async def complaints(config: Path, words: str) -> list[str]:
    """What the gateway complains of, as soon as that has `words` in it."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(KamstrupError):
                found = await ask_health(config)
                if any(words in line for line in found):
                    return found
            await asyncio.sleep(0.1)


async def test_an_error_in_the_reading_of_one_meter_costs_that_one(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    read = MeterSession.read
    fail = True

    async def fails(self: MeterSession, parameters: Any) -> Readout:
        readout = await read(self, parameters)
        if fail and readout.meter.serial == "1":
            raise ZeroDivisionError("nobody foresaw it")
        return readout

    monkeypatch.setattr(MeterSession, "read", fails)
    async with house(mosquitto, tmp_path) as (config, messages):
        found = await complaints(config, "nobody foresaw it")
        reason = ""
        while "nobody foresaw it" not in reason:
            reason = json.loads(await next_of(messages, "heat/left/state", 60))["reason"]
        for _ in range(2):
            await next_of(messages, "heat/right/values", 60)
        fail = False
        await next_of(messages, "heat/left/values", 60)
    cause = "the reading of left failed: ZeroDivisionError: nobody foresaw it"
    assert found == [f"left: {cause}"]
    assert caplog.text.count(f"{cause}. It is started again in") == 1


async def test_an_error_in_the_publishing_starts_that_again(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = History.after
    failures = iter([True])

    async def fails(self: History, sequence: int, most: int) -> list[Stored]:
        """Nobody but the publishing asks for it."""
        if next(failures, False):
            raise ZeroDivisionError("nobody foresaw it")
        return await after(self, sequence, most)

    monkeypatch.setattr(History, "after", fails)
    async with house(mosquitto, tmp_path) as (config, messages):
        found = await complaints(config, "the publishing failed")
        assert await next_of(messages, "heat/status", 60) == "online"
        assert await next_of(messages, "heat/status", 60) == "offline"
        assert await next_of(messages, "heat/status", 60) == "online"
        await next_of(messages, "heat/left/values", 60)
    assert "the publishing failed: ZeroDivisionError: nobody foresaw it" in found


async def test_an_error_in_what_home_assistant_is_told_costs_that_alone(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fails(self: HomeAssistantDevice, readout: Readout) -> None:
        raise OverflowError("nobody foresaw it")

    monkeypatch.setattr(HomeAssistantDevice, "note_readout", fails)
    async with house(mosquitto, tmp_path) as (config, messages):
        for _ in range(3):
            await next_of(messages, "heat/left/values", 60)
            await next_of(messages, "heat/right/values", 60)
        found = await complaints(config, "left: Home Assistant is not told of its values")
    assert "nobody foresaw it" in found[0]
    assert caplog.text.count("left: Home Assistant is not told of its values") == 1


async def test_a_page_that_cannot_even_be_imported_stops_nothing(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kamstrup_mqtt.web.app", None)
    page = f"web: {{listen: 127.0.0.1:{free_port()}}}"
    async with house(mosquitto, tmp_path, page) as (config, messages):
        for _ in range(2):
            await next_of(messages, "heat/left/values", 60)
        assert "the page failed: " in (await complaints(config, "the page"))[0]


async def test_what_cannot_run_as_it_is_asked_to_ends_everything_in_words() -> None:
    async def fails() -> None:
        raise UsageError("the port is taken")

    with pytest.raises(UsageError, match="the port is taken"):
        await Supervisor().keep("a part", fails)


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again() -> None:
    """As `asyncio.wait_for` of Python 3.11 does when what it waits for comes just then."""
    left = 2

    async def stubborn() -> None:
        nonlocal left
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                left -= 1
                if left < 0:
                    raise

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async with asyncio.timeout(60):
        with pytest.raises(ZeroDivisionError):
            await run_together(stubborn(), fails())
    assert left == -1


async def test_who_ends_tasks_may_be_cancelled_and_they_still_end() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(0.2)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end_tasks([task]))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait({ending}, timeout=60)
    assert ending.cancelled()
    assert task.done()


async def test_a_discovery_that_is_never_confirmed_costs_home_assistant_alone(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Session.publish

    async def unconfirmed(self: Session, topic: str, payload: str, **more: Any) -> str | None:
        if topic.endswith("/config"):
            raise MqttError("Operation timed out")
        return await publish(self, topic, payload, **more)

    monkeypatch.setattr(Session, "publish", unconfirmed)
    async with house(mosquitto, tmp_path) as (config, messages):
        found = await complaints(config, "Home Assistant is not told of the meters")
        for _ in range(3):
            await next_of(messages, "heat/left/values", 60)
    assert found == ["Home Assistant is not told of the meters: Operation timed out"]


async def test_a_publishing_that_stalls_is_connected_anew(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Each task proves for itself that it gets on; one that hangs is not left hanging."""
    monkeypatch.setattr(mqtt, "PROOF_S", 0.5)
    monkeypatch.setattr(mqtt, "STALLED_S", 3.0)
    publish = Session.publish
    hangs = iter([True])

    async def stalls(self: Session, topic: str, payload: str, **more: Any) -> str | None:
        if topic.endswith("/values") and next(hangs, False):
            await asyncio.sleep(3600)
        return await publish(self, topic, payload, **more)

    monkeypatch.setattr(Session, "publish", stalls)
    async with house(mosquitto, tmp_path) as (_, messages):
        await next_of(messages, "heat/left/values", 60)
        await next_of(messages, "heat/right/values", 60)
    assert "the publishing stalled. Trying again" in caplog.text


@virtual
async def test_a_part_that_waited_for_something_cancelled_is_started_again() -> None:
    """Nobody asked the part itself to end: that must not be taken for a clean end of all."""
    starts = 0

    async def part() -> None:
        nonlocal starts
        starts += 1
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    supervisor = Supervisor()
    task = asyncio.create_task(supervisor.keep("a part", part))
    async with asyncio.timeout(60):
        while starts < 2:
            await asyncio.sleep(0.1)
    assert "a part failed: CancelledError" in supervisor.complaints
    await end_tasks([task])


async def test_a_part_that_cannot_even_say_that_it_failed_takes_no_other_down() -> None:
    told = asyncio.Event()

    async def part() -> None:
        raise ZeroDivisionError

    def fails(_cause: str) -> None:
        told.set()
        raise OverflowError

    task = asyncio.create_task(Supervisor().keep("a part", part, fails))
    await asyncio.wait_for(told.wait(), 60)
    await asyncio.sleep(0)
    assert not task.done()
    await end_tasks([task])


async def test_a_page_that_fails_is_told_by_the_health(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kamstrup_mqtt.web import server

    def fails(_house: object) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr(server, "make_app", fails)
    page = f"web: {{listen: 127.0.0.1:{free_port()}}}"
    async with house(mosquitto, tmp_path, page) as (config, messages):
        for which in ("left", "right"):
            await next_of(messages, f"heat/{which}/values", 60)
        found = await complaints(config, "the page")
    assert found == ["the page failed: ZeroDivisionError: nobody foresaw it"]
