"""The simulated meter: believable numbers, and faults that are what their names say."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.errors import CrcError, TelegramError
from kamstrup_mqtt.kmp import (
    Direction,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    Request,
    Unreadable,
    decode,
    encode,
)
from kamstrup_mqtt.meter.probe import Probe, Seen
from kamstrup_mqtt.simulator import MODELS, Fault, Reaction, SimulatedMeter, serve_control
from kamstrup_mqtt.simulator.house import KWH_PER_L_K, House

Background = Callable[..., subprocess.Popen[str]]

ASK = GetRegisterRequest((60, 68))


def frame(request: Request[Any], address: int = 0x3F) -> Frame:
    (found,) = FrameReader().feed(encode(request, address))
    assert isinstance(found, Frame)
    return found


def test_a_day_in_the_house_is_believable() -> None:
    house = House(datetime(2026, 1, 15, tzinfo=UTC).replace(tzinfo=None))
    house.advance(0)
    energy, volume, powers = house.energy_kwh, house.volume_l, []
    for minute in range(24 * 60):
        before = house.energy_kwh, house.volume_l
        house.advance(minute * 60.0)
        assert house.energy_kwh >= before[0]
        assert house.volume_l >= before[1]
        assert 20 < house.return_c < house.supply_c < 90
        assert 0 < house.power_kw < 30
        physics = house.flow_l_h * (house.supply_c - house.return_c) * KWH_PER_L_K
        assert house.power_kw == pytest.approx(physics)
        powers.append(house.power_kw)
    assert 50 < house.energy_kwh - energy < 250  # kWh of a winter's day
    assert 1000 < house.volume_l - volume < 8000
    assert min(powers) < 5
    assert max(powers) > 15  # somebody took a shower


@pytest.mark.parametrize("model", MODELS)
def test_it_has_every_register_of_its_model(model: str) -> None:
    meter = SimulatedMeter(model)
    expected = {r.number for r in REGISTERS.values() if model in r.models}
    for number in expected:
        (answer,) = FrameReader().feed(meter.react(frame(GetRegisterRequest((number,))), 0).answer)
        assert isinstance(answer, Frame)
        message = decode(answer)
        assert isinstance(message, GetRegisterAnswer)
        (value,) = message.values
        assert value.register == number
        assert not isinstance(value.value, Unreadable | None)
        if REGISTERS[number].name == "meter_type_text":
            assert value.value == f"MULTICAL {model}"


def test_it_is_silent_where_a_meter_is() -> None:
    meter = SimulatedMeter()
    for other in (
        frame(ASK, address=0x7F),
        Frame(Direction.REQUEST, 0x3F, 0x99, b""),
        Frame(Direction.REQUEST, 0x3F, 0x10, bytes([9]) + bytes(18)),
        Frame(Direction.REQUEST, 0x3F, 0x10, bytes([0])),
    ):
        assert meter.react(other, 0).answer == b""
    (nothing,) = FrameReader().feed(meter.react(frame(GetRegisterRequest((0x4321,))), 0).answer)
    assert nothing == Frame(Direction.ANSWER, 0x3F, 0x10, b"")


def test_faults_are_what_their_names_say() -> None:
    right = SimulatedMeter().react(frame(ASK), 0).answer

    def found(fault: Fault) -> list[Frame | TelegramError]:
        reaction = SimulatedMeter(faults={fault: 1.0}, seed=3).react(frame(ASK), 0)
        assert reaction.hang_up == (fault is Fault.HANG_UP)
        assert reaction.flood == (fault is Fault.FLOOD)
        if fault in (Fault.TRUNCATED, Fault.HANG_UP):
            assert right.startswith(reaction.answer)
            assert 0 < len(reaction.answer) < len(right)
        return FrameReader().feed(reaction.answer)

    assert [type(item) for item in found(Fault.BAD_CRC)] == [CrcError]
    for fault in (Fault.SILENT, Fault.ASLEEP, Fault.FLOOD, Fault.TRUNCATED, Fault.HANG_UP):
        assert found(fault) == []
    assert found(Fault.GARBAGE_BEFORE)[-1] == FrameReader().feed(right)[0]
    for fault in (Fault.WRONG_REGISTER, Fault.UNKNOWN_REGISTERS):
        (item,) = found(fault)
        assert isinstance(item, Frame)
        message = decode(item)
        assert isinstance(message, GetRegisterAnswer)
        assert {value.register for value in message.values} != {60, 68}
    (item,) = found(Fault.STRANGE_VALUES)
    assert isinstance(item, Frame)
    assert isinstance(strange := decode(item), GetRegisterAnswer)
    assert [value.register for value in strange.values] == [60, 68]


def test_another_program_also_asks_what_no_meter_answers() -> None:
    meter = SimulatedMeter(faults={Fault.OTHER_PROGRAM: 1.0}, seed=1)
    (request,) = FrameReader().feed(encode(GetRegisterRequest((60,))))
    assert isinstance(request, Frame)
    said = [
        decode(frame) for frame in FrameReader().feed(meter.react(request, 0).answer)
        if isinstance(frame, Frame)
    ]  # fmt: skip
    asked = [len(one.registers) for one in said if isinstance(one, GetRegisterRequest)]
    assert asked == [9, 0, 1]
    assert len(said) == 4


async def test_the_control_connection_wakes_and_moves(background: Background) -> None:
    process = background(
        "simulate", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--fault", "asleep=1"
    )
    assert process.stdout is not None
    url = (await asyncio.to_thread(process.stdout.readline)).strip()
    told = (await asyncio.to_thread(process.stdout.readline)).strip()
    async with Probe(url) as probe:
        assert await probe.ask() is Seen.NOTHING
        async with controlled(told.removeprefix("control: ")) as control:
            assert await control("key") == "ok"
        assert await probe.ask() is Seen.GOOD


async def test_each_line_of_the_control_connection_does_something_to_the_meter() -> None:
    meter = SimulatedMeter(faults={Fault.ASLEEP: 1.0})
    request, now = frame(GetSerialNoRequest()), 1000.0
    good = encode(GetSerialNoAnswer(meter.serial))

    def heard() -> Reaction:
        return meter.react(request, now)

    async with serve_control(meter) as address, controlled(address) as control:
        assert heard() == Reaction()
        assert await control("key") == "ok"
        assert heard() == Reaction(good)
        assert await control("head 1") == "ok"
        assert heard() == Reaction()
        assert await control("head 0") == "ok"
        assert await control("fault echo_only=1") == "ok"
        assert heard() == Reaction(echo=True)
        assert await control("fault echo-only=0") == "ok"
        assert await control("drift 0.001") == "ok"
        assert heard() == Reaction(good)
        now += 0.01
        assert heard() == Reaction()
        for wrong in ("head far", "fault bad-crc=2", "dance", ""):
            assert "press a key" in await control(wrong)


@contextlib.asynccontextmanager
async def controlled(address: str) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """What says a line on a control connection, and gives the answer."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def control(line: str) -> str:
        writer.write(f"{line}\n".encode())
        return (await reader.readline()).decode().strip()

    yield control
    writer.close()


def test_a_drifting_head_hears_less_and_less() -> None:
    meter = SimulatedMeter(seed=1)
    meter.drift(100)
    request = frame(GetSerialNoRequest())
    heard = [len(meter.react(request, 1000.0 + second).answer) for second in range(0, 110, 10)]
    assert heard[0] == heard[1] > heard[8] > heard[-1] == 0
    meter.place_head(0)
    assert len(meter.react(request, 2000.0).answer) == heard[0]
