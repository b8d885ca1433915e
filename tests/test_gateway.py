"""The gateway as a user runs it: a process of its own, a real broker, a simulated meter."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path

import aiomqtt
import pytest

from kamstrup_mqtt.kmp import GetRegisterRequest
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, serve_tcp

from .conftest import Server, free_port, kamstrup_mqtt
from .test_config import OLDER

Background = Callable[..., subprocess.Popen[str]]
Broker = Callable[..., Server]
Message = tuple[str, str, bool]  # topic, payload, retained


@contextlib.asynccontextmanager
async def watching(port: int, topic: str = "#") -> AsyncIterator[asyncio.Queue[Message]]:
    """What a client of the broker receives, as it comes."""
    queue: asyncio.Queue[Message] = asyncio.Queue()

    async def watch(client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):  # the broker may end before us
            async for message in client.messages:
                queue.put_nowait((str(message.topic), message.payload.decode(), message.retain))

    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe(topic)
        task = asyncio.create_task(watch(client))
        yield queue
        task.cancel()


async def next_of(queue: asyncio.Queue[Message], topic: str, seconds: float = 30) -> str:
    async with asyncio.timeout(seconds):
        while True:
            found, payload, _ = await queue.get()
            if found == topic:
                return payload


def write_config(path: Path, broker: int, port: str, *changes: tuple[str, str]) -> Path:
    """The older project's file with other addresses, and a faster interval for the test."""
    text = OLDER.read_text().replace("10.0.0.210", "127.0.0.1").replace("1883", str(broker))
    text = text.replace("/dev/ttyKamstrup", port)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    config = path / "config.yaml"
    config.write_text(text)
    return config


FAST = ("poll_interval: 28", "poll_interval: 2s")


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """End the gateway cleanly, and return its log."""
    process.send_signal(number)
    _, log = process.communicate(timeout=10)  # how long it takes is measured in benchmarks/
    assert process.returncode == 0, log
    assert "Traceback" not in log
    return log


async def test_the_older_configuration_gives_what_the_older_project_gave(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter("402")
    async with serve_tcp(meter) as port, watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, port)
        gateway = background("run", "-c", str(config))
        payload = await next_of(messages, "kamstrup/values")
        assert len(meter.requests) <= 3
        log = stop(gateway)
        assert await next_of(messages, "kamstrup/status") == "offline"
    exact = json.loads(payload, parse_float=str)
    assert list(exact) == ["energy", "volume", "temp1", "temp2", "timestamp"]
    assert exact["energy"] == "227.445"
    assert exact["volume"] == "2131.935"
    assert re.fullmatch(r"\d\d\.\d\d", exact["temp1"])
    line = rf"Publishing 'kamstrup/values' '{re.escape(payload)}' to 127.0.0.1:{broker.port}"
    assert len(re.findall(line, log)) == 1
    assert "changeit" not in log


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


async def test_an_absent_meter_is_waited_for(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    port = free_port()
    async with watching(broker.port) as messages:
        config = write_config(tmp_path, broker.port, f"socket://127.0.0.1:{port}")
        gateway = background("run", "-c", str(config))
        assert await next_of(messages, "kamstrup/status") == "online"
        await asyncio.sleep(1)
        async with serve_tcp(SimulatedMeter(), port=port):
            assert "energy" in json.loads(await next_of(messages, "kamstrup/values"))
        log = stop(gateway)
    assert "refused the connection: check that ser2net runs there" in log
    assert "Next try in" in log


async def test_registers_the_meter_lacks_are_named_and_the_rest_is_published(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter("402")
    async with serve_tcp(meter) as port, watching(broker.port) as messages:
        change = ("- temp2", "- 0x10A\n    - 155")
        config = write_config(tmp_path, broker.port, port, change, FAST)
        gateway = background("run", "-c", str(config))
        for _ in range(2):
            values = json.loads(await next_of(messages, "kamstrup/values"), parse_float=Decimal)
            assert list(values)[:-1] == ["energy", "volume", "temp1", "energy_test_high_res"]
        log = stop(gateway)
    assert log.count("not read: energy_high_res (not in this meter)") == 1
    last = meter.requests[-1]
    assert isinstance(last, GetRegisterRequest)
    assert 0x10A not in last.registers


async def test_an_unusable_meter_publishes_nothing(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter(faults={Fault.WRONG_REGISTER: 1.0})
    async with serve_tcp(meter) as port, watching(broker.port) as messages:
        gateway = background("run", "-c", str(write_config(tmp_path, broker.port, port, FAST)))
        assert gateway.stderr is not None
        line = ""
        async with asyncio.timeout(30):
            while "the meter's answer was unusable" not in line:
                line = await asyncio.to_thread(gateway.stderr.readline)
        stop(gateway)
        assert {messages.get_nowait()[0] for _ in range(messages.qsize())} == {"kamstrup/status"}


async def test_several_meters_and_a_log_file(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with (
        serve_tcp(SimulatedMeter("403", serial=1)) as left,
        serve_tcp(SimulatedMeter("603", serial=2)) as right,
        watching(broker.port) as messages,
    ):
        (tmp_path / "config.yaml").write_text(f"""
mqtt: {{host: 127.0.0.1, port: {broker.port}, topic: heat}}
meters:
- {{name: left, port: "{left}", parameters: serial_number, poll_interval: 1h}}
- {{name: right, port: "{right}", parameters: serial_number, poll_interval: 1h}}
log: {{level: warning, file: logs/gateway.log}}
""")
        gateway = background("run", cwd=tmp_path)
        assert await next_of(messages, "heat/status") == "online"
        serials: dict[str, int] = {}
        while len(serials) < 2:
            topic, payload, _ = await messages.get()
            serials[topic] = json.loads(payload)["serial_number"]
        assert serials == {"heat/left/values": 1, "heat/right/values": 2}
        log = stop(gateway)
    assert "fall asleep after about 30 minutes" in log
    assert "INFO" not in log
    assert (tmp_path / "logs" / "gateway.log").read_text() == log


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


@pytest.mark.parametrize("command", ["run", "check"])
def test_bad_configurations_end_at_once_with_status_2(tmp_path: Path, command: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("mqtt:\n  hots: x\n")
    done = kamstrup_mqtt(command, "-c", str(config))
    assert done.returncode == 2
    assert f"{config}:2: mqtt.hots: unknown key 'hots', did you mean 'host'?" in done.stderr
    done = kamstrup_mqtt(command, "-c", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "no such file" in done.stderr


def test_check_says_what_would_be_done() -> None:
    done = kamstrup_mqtt("check", "-c", str(OLDER))
    assert done.returncode == 0
    assert "is fine: broker 10.0.0.210:1883, topic kamstrup" in done.stdout
    assert "4 registers from /dev/ttyKamstrup every 28 min to kamstrup/values" in done.stdout


def test_a_log_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, 1, "/dev/x", ("kamstrup:\n", "log: {file: config.yaml/x}\nkamstrup:\n")
    )
    done = kamstrup_mqtt("run", "-c", str(config))
    assert done.returncode == 2
    assert "log.file" in done.stderr
