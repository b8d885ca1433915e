"""The reader: on the clock and on demand, cheap, within its budget, and hard to fool."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kamstrup_mqtt.catalog import REGISTERS, register_numbers
from kamstrup_mqtt.kmp import GetRegisterAnswer, GetRegisterRequest, GetSerialNoRequest
from kamstrup_mqtt.polling import plan
from kamstrup_mqtt.polling import reader as reading
from kamstrup_mqtt.polling.cache import Freshness
from kamstrup_mqtt.polling.reader import Reader
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import Reading, Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import Board, History

HOUR_S = 3600.0


class Running:
    """A reader at work on a simulated meter."""

    def __init__(self, simulated: SimulatedMeter) -> None:
        self.simulated = simulated
        self.statuses: Board[MeterStatus] = Board()
        self.history: History
        self.reader: Reader

    async def readouts(self, count: int, seconds: float = 20) -> list[Readout]:
        found: list[Readout] = []
        async with asyncio.timeout(seconds):
            while len(found) < count:
                await asyncio.sleep(0.02)
                found = [one.readout for one in await self.history.after(0, 1000)]
        return found

    @property
    def status(self) -> MeterStatus:
        status = self.statuses.latest("meter")
        assert status is not None
        return status


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path, simulated: SimulatedMeter, *parameters: str, interval_s: float = HOUR_S,
    **more: Any,
) -> AsyncIterator[Running]:  # fmt: skip
    work = Running(simulated)
    work.history = History(tmp_path / "history.db", 1e9)
    await work.history.open()
    async with serve_tcp(simulated) as port:
        meter = MeterConfig("meter", port, register_numbers(parameters), interval_s, "t", **more)
        work.reader = Reader(meter, work.history, work.statuses)
        task = asyncio.create_task(work.reader.run())
        try:
            yield work
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await work.history.close()


def asked(simulated: SimulatedMeter) -> list[int]:
    return [
        number for request in simulated.requests
        if isinstance(request, GetRegisterRequest) for number in request.registers
    ]  # fmt: skip


async def test_what_seldom_changes_is_seldom_asked_but_always_there(tmp_path: Path) -> None:
    simulated = SimulatedMeter()
    names = ("energy", "power", "maxpower_m", "maxpowerdate_m", "avgtemp1_y", "config_number_1")
    async with running(tmp_path, simulated, *names) as work:
        for count in (1, 2, 3):
            readouts = await work.readouts(count)
            work.reader.read_now()
    assert asked(simulated)[:7] == [*register_numbers(names), 99]
    for number in register_numbers(names[2:]):
        assert asked(simulated).count(number) == 1
    assert asked(simulated).count(60) >= 3
    for readout in readouts[:3]:
        assert list(readout.readings) == list(register_numbers(names))
        assert not readout.missing


def test_each_kind_of_register_has_its_time() -> None:
    names = ("energy", "maxpower_m", "config_number_1")
    energy, peak, config = register_numbers(names)
    fresh = Freshness((energy, peak, config))
    readout = Readout(
        None, None,  # type: ignore[arg-type]
        {n: Reading(n, REGISTERS[n].name, Decimal(1), "") for n in (energy, peak, config)}, {},
    )  # fmt: skip
    assert fresh.due(0) == (energy, peak, config)
    fresh.complete(readout, 0)
    assert fresh.due(60) == (energy,)
    assert fresh.due(3599) == (energy, peak)
    assert fresh.due(86400 * 30) == (energy, peak)
    lost = Readout(None, None, {energy: readout.readings[energy]}, {})  # type: ignore[arg-type]
    assert list(fresh.complete(lost, 60).readings) == [energy, peak, config]
    assert list(fresh.complete(lost, 4000).readings) == [energy, config]  # too old to be shown
    fresh.forget()
    assert fresh.due(60) == (energy, peak, config)


async def test_all_parameters_every_minute_cost_less_than_half(tmp_path: Path) -> None:
    """A naive reader asks for everything the meter has, each time."""
    for model in ("402", "403", "603"):
        simulated = SimulatedMeter(model)
        folder = tmp_path / model
        async with running(folder, simulated, "all", interval_s=60) as work:
            await work.readouts(1)
            everything = work.status.counters.bytes
            for count in range(2, 5):
                work.reader.read_now()
                await work.readouts(count)
            each = (work.status.counters.bytes - everything) / 3
        # The first readout also asks, in vain, for registers of other models; it repeats that.
        naive = await naive_bytes(model)
        a_day = 1440 * each + 24 * naive
        assert a_day <= 0.45 * 1440 * naive, (model, a_day / (1440 * naive))


async def naive_bytes(model: str) -> float:
    from kamstrup_mqtt.meter import MeterSession

    simulated = SimulatedMeter(model)
    async with serve_tcp(simulated) as port:
        session = MeterSession(port)
        await session.read(sorted(simulated.registers))
        before = session.counters.bytes
        await session.read(sorted(simulated.registers))
        await session.close()
        return session.counters.bytes - before


async def test_the_budget_is_never_exceeded_and_outlives_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        simulated = SimulatedMeter()
        async with running(
            tmp_path, simulated, "energy", interval_s=1, max_readings_per_day=3
        ) as work:
            await work.readouts(3)
            work.reader.read_now()
            await asyncio.sleep(1.5)
            assert len(await work.readouts(3)) == 3
    assert len(simulated.requests) == 0  # of the second run
    assert caplog.text.count("3 readings in 24 hours are all that max_readings_per_day") == 2
    assert "the next one is possible in 24 h" in caplog.text


async def test_reading_faster_while_water_flows_leaves_the_budget_for_the_rest(
    tmp_path: Path,
) -> None:
    async with running(
        tmp_path, SimulatedMeter(), "energy", active_interval_s=1, max_readings_per_day=27
    ) as work:
        assert list((await work.readouts(3))[0].readings) == [60]  # flow came along
        await asyncio.sleep(1.5)
        assert len(await work.readouts(3)) == 3  # 24 are left for the readings on the hour


async def test_reading_faster_for_a_time_that_somebody_asks_for(tmp_path: Path) -> None:
    async with running(tmp_path, SimulatedMeter(), "energy", active_interval_s=1) as work:
        work.reader.read_faster(3)
        await work.readouts(3)


async def test_the_cheapest_telegram_keeps_the_meter_awake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(reading, "SLEEPY_S", 1.0)
    monkeypatch.setattr(plan, "SLEEPY_S", 1.0)
    monkeypatch.setattr(reading, "_NAP_S", 0.2)
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy") as work:
        await work.readouts(1)
        before = len(simulated.requests)
        async with asyncio.timeout(60):
            while len(simulated.requests) < before + 2:
                await asyncio.sleep(0.1)
        assert {type(one) for one in list(simulated.requests)[before:]} == {GetSerialNoRequest}
    assert "a telegram of 5 bytes" in caplog.text
    assert "24 readings a day, about 6 h of battery life (an estimate of users)" in caplog.text
    async with running(tmp_path / "2", simulated, "energy", keep_awake=False) as work:
        await work.readouts(1)
        before = len(simulated.requests)
        await asyncio.sleep(2)
        assert len(simulated.requests) == before


def falsify(simulated: SimulatedMeter, *factors: str) -> None:
    """Let the next answers of the meter with an energy hold another number."""
    answer = simulated._answer
    left = list(factors)

    def falsified(request: Any) -> Any:
        found = answer(request)
        if isinstance(found, GetRegisterAnswer) and left and found.values[0].register == 60:
            scale = Decimal(left.pop(0))
            first = found.values[0]
            mantissa = int(int.from_bytes(first.data, "big") * scale)
            wrong = first._replace(data=mantissa.to_bytes(len(first.data), "big"))
            return GetRegisterAnswer((wrong, *found.values[1:]))
        return found

    simulated._answer = falsified  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("factors", "accepted"),
    [
        (["0.5"], "1"),  # went back, and the second answer is right
        (["3"], "1"),  # jumped, and the second answer is right
        (["3", "3"], "3"),  # said twice
        (["0.5", "0.5"], "0.5"),
        (["3", "0.5"], None),  # nonsense twice
    ],
)
async def test_a_total_that_cannot_be_is_believed_only_when_said_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, factors: list[str], accepted: str | None
) -> None:
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy") as work:
        (true,) = await work.readouts(1)
        falsify(simulated, *factors)
        work.reader.read_now()
        async with asyncio.timeout(60):
            while not work.status.counters.implausible:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        readouts = await work.readouts(1)
        missing = work.status.missing
    energy = true["energy"].value
    assert isinstance(energy, Decimal)
    if accepted is None:
        assert len(readouts) == 1
        assert missing == {"energy": "implausible, and not confirmed"}
    else:
        value = readouts[1]["energy"].value
        assert isinstance(value, Decimal)
        assert abs(value - energy * Decimal(accepted)) < 1
    assert "asking again" in caplog.text


async def test_a_doubtful_total_does_not_take_the_rest_of_the_readout_with_it(
    tmp_path: Path,
) -> None:
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy", "power") as work:
        await work.readouts(1)
        falsify(simulated, "3")
        answer = simulated._answer

        def silent_when_asked_again(request: Any) -> Any:
            return None if request == GetRegisterRequest((60,)) else answer(request)

        simulated._answer = silent_when_asked_again  # type: ignore[method-assign]
        work.reader.read_now()
        readouts = await work.readouts(2, 60)
        missing = work.status.missing
    assert [reading.name for reading in readouts[1]] == ["power"]
    assert missing == {"energy": "implausible, and not confirmed"}


async def test_what_an_earlier_run_read_says_what_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, SimulatedMeter(), "energy") as work:
        (true,) = await work.readouts(1)
    simulated = SimulatedMeter()
    falsify(simulated, "0.5")
    async with running(tmp_path, simulated, "energy") as work:
        readouts = await work.readouts(2)
    assert readouts[1]["energy"].value == true["energy"].value
    assert "went back" in caplog.text


async def test_a_clock_that_is_behind_is_given_time_to_be_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without a clock of its own, after a power cut."""
    async with running(tmp_path, SimulatedMeter(), "energy") as work:
        (first,) = await work.readouts(1)
        await work.history.append("meter", replace(first, time=first.time + timedelta(hours=2)))
    begun = time.monotonic()
    monkeypatch.setattr(reading, "_CLOCK_S", 3.0)
    async with running(tmp_path, SimulatedMeter(), "energy") as work:
        await work.readouts(3)
    assert time.monotonic() - begun >= 3
    assert caplog.text.count("the clock of this machine says less") == 1
    caplog.clear()
    async with running(tmp_path, SimulatedMeter(), "energy") as work:
        await work.readouts(4)
    assert "the clock" not in caplog.text


