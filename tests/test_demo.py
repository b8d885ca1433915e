"""The demo: what it prints is what any client of its broker receives."""

import asyncio
import contextlib
import json
import signal

import aiomqtt

from .conftest import free_port, kamstrup_mqtt
from .gateway import Background, next_of, stop, watching


async def test_the_demo_publishes_what_it_prints(background: Background) -> None:
    port = free_port()
    demo = background("demo", "--broker-port", str(port))
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with watching(port, "kamstrup/#") as messages:
                    first = json.loads(await next_of(messages, "kamstrup/values"))
                    second = json.loads(await next_of(messages, "kamstrup/values"))
                    break
            await asyncio.sleep(0.1)
    assert second["energy"] >= first["energy"]
    assert second["volume"] > first["volume"]
    demo.send_signal(signal.SIGTERM)
    out, err = await asyncio.to_thread(demo.communicate)
    assert demo.returncode == 0, err
    printed = [line.partition(" ") for line in out.splitlines()]
    topics = {"kamstrup/status", "kamstrup/state", "kamstrup/units", "kamstrup/values"}
    assert {topic for topic, _, _ in printed} == topics
    values = [json.loads(text) for topic, _, text in printed if topic == "kamstrup/values"]
    assert first in values
    assert second in values
    assert "Traceback" not in err


def test_the_demo_ends_by_itself_after_so_many_seconds() -> None:
    done = kamstrup_mqtt("demo", "--seconds", "1", "--broker-port", str(free_port()))
    assert done.returncode == 0, done.stderr


def test_the_demo_ends_on_a_signal_and_says_when_its_port_is_taken(
    background: Background,
) -> None:
    port = free_port()
    demo = background("demo", "--broker-port", str(port))
    assert demo.stdout is not None
    assert "online" in demo.stdout.readline()
    done = kamstrup_mqtt("demo", "--broker-port", str(port), "--seconds", "1")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    stop(demo, signal.SIGINT)
