"""The gateway and its broker: absent, restarted, strict, encrypted."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp

from .gateway import FAST, Background, Broker, next_of, stop, watching, write_config


async def test_readings_go_on_and_are_never_repeated_without_retain(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, FAST)))
        stamps = [
            json.loads(await next_of(messages, "kamstrup/values"))["timestamp"] for _ in range(4)
        ]
        stop(gateway, signal.SIGINT)
    assert len(set(stamps)) == 4
    assert all(int(stamp[17:19]) % 2 == 0 for stamp in stamps[1:])  # on the clock


async def test_retained_messages_wait_for_who_comes_later(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port:
        config = write_config(
            tmp_path, broker.port, port, ("retain: False", "retain: True"), ("qos: 0", "qos: 2")
        )
        gateway = background("run", "-c", str(config))
        async with watching(broker.port) as messages:
            await next_of(messages, "kamstrup/values")
        async with watching(broker.port) as messages:
            late = {topic: (payload, kept) for topic, payload, kept in
                    [await messages.get(), await messages.get()]}  # fmt: skip
        assert late["kamstrup/status"] == ("online", True)
        assert late["kamstrup/values"][1]
        # A broker that restarts without its memory is given the latest again.
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        async with watching(broker.port) as messages:
            assert await next_of(messages, "kamstrup/values") == late["kamstrup/values"][0]
        stop(gateway)


async def test_the_broker_may_be_absent_at_the_start_and_lost_later(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    broker.stop()
    meter = SimulatedMeter()
    async with serve_tcp(meter) as port:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, FAST)))
        while len(meter.requests) < 4:  # it reads although nobody listens
            await asyncio.sleep(0.1)
        for _ in range(2):
            await asyncio.to_thread(broker.start)
            async with watching(broker.port) as messages:
                assert "energy" in json.loads(await next_of(messages, "kamstrup/values"))
            await asyncio.to_thread(broker.stop)
            before = len(meter.requests)
            while len(meter.requests) < before + 2:
                await asyncio.sleep(0.1)
        log = stop(gateway)
    assert "Connection refused. Trying again; readings go on" in log
    assert "connection lost" in log
    assert log.count("Connected to broker") == 2


async def test_the_last_will_says_offline_when_the_gateway_is_killed(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port)))
        assert await next_of(messages, "kamstrup/status") == "online"
        gateway.kill()
        assert await next_of(messages, "kamstrup/status") == "offline"


@pytest.mark.parametrize("right", [True, False])
async def test_user_name_and_password(
    mosquitto: Broker, background: Background, tmp_path: Path, right: bool
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "user1", "changeit"], check=True
    )
    broker = mosquitto("allow_anonymous false", f"password_file {passwords}")
    meter = SimulatedMeter()
    async with serve_tcp(meter) as port:
        changes = [("authentication: False", "authentication: True"), FAST]
        if not right:
            changes.append(("changeit", "s3cret"))
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, *changes)))
        while len(meter.requests) < 5:
            await asyncio.sleep(0.1)
        log = stop(gateway)
    assert "changeit" not in log
    assert "s3cret" not in log
    if right:
        assert "Connected to broker" in log
        assert "as user1" in log
        assert "Publishing 'kamstrup/values'" in log
    else:
        assert log.count("refused us: Not authorized") == 1
        assert "Publishing" not in log


async def test_tls_with_its_own_ca(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    new = ["req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl(*new, "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-subj", "/CN=meterbox", "-keyout", "server.key", "-out", "server.csr")
    signing = ["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    openssl(*signing, "-in", "server.csr", "-out", "server.pem")
    (tmp_path / "server.key").chmod(0o644)
    broker = mosquitto(
        "allow_anonymous true",
        f"certfile {tmp_path}/server.pem",
        f"keyfile {tmp_path}/server.key",
    )
    enabled = "tls_enabled: True\n    tls_ca_cert: ca.pem"
    user = "username: user1"
    meter = SimulatedMeter()
    async with serve_tcp(meter) as port:
        for trusting, said in (
            (enabled, "certificate verify failed"),  # for its name is not 127.0.0.1
            (f"{enabled}\n    tls_insecure: True", "Publishing 'kamstrup/values'"),
            ("tls_enabled: True\n    tls_insecure: True", "certificate verify failed"),
        ):
            config = write_config(tmp_path, broker.port, port, (user, f"{user}\n    {trusting}"))
            gateway = background("run", "-c", str(config))
            assert gateway.stderr is not None
            lines: list[str] = []
            async with asyncio.timeout(20):
                while not lines or said not in lines[-1]:
                    lines.append(await asyncio.to_thread(gateway.stderr.readline))
            stop(gateway)


def test_an_unreachable_broker_does_not_hold_the_end(
    background: Background, tmp_path: Path
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        with contextlib.ExitStack() as queue:  # fills what the kernel would still accept
            for _ in range(4):
                waiting = queue.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            config = write_config(tmp_path, port, "/dev/ttyNOTTHERE")
            gateway = background("run", "-c", str(config))
            time.sleep(2)
            log = stop(gateway)
    assert "/dev/ttyNOTTHERE does not exist" in log
