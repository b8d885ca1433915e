"""The meter session against the simulated meter: over every kind of bad line, TCP and pty."""

import asyncio
from decimal import Decimal

import pytest

from kamstrup_mqtt import (
    CrcError,
    FramingError,
    KamstrupError,
    MeterIdentity,
    MeterSession,
    NoAnswerError,
    PortError,
    Readout,
    TelegramError,
    UsageError,
    WrongRegisterError,
    open_meter,
)
from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS, REGISTERS
from kamstrup_mqtt.kmp import (
    BYTE_S,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoRequest,
    RegisterValue,
    encode,
)
from kamstrup_mqtt.simulator import (
    Fault,
    Line,
    Meter,
    Reaction,
    SimulatedMeter,
    Sink,
    Source,
    serve_pty,
    serve_tcp,
)

from .virtual import VirtualLink, virtual

FOUR = ["energy", "volume", "temp1", "temp2"]


def asked(meter: SimulatedMeter) -> list[tuple[int, ...]]:
    return [r.registers for r in meter.requests if isinstance(r, GetRegisterRequest)]


def session(meter: Meter, line: Line | None = None) -> MeterSession:
    return MeterSession(VirtualLink(meter, line))


def assert_true(readout: Readout, meter: SimulatedMeter) -> None:
    """Every value is one that the house has, or had a moment ago."""
    house = meter.house
    for name, actual in (("energy", house.energy_kwh * 0.0036), ("volume", house.volume_l / 1000)):
        if name in {reading.name for reading in readout}:
            value = readout[name].value
            assert isinstance(value, Decimal)
            assert abs(float(value) - actual) < 0.01
    names = {REGISTERS[number].name for number in meter.registers}
    assert {reading.name for reading in readout} <= names


@virtual
async def test_four_parameters_take_three_telegrams_identification_included() -> None:
    meter = SimulatedMeter("402")
    opened = session(meter)
    readout = await opened.read(FOUR)
    assert len(meter.requests) == 3
    await opened.read(FOUR)
    assert len(meter.requests) == 4  # identity is asked for once a connection
    assert [reading.name for reading in readout] == FOUR
    assert readout.missing == {}
    assert readout.meter.serial == "71343479"
    assert readout.meter.revision == "A1"
    assert readout["ENERGY"].text == "227.445"
    assert readout[60].unit == "GJ"
    assert readout["energy"] is readout[0x3C]
    assert readout.time.utcoffset() is not None
    assert_true(readout, meter)
    with pytest.raises(KeyError):
        readout["power"]
    with pytest.raises(KeyError):
        readout["no such thing"]


@virtual
async def test_after_a_pause_it_is_asked_who_is_there() -> None:
    meter = SimulatedMeter("402", serial=1)
    opened = session(meter)
    await opened.read(FOUR)
    opened.doubt_identity()
    assert (await opened.read(FOUR)).meter.serial == "1"
    assert len(meter.requests) == 4  # the answer says whose it is
    meter.serial = 2
    readout = await opened.read(FOUR)
    assert readout.meter.serial == "2"
    assert readout.meter.type_code == "0402"
    count = len(meter.requests)
    meter.serial = 3
    full = [*FOUR, "power", "flow", "temp1xm3", "temp2xm3"]  # no room in it for one more register
    assert (await opened.read(full)).meter.serial == "2"  # nothing raises a doubt
    assert len(meter.requests) == count + 1
    await opened.ping()  # but the cheapest question is who it is
    assert (await opened.read(full)).meter.serial == "3"
    meter.serial = 4
    for _ in range(2):
        await asyncio.sleep(149)
        assert (await opened.read(full)).meter.serial == "3"
    await asyncio.sleep(5)
    assert (await opened.read(full)).meter.serial == "4"


class TaciturnMeter(SimulatedMeter):
    """A meter that answers neither GetType nor GetSerialNo."""

    def react(self, frame: Frame, now: float) -> Reaction:
        return super().react(frame, now) if frame.command == 0x10 else Reaction()


@virtual
async def test_a_meter_that_only_answers_registers_is_identified_by_its_register() -> None:
    meter = TaciturnMeter("402")
    opened = session(meter)
    for _ in range(4):
        readout = await opened.read(FOUR)
        assert len(readout) == 4
        assert readout.meter == MeterIdentity("71343479")
    assert asked(meter) == [(60, 68, 86, 87, 1001)] * 4


@pytest.mark.parametrize(("model", "unit"), [("402", "GJ"), ("403", "MWh"), ("603", "kWh")])
@virtual
async def test_all_31_parameters_take_six_telegrams(model: str, unit: str) -> None:
    meter = SimulatedMeter(model)
    opened = session(meter)
    readout = await opened.read(CLASSIC_PARAMETERS)
    assert len(meter.requests) == 6
    assert [reading.name for reading in readout] == list(CLASSIC_PARAMETERS)
    assert readout["energy"].unit == unit


