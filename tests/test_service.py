"""What systemd and Docker are told: ready, alive, well or not."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from kamstrup_mqtt.gateway.service import feed_watchdog
from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp

from .conftest import kamstrup_mqtt
from .gateway import FAST, Background, Broker, log_until, next_of, stop, watching, write_config


async def test_health_says_whether_it_reads_and_publishes(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    async def health() -> tuple[int, str]:
        done = await asyncio.to_thread(kamstrup_mqtt, "health", "-c", str(config))
        return done.returncode, done.stdout + done.stderr

    broker = mosquitto()
    async with watching(broker.port) as messages:
        async with serve_tcp(SimulatedMeter()) as port:
            config = write_config(tmp_path, broker.port, port, FAST)
            status, said = await health()
            assert status == 1
            assert f"no gateway runs with {config}" in said
            gateway = background("run", "-c", str(config))
            await next_of(messages, "kamstrup/values")
            assert await health() == (0, "all is well\n")
        await log_until(gateway, "refused the connection")
        status, said = await health()
        assert status == 1
        assert said.startswith("meter: socket://")
    await asyncio.to_thread(broker.stop)
    async with asyncio.timeout(60):
        while "the broker is not connected" not in said:
            _, said = await health()
    stop(gateway)


async def test_a_second_gateway_with_the_same_configuration_is_refused(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port:
        config = write_config(tmp_path, broker.port, port)
        gateway = background("run", "-c", str(config))
        await log_until(gateway, "Publishing")
        for more in ({}, {"KAMSTRUP_HISTORY__PATH": str(tmp_path / "other.db")}):
            done = await asyncio.to_thread(kamstrup_mqtt, "run", "-c", str(config), env=more)
            assert done.returncode == 2
            assert "another kamstrup-mqtt" in done.stderr
        stop(gateway)


async def test_systemd_is_told_when_it_is_ready_alive_and_ending(
    mosquitto: Broker, background: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = mosquitto()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0kamstrup-test-{os.getpid()}")
        listening.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@kamstrup-test-{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "1500000")
        async with serve_tcp(SimulatedMeter()) as port:
            config = write_config(tmp_path, broker.port, port)
            gateway = background("run", "-c", str(config))
            told = [await asyncio.to_thread(listening.recv, 999) for _ in range(3)]
            stop(gateway)
        assert told == [b"READY=1", b"WATCHDOG=1\nSTATUS=Reading", b"WATCHDOG=1\nSTATUS=Reading"]
        while (last := listening.recv(999)).startswith(b"WATCHDOG"):
            pass
        assert last == b"STOPPING=1"


async def test_the_watchdog_of_a_stuck_gateway_is_not_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0kamstrup-stuck-{os.getpid()}")
        listening.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@kamstrup-stuck-{os.getpid()}")
        task = asyncio.create_task(feed_watchdog(lambda: ["the publishing is stuck"]))
        assert await asyncio.to_thread(listening.recv, 999) == b"READY=1"
        assert await asyncio.to_thread(listening.recv, 999) == b"STATUS=the publishing is stuck"
        task.cancel()
