"""`doctor` against real situations: each gets its right finding."""

import asyncio
import json
import os
import pty
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kamstrup_mqtt.kmp import Frame
from kamstrup_mqtt.meter import Port
from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.simulator import (
    DEFAULT_SERIAL,
    Fault,
    Line,
    Reaction,
    SimulatedMeter,
    serve_pty,
    serve_tcp,
)
from kamstrup_mqtt.store import History
from kamstrup_mqtt.tools.doctor import Check, Finding, examine, line
from kamstrup_mqtt.tools.doctor.line import examine_line
from kamstrup_mqtt.tools.doctor.machine import examine_service

from .conftest import Server, as_nobody, free_port, kamstrup_mqtt, server_program
from .gateway import watching
from .virtual import VirtualLink, virtual

Broker = Callable[..., Server]
Found = dict[str, Any]


async def doctor(*arguments: str) -> dict[str, Found]:
    """The checks by name; the exit status must fit them."""
    done = await asyncio.to_thread(kamstrup_mqtt, "doctor", "--json", *arguments)
    answer = json.loads(done.stdout)
    checks: list[Found] = answer["checks"]
    well = all(check["ok"] for check in checks)
    assert done.returncode == (0 if well else 1)
    assert (answer["verdict"] == "all is well") is well
    for check in checks:
        assert check["finding"] in list(Finding)
        assert check["advice"]
        assert "\n" not in check["advice"]
    return {check["check"]: check for check in checks}


def failed(checks: dict[str, Found]) -> dict[str, str]:
    return {name: check["finding"] for name, check in checks.items() if not check["ok"]}


async def examined(link: VirtualLink) -> dict[str, Check]:
    """What is found on a line, by the names of the checks."""
    checks: list[Check] = []
    await examine_line(link, (), lambda *found: checks.append(Check(*found)))
    assert all(check.advice and "\n" not in check.advice for check in checks)
    assert not link.is_open
    return {check.check: check for check in checks}