async def test_over_a_pseudo_terminal() -> None:
    meter = SimulatedMeter("603")
    async with serve_pty(meter, Line(echo=True)) as path:
        for _ in range(2):  # readers come and go
            async with open_meter(path) as opened:
                readout = await opened.read(["energy", "date_time", "type_number", "target_date"])
            assert readout["energy"].unit == "kWh"
            assert list(readout.missing) == ["type_number"]


@virtual
async def test_the_paced_line_with_echo_and_a_stray_zero_byte() -> None:
    meter = SimulatedMeter()
    opened = session(meter, Line(pace=True, echo=True, turnaround_s=0.1))
    readout = await opened.read(FOUR)
    assert len(readout) == 4
    assert len(meter.requests) == 3


@virtual
async def test_a_register_the_meter_lacks_is_missing_and_the_rest_is_read() -> None:
    meter = SimulatedMeter("402")
    opened = session(meter)
    readout = await opened.read(["energy_high_res", "energy", "0x4321"])
    assert [reading.name for reading in readout] == ["energy"]
    assert readout.missing == dict.fromkeys(["energy_high_res", "0x4321"], "not in this meter")
    # Asked once and repeated twice, both in one telegram, and then left alone.
    assert asked(meter) == [(266, 60, 0x4321, 1001), (266, 0x4321, 1001), (266, 0x4321, 1001)]
    again = await opened.read(["energy_high_res", "energy", "0x4321"])
    assert asked(meter)[3:] == [(60, 1001)]
    assert again.missing == readout.missing
    nothing = await opened.read(["energy_high_res"])
    assert len(nothing) == 0
    assert list(nothing.missing) == ["energy_high_res"]


@virtual
async def test_all_reads_every_register_of_the_model() -> None:
    meter = SimulatedMeter("603")
    opened = session(meter)
    readout = await opened.read(["all"])
    assert {reading.register for reading in readout} == meter.registers
    # The high resolution register holds the low digits of the other, in watt-hours.
    energy, fine = readout["energy"], readout["energy_high_res"]
    assert (energy.unit, fine.unit) == ("kWh", "Wh")
    assert isinstance(energy.value, Decimal)
    assert isinstance(fine.value, Decimal)
    assert abs(energy.value * 1000 % 10_000_000 - fine.value) < 100
    assert len(readout) + len(readout.missing) == len(REGISTERS)


# Strange values are no fault of the line: they are what the meter said, see test_hostile.py.
@pytest.mark.parametrize("fault", [one for one in Fault if one is not Fault.STRANGE_VALUES])
@virtual
async def test_a_line_with_30_percent_of_a_fault_gives_every_value_and_no_wrong_one(
    fault: Fault,
) -> None:
    async def read(seed: int) -> Readout:
        meter = SimulatedMeter("402", faults={fault: 0.3}, seed=seed)
        opened = MeterSession(VirtualLink(meter, Line(echo=True)))
        readout = await opened.read(CLASSIC_PARAMETERS)
        assert_true(readout, meter)
        return readout

    readouts = await asyncio.gather(*(read(seed) for seed in range(10)))
    assert [len(readout) for readout in readouts] == [len(CLASSIC_PARAMETERS)] * 10
    assert {readout.meter.serial for readout in readouts} == {"71343479"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.SILENT, NoAnswerError),
        (Fault.ASLEEP, NoAnswerError),
        (Fault.TRUNCATED, TelegramError),
        (Fault.BAD_CRC, TelegramError),
        (Fault.FLOOD, FramingError),
        (Fault.HANG_UP, PortError),
    ],
)
@virtual
async def test_a_line_that_never_works_ends_with_what_is_wrong(
    fault: Fault, error: type[KamstrupError]
) -> None:
    meter = SimulatedMeter(faults={fault: 1.0}, seed=1)
    opened = session(meter, Line(echo=True))
    with pytest.raises(error) as caught:
        await opened.read(CLASSIC_PARAMETERS)
    assert len(meter.requests) == 6  # two telegrams, each repeated twice
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, TelegramError):
        assert "millimetres" in str(caught.value)
    if isinstance(caught.value, NoAnswerError):
        assert caught.value.echo
        for cause in ("position", "asleep", "wrong port"):
            assert cause in str(caught.value)


@virtual
async def test_a_meter_that_is_woken_answers() -> None:
    meter = SimulatedMeter(faults={Fault.ASLEEP: 1.0})
    opened = session(meter)
    reading = asyncio.create_task(opened.read(FOUR))
    await asyncio.sleep(1)
    meter.wake()
    assert len(await reading) == 4


async def test_a_port_that_hung_up_between_readings_is_opened_again() -> None:
    meter = SimulatedMeter()
    async with serve_tcp(meter) as url:
        port = int(url.rpartition(":")[2])
        opened = MeterSession(url)
        await opened.read(FOUR)
    with pytest.raises(PortError):
        await opened.read(FOUR)
    async with serve_tcp(SimulatedMeter(serial=5), port=port):
        readout = await opened.read(FOUR)
        assert readout.meter.serial == "5"  # a new connection, so it is asked again
    await opened.close()


