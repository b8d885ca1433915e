"""Captures: what was said on a line, safe to post, and good for being said again."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import MeterSession, UsageError, open_meter
from kamstrup_mqtt.catalog import PRIVATE_REGISTERS
from kamstrup_mqtt.kmp import (
    Direction,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    RegisterValue,
    decode,
    encode,
)
from kamstrup_mqtt.readout.capture import Recorder, mask, read_capture
from kamstrup_mqtt.simulator import (
    DEFAULT_SERIAL,
    Fault,
    Line,
    ReplayedMeter,
    SimulatedMeter,
    serve_tcp,
)
from kamstrup_mqtt.simulator.house import House

from .conftest import Server, kamstrup_mqtt
from .gateway import FAST, log_until, stop, write_config
from .virtual import VirtualLink, virtual

Background = Callable[..., subprocess.Popen[str]]
Broker = Callable[..., Server]


@pytest.mark.parametrize("echo", [False, True])
@virtual
async def test_a_capture_replayed_gives_the_same_values(echo: bool) -> None:
    """Whoever gets the file reads from it what was read from the meter."""
    meter = SimulatedMeter("603", faults={Fault.BAD_CRC: 0.2}, seed=7)
    meter.house = House(datetime(2026, 1, 15, 10, 30), speed=0.0)  # noqa: DTZ001 - as a meter's is
    lines: list[str] = []
    recorder = Recorder(lines.append, "port")
    captured = MeterSession(VirtualLink(meter, Line(echo=echo), recorder.tap))
    await captured.read(["all"])
    assert captured.counters.crc_errors > 3
    recorder.flush()
    text = "".join(lines)
    meter.faults.clear()
    real = await MeterSession(VirtualLink(meter)).read(["all"])
    replayed = ReplayedMeter(read_capture(text.splitlines()))
    again = await MeterSession(VirtualLink(replayed)).read(["all"])
    assert len(again) == len(real) > 80
    for reading in real:
        if reading.register not in PRIVATE_REGISTERS:
            assert again[reading.register] == reading
    assert again.meter.serial == "0"
    assert str(DEFAULT_SERIAL) not in text


async def test_another_question_is_answered_from_what_the_capture_tells(tmp_path: Path) -> None:
    file = tmp_path / "capture.txt"
    async with serve_tcp(SimulatedMeter(speed=0.0)) as url:
        done = await asyncio.to_thread(kamstrup_mqtt, "capture", url, str(file), "--all")
    assert done.returncode == 0
    replayed = ReplayedMeter(read_capture(file.read_text().splitlines()))
    async with serve_tcp(replayed) as url, open_meter(url) as opened:
        readout = await opened.read(["energy", "temp2", 0x7777])
    assert readout["energy"].unit == "GJ"
    assert readout.missing == {"0x7777": "not in this meter"}


async def test_replay_explains_like_decode(tmp_path: Path) -> None:
    file = tmp_path / "capture.txt"
    async with serve_tcp(SimulatedMeter(speed=0.0)) as url:
        done = await asyncio.to_thread(kamstrup_mqtt, "capture", url, str(file), "energy")
        assert "1 values were read" in done.stdout
    done = kamstrup_mqtt("replay", "--json", str(file))
    assert done.returncode == 0
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said[0] == {"direction": "request", "address": 63, "command": "GetSerialNo"}
    assert said[1]["serial"] == "0"
    energy = {"register": 60, "name": "energy", "unit": "GJ", "value": "227.445"}
    assert any(item.get("registers") == [energy] for item in said)
    assert "energy (60) = 227.445 GJ" in kamstrup_mqtt("replay", str(file)).stdout


async def test_raw_keeps_the_numbers_from_others_eyes(tmp_path: Path) -> None:
    file = tmp_path / "capture.txt"
    async with serve_tcp(SimulatedMeter()) as url:
        await asyncio.to_thread(kamstrup_mqtt, "capture", url, str(file), "serial_number", "--raw")
    assert file.stat().st_mode & 0o077 == 0
    assert f'"{DEFAULT_SERIAL}"' in kamstrup_mqtt("replay", "--json", str(file)).stdout


async def test_a_reading_that_fails_leaves_its_capture(tmp_path: Path) -> None:
    file = tmp_path / "capture.txt"
    async with serve_tcp(SimulatedMeter(faults={Fault.TRUNCATED: 1.0})) as url:
        done = await asyncio.to_thread(kamstrup_mqtt, "capture", url, str(file), "energy")
    assert done.returncode == 4
    assert len(read_capture(file.read_text().splitlines())) >= 6
    assert kamstrup_mqtt("replay", str(file)).returncode == 1


async def test_run_records_and_simulate_serves_it(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(mosquitto)
    file = tmp_path / "capture.txt"
    async with serve_tcp(SimulatedMeter(speed=0.0)) as url:
        config = write_config(tmp_path, broker.port, url, FAST)
        gateway = background("run", "-c", str(config), "--capture", str(file))
        await log_until(gateway, "Publishing", times=2)
        await asyncio.to_thread(stop, gateway)
    simulated = background("simulate", "--listen", "127.0.0.1:0", "--replay", str(file))
    assert simulated.stdout is not None
    url = (await asyncio.to_thread(simulated.stdout.readline)).strip()
    done = await asyncio.to_thread(kamstrup_mqtt, "read", url, "energy", "--json")
    assert json.loads(done.stdout)["values"]["energy"]["value"] == "227.445"


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no telegrams"), ("# only words\n", "no telegrams"), ("2026 > zz\n", "line 1"),
     ("2026-11-24T10:28:00+00:00 ? 80\n", "line 1"), (b"\xff\xfe", "cannot be read")],
)  # fmt: skip
def test_a_file_that_is_no_capture(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "capture.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in (["replay", str(file)], ["simulate", "--replay", str(file)]):
        done = kamstrup_mqtt(*command)
        assert done.returncode == 2
        assert said in done.stderr
    assert kamstrup_mqtt("replay", str(tmp_path / "nothing")).returncode == 2


def recorded(*passages: tuple[Direction, bytes]) -> str:
    lines: list[str] = []
    recorder = Recorder(lines.append, "port")
    for direction, data in passages:
        recorder.tap(direction, data)
    recorder.flush()
    return "".join(lines)


@given(st.lists(st.integers(0x91, 0xFE), min_size=4, max_size=4), st.data())
def test_no_part_of_a_serial_number_is_left(number: list[int], data: st.DataObject) -> None:
    """Neither of a whole answer nor of one that is damaged in any place, in whatever pieces."""
    serial = int.from_bytes(number, "big")
    question, answer = encode(GetSerialNoRequest()), bytearray(encode(GetSerialNoAnswer(serial)))
    place = data.draw(st.integers(0, len(answer) - 1))
    answer[place] ^= data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(answer)))
    said = recorded(
        (Direction.REQUEST, question),
        (Direction.ANSWER, question + bytes(answer[:cut])),
        (Direction.ANSWER, bytes(answer[cut:])),
    )
    received = b"".join(
        passage.data for passage in read_capture(said.splitlines())
        if passage.direction is Direction.ANSWER
    )  # fmt: skip
    assert not any(bytes(number[i : i + 2]) in received for i in range(3))


def test_what_is_asked_along_with_a_private_register_stays() -> None:
    values = (
        RegisterValue(60, 8, 0x43, b"\0\x01\x02\x03"),
        RegisterValue(1010, 51, 0, b"\1\2\3\4"),
    )
    masked = mask(encode(GetRegisterAnswer(values)), asked=False)
    (frame,) = FrameReader().feed(masked)
    assert isinstance(frame, Frame)
    assert decode(frame) == GetRegisterAnswer((values[0], values[1]._replace(data=bytes(4))))


@given(st.binary(max_size=300), st.booleans())
def test_masking_never_fails_and_keeps_the_length_of_noise(data: bytes, asked: bool) -> None:
    masked = mask(data, asked=asked)
    if b"\x0d" not in data:
        assert len(masked) == len(data)
    assert mask(masked, asked=asked) == masked


@pytest.mark.parametrize("count", [0, 1, 9, 255])
def test_what_another_program_asks_is_recorded_as_it_is(count: int) -> None:
    """Also what no meter answers; it ended the gateway once."""
    telegram = encode(GetRegisterRequest(tuple(range(count))), 0x7F)
    assert mask(telegram, asked=False) == telegram
    said = recorded((Direction.REQUEST, telegram), (Direction.ANSWER, telegram))
    assert [passage.data for passage in read_capture(said.splitlines())] == [telegram, telegram]


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=255))
def test_any_value_is_recorded_as_it_is(unit: int, sign_exponent: int, data: bytes) -> None:
    telegram = encode(GetRegisterAnswer((RegisterValue(60, unit, sign_exponent, data),)))
    assert mask(telegram, asked=False) == telegram


def test_the_lines_of_a_capture_come_back(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    said = recorded((Direction.REQUEST, b"\x80\x01"), (Direction.ANSWER, b"\x40\x02"))
    passages = read_capture(said.splitlines())
    assert [(one.direction, one.data) for one in passages] == [
        (Direction.REQUEST, b"\x80\x01"),
        (Direction.ANSWER, b"\x40\x02"),
    ]
    assert abs((passages[0].time - before).total_seconds()) < 60
    with pytest.raises(UsageError, match="line 4"):
        read_capture([*said.splitlines(), "nonsense"])
