"""The gateway as a user runs it: a process of its own, a real broker, a simulated meter."""

import asyncio
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from kamstrup_mqtt.gateway.run import until_signal
from kamstrup_mqtt.kmp import GetRegisterRequest
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, serve_tcp

from .conftest import free_port, kamstrup_mqtt
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
from .test_config import OLDER


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
    told = ["timestamp", "serial", "sequence", "history"]
    assert list(exact) == ["energy", "volume", "temp1", "temp2", *told]
    assert exact["serial"] == "71343479"
    assert exact["sequence"] == 1
    assert exact["energy"] == "227.445"
    assert exact["volume"] == "2131.935"
    assert re.fullmatch(r"\d\d\.\d\d", exact["temp1"])
    line = rf"Publishing 'kamstrup/values' '{re.escape(payload)}' to 127.0.0.1:{broker.port}"
    assert len(re.findall(line, log)) == 1
    assert "changeit" not in log


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
            assert list(values)[:-4] == ["energy", "volume", "temp1", "energy_test_high_res"]
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
        await log_until(gateway, "the meter's answer was unusable")
        state = json.loads(await next_of(messages, "kamstrup/state"))
        stop(gateway)
        topics = {messages.get_nowait()[0] for _ in range(messages.qsize())}
    assert state["state"] == "garbled"
    assert state["last_readout"] is None
    assert topics <= {"kamstrup/status", "kamstrup/state"}


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
- {{name: right, port: "{right}", parameters: serial_number, poll_interval: 1h, keep_awake: false}}
log: {{level: warning, file: logs/gateway.log}}
""")
        gateway = background("run", cwd=tmp_path)
        assert await next_of(messages, "heat/status") == "online"
        serials: dict[str, int] = {}
        while len(serials) < 2:
            topic, payload, _ = await messages.get()
            if topic.endswith("/values"):
                serials[topic] = json.loads(payload)["serial_number"]
        assert serials == {"heat/left/values": 1, "heat/right/values": 2}
        log = stop(gateway)
    assert "fall asleep after about 30 minutes" in log
    assert "INFO" not in log
    assert (tmp_path / "logs" / "gateway.log").read_text() == log


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


async def test_what_goes_wrong_where_nobody_waits_is_one_line_at_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(error: Exception) -> None:
        raise error

    async def work() -> None:
        for error in (OSError(9, "Bad file descriptor"), ZeroDivisionError("oops")):
            asyncio.get_running_loop().call_soon(fail, error)
        await asyncio.sleep(0.1)

    caplog.set_level("INFO")
    await until_signal(work())
    (record,) = caplog.records
    assert "oops" in record.message
    assert record.exc_info is None