class NoMeter:
    """Something at a port that is no meter of ours, and says something else each time."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def react(self, _frame: Frame, _now: float) -> Reaction:
        return Reaction(self._chance.randbytes(60))


@pytest.mark.parametrize(
    ("faults", "check", "finding"),
    [
        ({Fault.SILENT: 1.0}, "answer", "nothing_heard"),
        ({Fault.ECHO_ONLY: 1.0}, "answer", "echo_only"),
        ({Fault.BAD_CRC: 1.0}, "answer", "bad_crc"),
        ({Fault.OTHER_PROGRAM: 1.0}, "answer", "other_program"),
        ({Fault.BAD_CRC: 0.4}, "crc", "bad_crc"),
        ({Fault.FLOOD: 1.0}, "answer", "noise"),
    ],
)
@virtual
async def test_what_the_line_brings(faults: dict[Fault, float], check: str, finding: str) -> None:
    checks = await examined(VirtualLink(SimulatedMeter(faults=faults, seed=1)))
    assert checks[check].finding == finding
    assert checks["host"].ok


@virtual
async def test_random_bytes_are_noise() -> None:
    checks = await examined(VirtualLink(NoMeter(seed=1)))
    assert {check: found.finding for check, found in checks.items() if not found.ok} == {
        "answer": Finding.NOISE
    }


async def test_a_healthy_meter_is_well_on_a_pty_and_over_the_network() -> None:
    head = Line(pace=True, echo=True, turnaround_s=0.07)
    async with serve_pty(SimulatedMeter("603"), head) as path:
        checks = await doctor(path)
    assert failed(checks) == {}
    assert "comes back" in checks["echo"]["advice"]
    assert str(DEFAULT_SERIAL) in checks["meter"]["advice"]
    assert list(checks)[:5] == ["port", "permission", "free", "open", "echo"]
    async with serve_tcp(SimulatedMeter("402")) as url:
        assert failed(await doctor(url)) == {}


async def test_the_meter_behind_ser2net(ser2net: Callable[..., Server]) -> None:
    async with serve_pty(SimulatedMeter()) as device:
        server = await asyncio.to_thread(ser2net, device)
        url = f"socket://127.0.0.1:{server.port}"
        assert failed(await doctor(url)) == {}
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert failed(await doctor(url)) == {"free": "port_busy"}
        writer.close()


async def test_ports_that_cannot_be_used() -> None:
    checks = await doctor("/dev/ttyNOTTHERE")
    assert failed(checks) == {"port": "port_missing"}
    assert failed(await doctor("socket://127.0.0.1:1")) == {"host": "unreachable"}
    assert failed(await doctor("/dev/null")) == {"open": "port_unusable"}
    ours, theirs = pty.openpty()
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(); time.sleep(60)"
    )
    name = os.ttyname(theirs)
    other = subprocess.Popen([sys.executable, "-c", hold, name], stdout=subprocess.PIPE)
    assert other.stdout is not None
    await asyncio.to_thread(other.stdout.readline)
    checks = await doctor(name)
    assert failed(checks) == {"free": "port_busy"}
    assert f"(process {other.pid})" in checks["free"]["advice"]
    other.kill()
    await asyncio.to_thread(other.communicate)
    os.close(ours)
    os.close(theirs)


async def test_a_name_that_never_changes_is_suggested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve_pty(SimulatedMeter()) as device:
        stable = "/dev/serial/by-id/usb-head"
        monkeypatch.setattr(line, "list_ports", lambda: [Port(stable, device, "a head")])
        checks = {c.check: c for c in await examine(None, device, lambda _check: None)}
    assert checks["port"].ok
    assert stable in checks["port"].advice


async def test_no_permission_names_the_group() -> None:
    async with serve_pty(SimulatedMeter()) as device:
        await examine(None, device, lambda _check: None)  # nobody may not read root's Python later
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    Path(name).chmod(0o660)
    os.chown(name, 0, 20)  # dialout on Debian
    with as_nobody():
        checks = {c.check: c for c in await examine(None, name, lambda _check: None)}
    os.close(ours)
    os.close(theirs)
    assert checks["permission"].finding is Finding.NO_PERMISSION
    assert "usermod -aG dialout" in checks["permission"].advice


@virtual
async def test_a_meter_that_wakes_up_was_asleep() -> None:
    meter = SimulatedMeter(faults={Fault.ASLEEP: 1.0})
    examination = asyncio.create_task(examined(VirtualLink(meter)))
    while len(meter.requests) < 3:
        await asyncio.sleep(0.05)
    meter.wake()
    checks = await examination
    assert checks["answer"].finding is Finding.ASLEEP
    assert checks["meter"].ok


async def test_clock_and_info_code() -> None:
    meter = SimulatedMeter("402")
    meter.house.now += timedelta(hours=5)
    meter.info_code = 8
    async with serve_tcp(meter) as url:
        checks = await doctor(url)
    assert failed(checks) == {"clock": "clock_off", "info_code": "meter_fault"}
    assert "info code 8" in checks["info_code"]["advice"]


def write(path: Path, port: str, broker: int, **mqtt: str) -> Path:
    more = "".join(f", {key}: {value}" for key, value in mqtt.items())
    config = path / "config.yaml"
    config.write_text(
        f"mqtt: {{host: 127.0.0.1, port: {broker}{more}}}\n"
        f"serial_device: {{com_port: '{port}'}}\n"
        "kamstrup: {parameters: [energy, volume], poll_interval: 28}\n"
        "log: {file: gateway.log}\n"
    )
    config.chmod(0o600)
    return config


async def test_all_is_well_from_the_meter_to_the_broker(mosquitto: Broker, tmp_path: Path) -> None:
    broker = await asyncio.to_thread(mosquitto)
    async with serve_tcp(SimulatedMeter()) as url:
        config = write(tmp_path, url, broker.port)
        checks = await doctor("-c", str(config))
        assert failed(checks) == {}
        assert list(checks) == [
            "config", "host", "echo", "answer", "crc", "latency", "meter", "parameters", "clock",
            "info_code", "broker", "login", "topic", "homeassistant", "data", "service",
        ]  # fmt: skip
        assert "nobody listens" in checks["homeassistant"]["advice"]
        async with watching(broker.port, "homeassistant/#"):
            checks = await doctor("-c", str(config))
        assert "somebody listens" in checks["homeassistant"]["advice"]


@pytest.fixture
def guarded(mosquitto: Broker, tmp_path: Path) -> Server:
    """A broker that lets otto with the password geheim123 use kamstrup/# and nothing else."""
    passwords, rules = tmp_path / "passwords", tmp_path / "rules"
    program = server_program("mosquitto_passwd")
    subprocess.run([program, "-b", "-c", passwords, "otto", "geheim123"], check=True)
    rules.write_text("user otto\ntopic readwrite kamstrup/#\n")
    for file in (passwords, rules):
        file.chmod(0o600)
    return mosquitto(f"password_file {passwords}", f"acl_file {rules}")


