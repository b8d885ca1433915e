"""A wall clock that is set while the gateway runs, on the real gateway with a clock of its own."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest

from kamstrup_mqtt.simulator import Fault, SimulatedMeter, serve_tcp

from .conftest import Clock, kamstrup_mqtt
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

HOUR_S = 3600


async def test_moments_that_are_months_away_do_not_hang_the_gateway(
    mosquitto: Broker, background: Background, tmp_path: Path, clock: Clock
) -> None:
    broker = mosquitto()
    clock.set_to(datetime(2026, 11, 25, 10, tzinfo=UTC))
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        seldom = ("poll_interval: 28", 'poll_at: "0 * * 1-4,10 *"')
        config = write_config(tmp_path, broker.port, port, seldom)
        gateway = background("run", "-c", str(config), env=clock.env)
        await next_of(messages, "kamstrup/values", 60)
        async with asyncio.TaskGroup() as tasks:  # it answers, and to others as well
            tasks.create_task(asyncio.to_thread(kamstrup_mqtt, "health", "-c", str(config)))
            async with watching(broker.port, "kamstrup/state") as states:
                state = json.loads(await next_of(states, "kamstrup/state"))
        log = stop(gateway)
    assert state["poll_interval"] > 28 * 86400
    assert "24 readings a day" in log


@pytest.mark.parametrize("ahead_s", [-HOUR_S, 9**9])  # more of them in test_poller.py
async def test_readings_go_on_when_the_clock_is_set(
    mosquitto: Broker, background: Background, tmp_path: Path, clock: Clock, ahead_s: float
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, port, FAST)
        gateway = background("run", "-c", str(config), env=clock.env)
        for setting in (0, ahead_s, 0):
            clock.set(setting)
            for _ in range(3):
                await next_of(messages, "kamstrup/values", 60)
        stop(gateway)


async def test_a_clock_that_was_behind_at_the_start_moves_the_moments(
    mosquitto: Broker, background: Background, tmp_path: Path, clock: Clock
) -> None:
    """As on a Raspberry Pi, whose clock is set a while after the start."""
    broker = mosquitto()
    clock.set_to(datetime(2026, 11, 24, 3, tzinfo=UTC))
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        at_noon = ("poll_interval: 28", 'poll_at: "0 12 * * *"')
        config = write_config(tmp_path, broker.port, port, at_noon)
        gateway = background("run", "-c", str(config), env=clock.env | {"TZ": "UTC"})
        await next_of(messages, "kamstrup/values", 60)
        clock.set_to(datetime(2026, 11, 24, 11, 59, 15, tzinfo=UTC))
        values = json.loads(await next_of(messages, "kamstrup/values", 110))
        stop(gateway)
    assert values["timestamp"].startswith("2026-11-24T12:00:0")


async def test_a_clock_behind_at_the_start_does_not_use_up_the_budget(
    mosquitto: Broker, background: Background, tmp_path: Path, clock: Clock
) -> None:
    """A Raspberry Pi after a power cut, whose clock is set a while after the start."""
    broker = mosquitto()
    budget = ("poll_interval: 28", "poll_interval: 1s\n    max_readings_per_day: 3")
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, port, budget)
        gateway = background("run", "-c", str(config), env=clock.env)
        await next_of(messages, "kamstrup/values", 60)
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            for _ in range(2):
                await client.publish("kamstrup/read", "")
                await next_of(messages, "kamstrup/values", 60)
        stop(gateway)
        clock.set(-30 * 24 * HOUR_S)
        gateway = background("run", "-c", str(config), env=clock.env)
        await log_until(gateway, "the clock of this machine is behind")
        clock.set(2 * 24 * HOUR_S)  # two days without power
        await next_of(messages, "kamstrup/values", 60)
        stop(gateway)


async def test_a_new_interval_leaves_the_next_try_where_it_was(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter(faults={Fault.HANG_UP: 1.0})
    async with serve_tcp(meter) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        await log_until(gateway, "Next try in")
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.publish("kamstrup/poll_interval", "24h")
        await log_until(gateway, "reading every 24 h")
        meter.faults.clear()
        await next_of(messages, "kamstrup/values", 60)
        stop(gateway)