async def test_a_meter_that_is_replaced_without_a_pause_is_noticed_by_its_totals(
    tmp_path: Path,
) -> None:
    simulated = SimulatedMeter(serial=1, speed=0.0)
    async with running(tmp_path, simulated, "energy", "maxpower_y", "serial_number") as work:
        await work.readouts(1)
        simulated.serial = 2
        simulated.house.energy_kwh, simulated.house.max_power_kw = 12.0, 3.5
        work.reader.read_now()
        readouts = await work.readouts(2)
        assert work.status.meter.serial == "2"
    assert [readout.meter.serial for readout in readouts] == ["1", "2"]
    assert readouts[1]["energy"].text == "0.043"
    assert readouts[1]["serial_number"].text == "2"
    assert readouts[1]["maxpower_y"].text == "3.5"  # nothing is left of the other one


async def test_a_silent_meter_is_not_hammered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SPARING_S", 1.0)
    simulated = SimulatedMeter(faults={Fault.SILENT: 1.0})
    async with running(tmp_path, simulated, "energy", interval_s=1) as work:
        async with asyncio.timeout(60):
            while work.reader._failures < 3:
                await asyncio.sleep(0.1)
        assert len(simulated.requests) == 6 + 2 + 2
        simulated.faults.clear()
        await work.readouts(1)


async def test_a_fault_that_goes_on_is_not_repeated_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "retry_delay", lambda failures, longest: 0.1)
    simulated = SimulatedMeter(faults={Fault.HANG_UP: 1.0})
    async with running(tmp_path, simulated, "energy", interval_s=1) as work:
        async with asyncio.timeout(60):
            while work.reader._failures < 3:
                await asyncio.sleep(0.1)
    assert caplog.text.count("Next try") <= 2
    assert time.monotonic() - work.reader.alive_at < 30
