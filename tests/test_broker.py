"""The gateway and its broker: absent, restarted, strict, encrypted."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp

from .conftest import free_port
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
            late: dict[str, tuple[str, bool]] = {}
            while "kamstrup/values" not in late or "kamstrup/status" not in late:
                topic, payload, kept = await messages.get()
                late[topic] = payload, kept
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
    assert "config.yaml holds a secret and everybody on this machine can read it: `chmod" in log
    if right:
        assert "Connected to broker" in log
        assert "as user1" in log
        assert "Publishing 'kamstrup/values'" in log
    else:
        assert log.count("refused us: Not authorized; check username and password") == 1
        assert "Publishing" not in log


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A CA, a server and a client that it vouches for, and another CA."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    # Such keys are made at once; those of RSA take half of the time of a test.
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name in ("ca", "other"):
        openssl(*new, "-x509", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.pem")  # fmt: skip
    for name, subject in (("server", "localhost"), ("client", "meterbox")):
        openssl(*new, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-in", f"{name}.csr", "-out", f"{name}.pem")  # fmt: skip
    (tmp_path / "server.key").chmod(0o644)
    return tmp_path


OWN_CA = "tls_ca_cert: ca.pem"
BY_NAME = ("127.0.0.1", "localhost")
CLIENT = "tls_cert: client.pem\n    tls_key: client.key"


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize(
    ("settings", "host", "demanding", "said"),
    [
        ([OWN_CA], "localhost", False, "Publishing"),
        ([OWN_CA], "127.0.0.1", False, "mismatch"),
        ([OWN_CA, "tls_insecure: True"], "127.0.0.1", False, "Publishing"),
        (["tls_ca_cert: other.pem"], "localhost", False, "certificate verify failed"),
        (["tls_insecure: True"], "localhost", False, "name the file of the broker's CA"),
        ([OWN_CA, CLIENT], "localhost", True, "Publishing"),
        ([OWN_CA], "localhost", True, "does not want a client certificate"),
    ],
)
async def test_tls(
    mosquitto: Broker, background: Background, certificates: Path,
    settings: list[str], host: str, demanding: bool, said: str, version: str,
) -> None:  # fmt: skip
    broker = mosquitto(
        "allow_anonymous true",
        f"cafile {certificates}/ca.pem",
        f"certfile {certificates}/server.pem",
        f"keyfile {certificates}/server.key",
        f"require_certificate {str(demanding).lower()}",
    )
    lines = ["username: user1", f"version: '{version}'", "tls_enabled: True", *settings]
    async with serve_tcp(SimulatedMeter()) as port:
        config = write_config(
            certificates, broker.port, port,
            ("username: user1", "\n    ".join(lines)), ("host: 127.0.0.1", f"host: {host}"),
        )  # fmt: skip
        gateway = background("run", "-c", str(config))
        log = await log_until(gateway, said)
        log += stop(gateway)
    assert ("tls_insecure: the broker's name is not checked" in log) is (
        "tls_insecure: True" in settings
    )
    assert log.count("Trying again") <= 1


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_websockets(
    mosquitto: Broker, background: Background, tmp_path: Path, version: str
) -> None:
    broker = mosquitto(
        "protocol websockets", "allow_anonymous true", f"listener {free_port()} 127.0.0.1"
    )
    lines = f"username: user1\n    transport: websockets\n    path: /ws\n    version: {version}"
    async with serve_tcp(SimulatedMeter()) as port:
        config = write_config(tmp_path, broker.port, port, ("username: user1", lines))
        gateway = background("run", "-c", str(config))
        await log_until(gateway, "Publishing")
        stop(gateway)


async def test_a_topic_that_the_broker_forbids_is_named_once(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write kamstrup/status\ntopic write kamstrup/state\n")
    broker = mosquitto("allow_anonymous true", f"acl_file {rules}")
    changes = (("username: user1", "username: user1\n    version: 5"), ("qos: 0", "qos: 1"), FAST)
    meter = SimulatedMeter()
    async with serve_tcp(meter) as port:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, *changes)))
        while len(meter.requests) < 5:
            await asyncio.sleep(0.1)
        log = stop(gateway)
    assert log.count("not pass on what we publish to kamstrup/values: Not authorized") == 1
    assert log.count("not pass on what we publish to homeassistant/device/") == 1
    assert "kamstrup/state:" not in log


async def test_a_live_value_that_has_grown_stale_is_not_delivered_late(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    changes = (("username: user1", "username: user1\n    version: 5"), ("qos: 0", "qos: 1"), FAST)

    def away(**more: Any) -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1", broker.port, identifier="away", clean_session=False, **more
        )

    async with serve_tcp(SimulatedMeter()) as port:
        async with away() as client:
            await client.subscribe("kamstrup/values", qos=1)
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, *changes)))
        await log_until(gateway, "Publishing", times=2)
        stop(gateway)
        await asyncio.sleep(5)  # an interval of 2 s: they live for 4
        async with away() as client:
            await asyncio.sleep(1)
            assert not len(client.messages)


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
