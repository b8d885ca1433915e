"""The command line as users and scripts meet it: output, one-line errors, exit status."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kamstrup_mqtt import PortError, open_meter
from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS
from kamstrup_mqtt.kmp import GetRegisterAnswer, RegisterValue, encode
from kamstrup_mqtt.simulator import Fault, Line, SimulatedMeter, serve_pty, serve_tcp

from .conftest import COMMAND, as_nobody, free_port, kamstrup_mqtt
from .test_telegram import CAPTURES, captures

Background = Callable[..., subprocess.Popen[str]]


async def read(meter: SimulatedMeter, *arguments: str) -> subprocess.CompletedProcess[str]:
    async with serve_tcp(meter, line=Line(echo=True)) as url:
        return await asyncio.to_thread(kamstrup_mqtt, "read", url, *arguments)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["read", "--help"]])
def test_help_for_a_newcomer(arguments: list[str]) -> None:
    done = kamstrup_mqtt(*arguments)
    assert done.returncode == 0
    assert "Usage: kamstrup-mqtt" in done.stdout


def test_every_command_of_the_contract_is_there_and_has_help() -> None:
    overview = kamstrup_mqtt("--help").stdout
    for command in ("run", "read", "check", "decode", "simulate", "demo", "ports"):
        assert f"\n  {command} " in overview
        assert kamstrup_mqtt(command, "--help").returncode == 0
    assert kamstrup_mqtt("--version").stdout.startswith("kamstrup-mqtt, version 0.")


@pytest.mark.parametrize(
    "arguments",
    [["raed"], ["read"], ["read", "--nope", "x"], ["demo", "--seconds", "soon"],
     ["simulate", "--fault", "hunger=1"], ["simulate", "--fault", "silent=2"],
     ["simulate", "--listen", "here"], ["simulate", "--pty", "--fault", "hang-up=1"],
     ["read", "socket://127.0.0.1:1", "enregy"]],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str]) -> None:
    done = kamstrup_mqtt(*arguments)
    assert done.returncode == 2
    assert one_line(done).startswith("kamstrup-mqtt: ")


async def test_read_as_json() -> None:
    done = await read(SimulatedMeter(), "ENERGY", "0x44", "155", "266", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["meter"]["serial"] == "71343479"
    assert shown["values"]["energy"] == {"value": "227.445", "unit": "GJ", "register": 60}
    assert shown["values"]["volume"]["unit"] == "m³"
    assert shown["missing"] == ["energy_high_res"]
    assert shown["timestamp"][10] == "T"


async def test_read_as_a_table_and_the_31_usual_ones_by_default() -> None:
    done = await read(SimulatedMeter())
    assert done.returncode == 0
    for name in CLASSIC_PARAMETERS:
        assert f" {name} " in done.stdout
    assert "71343479" in done.stdout


async def test_read_all() -> None:
    done = await read(SimulatedMeter("603"), "--all", "--json")
    shown = json.loads(done.stdout)
    assert len(shown["values"]) == len(SimulatedMeter("603").registers)
    assert shown["values"]["mbus_primary_address"]["value"] == "0"


async def test_read_of_registers_the_meter_lacks_fails() -> None:
    done = await read(SimulatedMeter("402"), "energy_high_res", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["missing"] == ["energy_high_res"]
    assert "none of these registers" in one_line(done)


async def test_no_answer_is_status_3_with_the_likely_causes() -> None:
    done = await read(SimulatedMeter(faults={Fault.SILENT: 1.0}))
    assert done.returncode == 3
    for cause in ("position", "asleep", "press a button", "wrong port"):
        assert cause in one_line(done)


async def test_unusable_answers_are_status_4_and_say_what_was_wrong() -> None:
    done = await read(SimulatedMeter(faults={Fault.WRONG_REGISTER: 1.0}), "energy")
    assert done.returncode == 4
    assert "not the question" in one_line(done)


async def test_a_partly_readable_meter_shows_what_was_read() -> None:
    async with serve_pty(SimulatedMeter(faults={Fault.WRONG_REGISTER: 1.0}), Line()) as path:
        done = await asyncio.to_thread(kamstrup_mqtt, "read", path, "energy", "--json")
    assert done.returncode == 4


def test_a_port_that_cannot_be_opened_is_status_5() -> None:
    done = kamstrup_mqtt("read", "/dev/ttyNOTTHERE")
    assert done.returncode == 5
    assert "kamstrup-mqtt ports" in one_line(done)


async def test_no_permission_names_the_group() -> None:
    import concurrent.futures.thread  # noqa: F401 - nobody may not read root's Python

    import serialx  # noqa: F401

    ours, theirs = os.openpty()
    path = os.ttyname(theirs)
    Path(path).chmod(0o660)
    os.chown(path, 0, 20)  # dialout on Debian
    with as_nobody(), pytest.raises(PortError, match="sudo usermod -aG dialout nobody"):
        async with open_meter(path):
            pass
    os.close(ours)
    os.close(theirs)


def test_a_traceback_only_with_debug() -> None:
    done = subprocess.run(
        [*COMMAND, "read", "/dev/ttyNOTTHERE", "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("capture", captures("response_hex", "expect"))
def test_decode_explains_captures(capture: dict[str, Any]) -> None:
    done = kamstrup_mqtt("decode", capture["response_hex"], "--json")
    assert done.returncode == 0
    explained = json.loads(done.stdout)
    assert (explained["direction"], explained["address"]) == ("answer", 63)
    registers = {register["register"]: register for register in explained["registers"]}
    for expected in capture["expect"]:
        assert registers[expected["register"]]["value"] == expected["value"]
        assert expected["unit"] in {None, registers[expected["register"]]["unit"]}


def test_decode_reads_lines_and_answers_each_with_one() -> None:
    lines = [capture["response_hex"] for capture in CAPTURES if capture.get("response_hex")]
    done = kamstrup_mqtt("decode", "--json", stdin="\n".join(lines) + "\n\n")
    assert len(done.stdout.splitlines()) == len(lines)
    assert all(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("telegram", "expected"),
    [
        ("803f1002003c0044 ", None),
        ("80 3F 01 05 8A 0D", {"direction": "request", "address": 63, "command": "GetType"}),
        (
            "403f0100041bf90126990d",
            {"direction": "answer", "address": 63, "command": "GetType", "type": "0004",
             "revision": "F1"},
        ),
        (
            "403f0201234567e9560d",
            {"direction": "answer", "address": 63, "command": "GetSerialNo",
             "serial": "19088743"},
        ),
        (
            "803f1003004a0044007bd0370d",
            {"direction": "request", "address": 63, "command": "GetRegister",
             "registers": [74, 68, 123]},
        ),
    ],
)  # fmt: skip
def test_decode_as_json(telegram: str, expected: dict[str, object] | None) -> None:
    done = kamstrup_mqtt("decode", telegram, "--json")
    if expected is None:
        assert json.loads(done.stdout)["error"] == "truncated"
    else:
        assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(
    ("telegram", "kind"),
    [
        ("403f10003c0304430000d6de03230d", "crc"),
        ("403f10003c03", "truncated"),
        ("803f1001003cb25f0d 403f10003c0304430000d6de03230d", "crc"),  # behind its echo
        ("403f101b0d", "stuffing"),
        ("3f10003c", "framing"),
        ("403f10003c08b31bbf0d", "length"),
        ("803f090001144a00027715774e0d", "command"),
        ("hello", "hex"),
        ("é", "hex"),
        ("4", "hex"),
    ],
)
def test_decode_names_each_damage(telegram: str, kind: str) -> None:
    for done in (
        kamstrup_mqtt("decode", telegram, "--json"),
        kamstrup_mqtt("decode", "--json", stdin=telegram + "\n"),
    ):
        assert done.returncode == 1
        shown = json.loads(done.stdout)
        assert shown["error"] == kind
        assert shown["detail"]


def test_decode_for_people_and_in_other_spellings() -> None:
    for spelling in (
        ["403f10003c0304430000d6de03220d"],
        ["40:3F:10:00:3C:03:04:43:00:00:D6:DE:03:22:0D"],
        ["0x40,0x3f,0x10,0x00,0x3c,0x03,0x04,0x43,0x00,0x00,0xd6,0xde,0x03,0x22,0x0d"],
        ["40", "3f", "10", "00", "3c", "03", "04", "43", "00", "00", "d6", "de", "03", "22", "0d"],
    ):
        done = kamstrup_mqtt("decode", *spelling)
        assert done.stdout == "GetRegister answer, address 63\n  energy (60) = 55.006 MWh\n"


def test_an_unknown_register_no_date_yet_and_no_date_at_all_in_json() -> None:
    values = (
        RegisterValue(0x123, 51, 0, b"\x07"),
        RegisterValue(123, 48, 0, bytes(4)),
        RegisterValue(125, 48, 0, (261275).to_bytes(4)),
    )
    telegram = encode(GetRegisterAnswer(values)).hex()
    assert json.loads(kamstrup_mqtt("decode", telegram, "--json").stdout)["registers"] == [
        {"register": 0x123, "name": "0x0123", "unit": "", "value": "7"},
        {"register": 123, "name": "maxflowdate_y", "unit": "date", "value": None},
        {"register": 125, "name": "minflowdate_y", "unit": "date", "value": "261275",
         "valid": False},
    ]  # fmt: skip
    shown = kamstrup_mqtt("decode", telegram).stdout
    assert "maxflowdate_y (123) = none yet date" in shown
    assert "minflowdate_y (125) = 261275 date (not valid)" in shown


def test_decode_passes_over_echo_and_noise() -> None:
    stream = "00 80 3f 10 01 00 3c b2 5f 0d 00 40 3f 10 00 3c 03 04 43 00 00 d6 de 03 22 0d ff"
    (line,) = kamstrup_mqtt("decode", "--json", stdin=stream).stdout.splitlines()
    assert json.loads(line)["registers"][0]["value"] == "55.006"


def test_ports_lists_or_says_that_there_are_none() -> None:
    done = kamstrup_mqtt("ports")
    assert done.returncode == 0
    assert done.stdout or "no serial ports" in done.stderr


@pytest.mark.parametrize("option", ["--listen", "--pty"])
def test_simulate_prints_first_where_it_listens(background: Background, option: str) -> None:
    arguments = ["--listen", f"127.0.0.1:{free_port()}"] if option == "--listen" else ["--pty"]
    arguments += ["--model", "403", "--serial", "42", "--echo", "--fault", "garbage-before=0.5"]
    process = background("simulate", *arguments)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url == f"socket://{arguments[1]}" or url.startswith("/dev/pts/")
    shown = json.loads(kamstrup_mqtt("read", url, "energy", "--json").stdout)
    assert shown["meter"]["serial"] == "42"
    assert shown["values"]["energy"]["unit"] == "MWh"
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_simulate_where_somebody_listens_already(background: Background) -> None:
    port = free_port()
    first = background("simulate", "--listen", f"127.0.0.1:{port}")
    assert first.stdout is not None
    first.stdout.readline()
    done = kamstrup_mqtt("simulate", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert "cannot listen" in one_line(done)


def test_the_shell_completes_commands_parameters_and_options() -> None:
    def complete(words: str, position: int) -> str:
        environment = {
            "_KAMSTRUP_MQTT_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        }
        return kamstrup_mqtt(env=environment).stdout

    assert "plain,simulate" in complete("kamstrup-mqtt si", 1)
    assert "plain,energy_high_res" in complete("kamstrup-mqtt read /dev/x ene", 3)
    assert "plain,--broker-port" in complete("kamstrup-mqtt demo --", 2)


def test_output_may_be_cut_off() -> None:
    done = subprocess.run(
        f"yes 803f01058a0d | head -5000 | {' '.join(COMMAND)} decode | head -1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "GetType request, address 63\n"
    assert "Traceback" not in done.stderr