@pytest.mark.parametrize("version", ["3.1.1", "'5'"])
async def test_what_the_broker_refuses(guarded: Server, tmp_path: Path, version: str) -> None:
    async with serve_tcp(SimulatedMeter()) as url:
        login = {"username": "otto", "password": "geheim123", "version": version}
        config = write(tmp_path, url, guarded.port, **login)
        assert failed(await doctor("-c", str(config))) == {"homeassistant": "topic_refused"}
        config = write(tmp_path, url, guarded.port, **(login | {"password": "falsch"}))
        assert failed(await doctor("-c", str(config))) == {"login": "login_refused"}
        config = write(tmp_path, url, guarded.port, **login, topic="attic")
        config.write_text(config.read_text() + "homeassistant: {discovery: false}\n")
        assert failed(await doctor("-c", str(config))) == {"topic": "topic_refused"}


async def test_no_broker_a_wrong_configuration_and_parameters_that_are_not_there(
    tmp_path: Path,
) -> None:
    async with serve_tcp(SimulatedMeter("402")) as url:
        config = write(tmp_path, url, free_port())
        config.write_text(config.read_text().replace("volume]", "volume, 0x7777]"))
        checks = await doctor("-c", str(config))
        assert failed(checks) == {
            "parameters": "parameter_unknown", "broker": "broker_unreachable",
        }  # fmt: skip
        assert "0x7777" in checks["parameters"]["advice"]
    config.write_text("mqtt: {hots: here}\n")
    assert failed(await doctor("-c", str(config))) == {"config": "config_invalid"}


async def test_a_meter_that_answered_before_is_asleep(tmp_path: Path) -> None:
    config = write(tmp_path, "socket://127.0.0.1:1", 1)
    history = History(tmp_path / "config.history.db", 1e9)
    await history.open()
    meter = SimulatedMeter(faults={Fault.ECHO_ONLY: 1.0})
    before = datetime.now(UTC) - timedelta(hours=2)
    await history.append("meter", Readout(MeterIdentity("1"), before, {}, {}))
    await history.close()
    async with serve_tcp(meter) as url:
        checks = await examine(config, url, lambda _check: None)
    (answer,) = [check for check in checks if check.check == "answer"]
    assert answer.finding is Finding.ASLEEP
    assert "press a key" in answer.advice