@virtual
async def test_readings_asked_for_at_once_take_turns() -> None:
    meter = SimulatedMeter()
    opened = session(meter)
    readouts = await asyncio.gather(*(opened.read([name]) for name in FOUR))
    assert [next(iter(readout)).name for readout in readouts] == FOUR


@pytest.mark.parametrize("parameters", [[], ["enregy"], [70000]])
@virtual
async def test_what_cannot_be_asked_is_refused_before_the_meter_is(
    parameters: list[str | int],
) -> None:
    meter = SimulatedMeter()
    opened = session(meter)
    with pytest.raises(UsageError):
        await opened.read(parameters)
    assert not meter.requests


def register(number: int, value: int) -> RegisterValue:
    return RegisterValue(number, 8, 0x43, value.to_bytes(4))


class Scripted:
    """Sends these bytes, one after the other, when registers are asked for."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = iter(answers)
        self._meter = SimulatedMeter()

    def react(self, frame: Frame, now: float) -> Reaction:
        if frame.command == GetRegisterRequest.command:
            return Reaction(next(self._answers, b""))
        return self._meter.react(frame, now)


async def scripted(*answers: bytes) -> Readout:
    return await session(Scripted(*answers)).read(["energy"])


GOOD = encode(GetRegisterAnswer((register(60, 227445),)))


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\x00",
        encode(GetSerialNoRequest()),  # another program's question
        encode(GetRegisterRequest((60,))),
        encode(GetRegisterAnswer((register(68, 1),))),  # the answer to another question
        encode(GetRegisterAnswer((register(60, 1), register(68, 1)))),
        encode(GetRegisterAnswer((register(60, 1), register(60, 2)))),
        encode(GetRegisterAnswer((register(60, 1),)), address=0x7F),
        GOOD[:-1],
        GOOD[:-4] + b"\x00" + GOOD[-3:],
        b"\x40\x3f\x02\x01\x23\x45\x67\xe9\x56\x0d",  # a serial number
    ],
)
@virtual
async def test_only_the_answer_to_the_question_yields_a_value(before: bytes) -> None:
    readout = await scripted(before + GOOD)
    assert readout["energy"].text == "227.445"


@virtual
async def test_a_wrong_register_is_never_taken_and_asked_again() -> None:
    wrong = encode(GetRegisterAnswer((register(68, 1),)))
    readout = await scripted(wrong, wrong, GOOD)
    assert readout["energy"].text == "227.445"
    with pytest.raises(WrongRegisterError, match="volume"):
        await scripted(wrong, wrong, wrong, GOOD)


@virtual
async def test_a_bad_crc_is_told_even_if_silence_follows() -> None:
    with pytest.raises(CrcError):
        await scripted(GOOD[:-4] + b"\x00" + GOOD[-3:], b"", b"")


class DeafAfterTrouble(SimulatedMeter):
    """After a request that it rejects, or an answer that went wrong, it ignores all for 1.6 s.

    And it wants a byte time of quiet before the next request (kmp.md, 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.disturbed = 0
        self._quiet_from = 0.0
        self._trouble = iter([b"", b"\x40\x3f\x10", b"\x40\x3f\x10\x00\x3c\x00\x00\x0d", b""])

    def react(self, frame: Frame, now: float) -> Reaction:
        self.disturbed += now < self._quiet_from
        bad = next(self._trouble, None)
        since = now if bad == b"" else asyncio.get_running_loop().time()  # rejected, or answered
        self._quiet_from = since + (BYTE_S if bad is None else 1.6)
        return super().react(frame, now) if bad is None else Reaction(bad)


@pytest.mark.parametrize("turnaround_s", [0.0, 1.2])
@virtual
async def test_a_meter_that_is_deaf_after_trouble_is_given_its_rest(turnaround_s: float) -> None:
    meter = DeafAfterTrouble()
    readout = await session(meter, Line(turnaround_s=turnaround_s)).read(CLASSIC_PARAMETERS)
    assert len(readout) == 31
    assert meter.disturbed == 0


class Hesitant(VirtualLink):
    """The answer comes in pieces, each so long after the one before."""

    pause_s = 0.0

    async def talk(self, source: Source, sink: Sink) -> None:
        frames = FrameReader()
        while data := await source.read(100):
            for frame in frames.feed(data):
                assert isinstance(frame, Frame)
                telegram = self.meter.react(frame, 0).answer
                for piece in (telegram[:3], telegram[3:4], telegram[4:]):
                    await asyncio.sleep(self.pause_s)
                    sink.write(piece)


@pytest.mark.parametrize("pause_s", [0.3, 1.2])
@virtual
async def test_an_answer_may_come_late_and_in_pieces(pause_s: float) -> None:
    meter = SimulatedMeter()
    link = Hesitant(meter)
    link.pause_s = pause_s
    readout = await MeterSession(link).read(["energy"])
    assert readout["energy"].text == "227.445"
    assert len(meter.requests) == 3  # nothing was asked twice
