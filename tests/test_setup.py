"""`setup`: from a head that answers to a first readout at the broker."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kamstrup_mqtt.gateway.config import load_config
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, serve_pty, serve_tcp
from kamstrup_mqtt.tools.setup import install_service, service_unit, write_config

from .conftest import COMMAND, Server, free_port, kamstrup_mqtt
from .gateway import next_of, watching

Broker = Callable[..., Server]


async def setup(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = str(folder / "config.yaml")
    return await asyncio.to_thread(kamstrup_mqtt, "setup", "-c", config, *arguments)


async def test_without_questions(
    mosquitto: Broker, ser2net: Callable[..., Server], tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(mosquitto)
    async with serve_pty(SimulatedMeter(speed=0.0)) as device:
        server = await asyncio.to_thread(ser2net, device)
        url = f"socket://127.0.0.1:{server.port}"
        async with watching(broker.port, "kamstrup/#") as messages:
            done = await setup(
                tmp_path, "--port", url, "--host", "127.0.0.1", "--broker-port", str(broker.port),
                "--parameters", "energy, cooling_energy", "--interval", "1h",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            values = json.loads(await next_of(messages, "kamstrup/values"))
    assert values["energy"] == 227.445
    assert "cooling_energy" in values  # none of those that were shown first
    assert "mosquitto_sub -h 127.0.0.1" in done.stdout
    path = tmp_path / "config.yaml"
    assert path.stat().st_mode & 0o777 == 0o600
    config = load_config(path, {})
    assert config.warnings == ()
    assert (config.meters[0].port, config.meters[0].interval_s) == (url, 3600)


async def test_nothing_is_overwritten_and_nothing_is_asked_without_a_terminal(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mine")
    done = await setup(tmp_path, "--host", "127.0.0.1")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert path.read_text() == "mine"
    path.unlink()
    assert "--host" in (await setup(tmp_path)).stderr
    assert "no interval" in (await setup(tmp_path, "--host", "x", "--interval", "soon")).stderr
    assert (await setup(tmp_path, "--host", "x", "--parameters", "enrgy")).returncode == 2
    done = await setup(tmp_path, "--host", "x", "--port", "socket://127.0.0.1:1")
    assert done.returncode == 5
    assert not path.exists()


async def test_a_broker_that_is_not_there_or_no_meter_writes_nothing(tmp_path: Path) -> None:
    async with serve_tcp(SimulatedMeter()) as url:
        done = await setup(
            tmp_path, "--port", url, "--host", "127.0.0.1", "--broker-port", str(free_port())
        )
        assert done.returncode == 1
        assert "refused" in done.stderr
        done = await setup(tmp_path, "--port", url, "--host", "mqtt://here")
        assert done.returncode == 2
    async with serve_tcp(SimulatedMeter(faults={Fault.ECHO_ONLY: 1.0})) as url:
        done = await setup(tmp_path, "--port", url, "--host", "127.0.0.1")
        assert done.returncode == 3
    assert list(tmp_path.iterdir()) == []


async def test_the_questions(mosquitto: Broker, tmp_path: Path) -> None:
    """As somebody answers them who mistypes a name, and the broker's address."""
    broker = await asyncio.to_thread(mosquitto)
    path = tmp_path / "config.yaml"
    path.write_text("an older one")
    async with serve_tcp(SimulatedMeter(speed=0.0)) as url:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "setup", "-c", str(path), "--port", url, "--broker-port", str(broker.port),
            stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "dumb"},
        )  # fmt: skip
        os.close(theirs)
        screen = ""

        async def answer(question: str, text: str) -> None:
            nonlocal screen
            async with asyncio.timeout(60):
                while question not in screen:
                    screen += (await asyncio.to_thread(os.read, ours, 4096)).decode()
            screen = screen.partition(question)[2]
            os.write(ours, f"{text}\n".encode())

        await answer("Overwrite it?", "y")
        await answer("Parameters to publish", "enrgy")
        await answer("did you mean 'energy'", "energy, power")
        await answer("Time between readings", "")
        await answer("Address of the MQTT broker", "nowhere.invalid")
        await answer("User name", "")
        await answer("nowhere.invalid", "127.0.0.1")
        await answer("User name", "")
        await answer("Published on kamstrup/values: ", "")
        with suppress(OSError):
            while data := await asyncio.to_thread(os.read, ours, 4096):
                screen += data.decode()
        os.close(ours)
        assert await process.wait() == 0
    assert "Start the gateway: kamstrup-mqtt run" in screen
    config = load_config(path, {})
    assert config.meters[0].registers == (60, 80)
    assert config.mqtt.host == "127.0.0.1"


def test_an_invalid_configuration_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("the old one")
    with pytest.raises(Exception, match="mqtt"):
        write_config(path, {"mqtt": {}})
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_unit_names_this_program_and_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/pi/venv/bin/kamstrup-mqtt"])
    unit = service_unit(tmp_path / "config.yaml")
    assert f"ExecStart=/home/pi/venv/bin/kamstrup-mqtt run -c {tmp_path}/config.yaml" in unit
    assert "ProtectHome=read-only" in unit


def test_where_no_service_can_be_installed_it_says_so(tmp_path: Path) -> None:
    if Path("/run/systemd/system").is_dir() and os.geteuid() == 0:
        pytest.skip("systemd runs here")
    with pytest.raises(Exception, match=r"systemd does not run here|only root"):
        install_service(tmp_path / "config.yaml")