async def test_several_meters_are_named(tmp_path: Path) -> None:
    async with serve_tcp(SimulatedMeter()) as url:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"mqtt: {{host: 127.0.0.1, port: {free_port()}}}\n"
            "meters:\n"
            f"- {{name: left, port: '{url}', parameters: energy, poll_interval: 28}}\n"
            "- {name: right, port: 'socket://127.0.0.1:1', parameters: all, poll_interval: 28}\n"
        )
        checks = await examine(config, None, lambda _check: None)
    bad = {(check.meter, check.finding) for check in checks if not check.ok}
    assert ("right", Finding.UNREACHABLE) in bad
    assert not any(meter == "left" for meter, _ in bad)


def test_a_service_that_cannot_work(tmp_path: Path) -> None:
    unit = tmp_path / "kamstrup-mqtt.service"
    found: list[tuple[Finding, str]] = []

    def examined(text: str) -> Finding:
        unit.write_text(f"[Service]\n{text}\n")
        examine_service(
            tmp_path / "config.yaml", lambda _check, what, why: found.append((what, why)), [unit]
        )
        return found[-1][0]

    (tmp_path / "config.yaml").touch()
    run = f"ExecStart={sys.executable} run -c"
    assert examined("ExecStart=/nowhere/kamstrup-mqtt run") is Finding.SERVICE_FAULTY
    assert examined(f"{run} {tmp_path}/other.yaml") is Finding.SERVICE_FAULTY
    assert examined(f"{run} {tmp_path}/config.yaml\nUser=nobodyhere") is Finding.SERVICE_FAULTY
    assert "useradd" in found[-1][1]
    assert examined(f"{run} {tmp_path}/config.yaml\nUser=root") is Finding.OK


async def test_the_bundle_holds_no_secret(mosquitto: Broker, tmp_path: Path) -> None:
    broker = await asyncio.to_thread(mosquitto)
    archive = tmp_path / "report.zip"
    async with serve_tcp(SimulatedMeter()) as url:
        config = write(
            tmp_path, url, broker.port, username="otto", password="geheim123", paswort="schlecht"
        )
        with config.open("a") as file:
            file.write("web: {prices: [{since: 2026-01-01, price: 38.50, per: GJ}]}\n")
        (tmp_path / "gateway.log").write_text(
            f"meter: serial number {DEFAULT_SERIAL} answers\n"
            "x < 40 3f 02 04 40 9c f7 0d\n"
            f'Publishing {{"serial_number": {DEFAULT_SERIAL}, "energy": 227.445}}\n'
            "a telegram with geheim123 in it\n"
        )
        done = await asyncio.to_thread(
            kamstrup_mqtt, "doctor", "-c", str(config), url, "--bundle", str(archive)
        )
    assert done.returncode == 1  # an unknown key
    with zipfile.ZipFile(archive) as bundle:
        files = {name.partition("/")[2]: bundle.read(name).decode() for name in bundle.namelist()}
    everything = "".join(files.values())
    raw = DEFAULT_SERIAL.to_bytes(4, "big")
    for secret in ("geheim123", "schlecht", "otto", str(DEFAULT_SERIAL), raw.hex(), raw.hex(" ")):
        assert secret not in everything
    assert "227.445" in files["log.txt"]
    assert "per: GJ" in files["config.yaml"]  # no secret, and not to be looked for as one
    assert "kamstrup-mqtt 0" in files["versions.txt"]
    assert " > 803f02" in files["capture-1.txt"]
    assert json.loads(files["doctor.json"])["checks"]
    assert f"port: '{broker.port}'" in files["config.yaml"]


async def test_a_bundle_without_a_name_and_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with serve_tcp(SimulatedMeter()) as url:
        done = await asyncio.to_thread(kamstrup_mqtt, "doctor", "--bundle", url)
    assert done.returncode == 0
    assert "✓ answer: the meter answers" in done.stdout
    assert "Verdict: all is well" in done.stdout
    assert len(list(tmp_path.glob("kamstrup-mqtt-report-*.zip"))) == 1
    refused = kamstrup_mqtt("doctor", "--bundle", "report.rar", "socket://127.0.0.1:1")
    assert refused.returncode == 2
    assert ".zip" in refused.stderr
