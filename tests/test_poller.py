"""The poller, in virtual time: on the clock and on demand, cheap, in its budget, hard to fool."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kamstrup_mqtt import MeterSession
from kamstrup_mqtt.catalog import register_numbers
from kamstrup_mqtt.kmp import Frame, GetRegisterRequest, GetSerialNoRequest, RegisterValue, decode
from kamstrup_mqtt.polling.job import Kind
from kamstrup_mqtt.polling.poller import Poller
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.readout.status import LinkState, MeterStatus
from kamstrup_mqtt.simulator import Fault, Reaction, SimulatedMeter
from kamstrup_mqtt.store import Board, History

from .virtual import BEGIN, VirtualClock, VirtualLink, virtual

HOUR, DAY = 3600.0, 86400.0


class Liar(SimulatedMeter):
    """A meter whose next answers with an energy hold another number, and that may be deaf."""

    def __init__(self, *factors: str, **more: Any) -> None:
        super().__init__(**more)
        self.factors = list(factors)
        self.deaf_to: object = None

    def measure(self, numbers: Any) -> tuple[RegisterValue, ...]:
        values = super().measure(numbers)
        if self.factors and values and values[0].register == 60:
            mantissa = int(int.from_bytes(values[0].data, "big") * Decimal(self.factors.pop(0)))
            wrong = mantissa.to_bytes(len(values[0].data), "big")
            values = (values[0]._replace(data=wrong), *values[1:])
        return values

    def react(self, frame: Frame, now: float) -> Reaction:
        return Reaction() if decode(frame) == self.deaf_to else super().react(frame, now)


class Running:
    """A poller at work on a simulated meter."""

    def __init__(self, simulated: SimulatedMeter, clock: VirtualClock) -> None:
        self.simulated = simulated
        self.clock = clock
        self.link = VirtualLink(simulated)
        self.statuses: Board[MeterStatus] = Board()
        self.history: History
        self.poller: Poller

    async def readouts(self, count: int = 0) -> list[Readout]:
        """All that were read; waits until there are so many."""
        while True:
            found = [one.readout for one in await self.history.after(0, 9999)]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.1)

    async def requested(self) -> list[Readout]:
        """What there is after a request."""
        self.poller.request()
        return await self.readouts(len(await self.readouts()) + 1)

    @property
    def status(self) -> MeterStatus:
        status = self.statuses.latest("meter")
        assert status is not None
        return status


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path, simulated: SimulatedMeter, *parameters: str, interval_s: float = HOUR,
    clock: VirtualClock | None = None, **more: Any,
) -> AsyncIterator[Running]:  # fmt: skip
    work = Running(simulated, clock or VirtualClock())
    work.history = History(tmp_path / "history.db", 1e9)
    await work.history.open()
    settings = MeterConfig(
        "meter", "virtual", register_numbers(parameters), interval_s, "t", **more
    )
    session = MeterSession(work.link, clock=work.clock)
    work.poller = Poller(settings, session, work.history, work.statuses, work.clock)
    task = asyncio.create_task(work.poller.run())
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


@virtual
async def test_what_seldom_changes_is_seldom_asked_but_always_there(tmp_path: Path) -> None:
    simulated = SimulatedMeter()
    names = ("energy", "power", "maxpower_m", "maxpowerdate_m", "avgtemp1_y", "config_number_1")
    async with running(tmp_path, simulated, *names) as work:
        await work.readouts(1)
        for _ in range(2):
            readouts = await work.requested()
    assert asked(simulated)[:7] == [*register_numbers(names), 99]
    for number in register_numbers(names[2:]):
        assert asked(simulated).count(number) == 1
    assert asked(simulated).count(60) == 3
    for readout in readouts:
        assert list(readout.readings) == list(register_numbers(names))
        assert not readout.missing


@virtual
async def test_all_parameters_every_minute_cost_less_than_a_third(tmp_path: Path) -> None:
    """A naive reader asks for everything the meter has, each time."""
    for model in ("402", "403", "603"):
        simulated = SimulatedMeter(model)
        async with running(tmp_path / model, simulated, "all", interval_s=60) as work:
            await asyncio.sleep(3 * HOUR)
            begun = work.status.counters.bytes
            await asyncio.sleep(6 * HOUR)
            each = (work.status.counters.bytes - begun) / 360
        session = MeterSession(VirtualLink(SimulatedMeter(model)))
        await session.read(sorted(simulated.registers))
        before = session.counters.bytes
        await session.read(sorted(simulated.registers))
        naive = session.counters.bytes - before
        await session.close()
        assert each <= 0.30 * naive, (model, each / naive)


@virtual
async def test_the_budget_is_never_exceeded_and_outlives_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    for run_number in range(2):
        simulated = SimulatedMeter()
        async with running(
            tmp_path, simulated, "energy", interval_s=1, max_readings_per_day=3, clock=clock
        ) as work:
            if run_number == 0:
                for _ in range(2):
                    await work.requested()
            work.poller.request()
            await asyncio.sleep(23 * HOUR if run_number else 60)
            assert len(await work.readouts()) == 3
    assert len(simulated.requests) == 0  # of the second run
    assert "max_readings_per_day: 3 is used up for now" in caplog.text


@virtual
async def test_reading_faster_while_water_flows_leaves_the_budget_for_the_rest(
    tmp_path: Path,
) -> None:
    async with running(
        tmp_path, SimulatedMeter(), "energy", active_interval_s=1, max_readings_per_day=27
    ) as work:
        assert list((await work.readouts(3))[0].readings) == [60]  # flow came along
        await asyncio.sleep(60)
        assert len(await work.readouts()) == 3
        await asyncio.sleep(20 * HOUR)  # 24 are left for the readings on the hour
        assert 22 <= len(await work.readouts()) <= 27


@virtual
async def test_reading_faster_for_a_time_that_somebody_asks_for(tmp_path: Path) -> None:
    async with running(tmp_path, SimulatedMeter(), "energy") as work:
        await work.readouts(1)
        work.poller.boost(120)
        await asyncio.sleep(600)
        assert 4 <= len(await work.readouts()) <= 6


@virtual
async def test_the_cheapest_telegram_keeps_a_meter_awake_that_was_found_asleep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    simulated, clock = SimulatedMeter(), VirtualClock()
    async with running(tmp_path, simulated, "energy", clock=clock) as work:
        await asyncio.sleep(2 * HOUR)
        assert "found asleep once is kept awake from then on" in caplog.text
        assert "24 readings a day, about 6 h of battery life (an estimate of users)" in caplog.text
        simulated.faults[Fault.ASLEEP] = 1.0
        await asyncio.sleep(2 * HOUR)
        assert work.status.state is LinkState.ASLEEP
        simulated.wake()
        await asyncio.sleep(2 * HOUR)
        before = len(simulated.requests)
        await asyncio.sleep(50 * 60)
        later = list(simulated.requests)[before:]
        assert GetSerialNoRequest() in later
    caplog.clear()
    async with running(tmp_path, simulated, "energy", clock=clock):
        await asyncio.sleep(60)
    assert "a telegram of 5 bytes" in caplog.text  # it is not forgotten


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
@virtual
async def test_a_total_that_cannot_be_is_believed_only_when_said_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, factors: list[str], accepted: str | None
) -> None:
    simulated = Liar()
    async with running(tmp_path, simulated, "energy") as work:
        (true,) = await work.readouts(1)
        simulated.factors = list(factors)
        work.poller.request()
        await asyncio.sleep(60)
        readouts, missing = await work.readouts(), work.status.missing
        assert work.status.counters.implausible
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


@virtual
async def test_a_doubtful_total_does_not_take_the_rest_of_the_readout_with_it(
    tmp_path: Path,
) -> None:
    simulated = Liar()
    async with running(tmp_path, simulated, "energy", "power") as work:
        await work.readouts(1)
        simulated.factors = ["3"]
        simulated.deaf_to = GetRegisterRequest((60, 1001))
        readouts = await work.requested()
        missing = work.status.missing
    assert [reading.name for reading in readouts[1]] == ["power"]
    assert missing == {"energy": "implausible, and not confirmed"}


@virtual
async def test_what_an_earlier_run_read_says_what_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    async with running(tmp_path, SimulatedMeter(), "energy", clock=clock) as work:
        (true,) = await work.readouts(1)
    async with running(tmp_path, Liar("0.5"), "energy", clock=clock) as work:
        readouts = await work.requested()
    assert readouts[1]["energy"].value == true["energy"].value
    assert "went back" in caplog.text


@virtual
async def test_a_restart_goes_on_with_the_schedule_and_says_how_the_meter_is(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    async with running(tmp_path, SimulatedMeter(), "energy", clock=clock) as work:
        (first,) = await work.readouts(1)
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy", clock=clock) as work:
        await asyncio.sleep(60)
        assert len(await work.readouts()) == 1
        assert not simulated.requests
        assert work.status.state is LinkState.OK
        assert work.status.last_readout == first.time
        assert work.poller.complaint == ""
        second = (await work.readouts(2))[1]
    assert second.time.timestamp() == pytest.approx(BEGIN.timestamp() + HOUR / 2, abs=5)


@virtual
async def test_a_clock_that_is_behind_is_given_time_to_be_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine without a clock of its own, after a power cut."""
    for by in (0, 3 * HOUR):
        clock = VirtualClock()
        caplog.clear()
        async with running(tmp_path / str(by), SimulatedMeter(), "energy", clock=clock) as work:
            (first,) = await work.readouts(1)
            late = replace(first, time=first.time + timedelta(hours=2))
            await work.history.append("meter", late)
        async with running(tmp_path / str(by), SimulatedMeter(), "energy", clock=clock) as work:
            before = len(await work.readouts())
            await asyncio.sleep(60)
            assert len(await work.readouts()) == before
            assert caplog.text.count("the clock of this machine is behind") == 1
            clock.set(by)
            await asyncio.sleep(90)
            assert len(await work.readouts()) == before + 1


@virtual
async def test_a_meter_that_is_replaced_without_a_pause_is_noticed_by_its_totals(
    tmp_path: Path,
) -> None:
    simulated = SimulatedMeter(serial=1, speed=0.0)
    async with running(tmp_path, simulated, "energy", "maxpower_y", "serial_number") as work:
        await work.readouts(1)
        simulated.serial = 2
        simulated.house.energy_kwh, simulated.house.max_power_kw = 12.0, 3.5
        readouts = await work.requested()
        assert work.status.meter.serial == "2"
    assert [readout.meter.serial for readout in readouts] == ["1", "2"]
    assert readouts[1]["energy"].text == "0.043"
    assert readouts[1]["serial_number"].text == "2"
    assert readouts[1]["maxpower_y"].text == "3.5"  # nothing is left of the other one


@virtual
async def test_each_readout_is_told_once(tmp_path: Path) -> None:
    async with running(tmp_path, SimulatedMeter(), "energy", interval_s=60) as work:
        count = len(await work.readouts(5))
        await asyncio.sleep(1)
        (entry,) = work.statuses.behind(0)
        assert entry.sequence == count


@virtual
async def test_a_silent_meter_is_not_hammered(tmp_path: Path) -> None:
    simulated = SimulatedMeter(faults={Fault.SILENT: 1.0})
    async with running(tmp_path, simulated, "energy", interval_s=1) as work:
        await asyncio.sleep(HOUR)
        assert len(simulated.requests) <= 6 + 2 * HOUR / 20
        simulated.faults.clear()
        await work.readouts(1)


@virtual
async def test_a_fault_that_goes_on_is_not_repeated_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy", interval_s=60) as work:
        await work.readouts(1)
        work.link.unplug()
        await asyncio.sleep(2.5 * HOUR)
        assert caplog.text.count("Next try") == 3
        assert "does not exist" in work.poller.complaint
        states = [work.status.state]
        work.link.plug()
        await asyncio.sleep(120)
        states.append(work.status.state)
        assert states == [LinkState.PORT_MISSING, LinkState.OK]
        assert asyncio.get_running_loop().time() - work.poller.alive_at < 60


@virtual
async def test_small_steps_share_the_line_with_the_polls(tmp_path: Path) -> None:
    steps = 0

    async def step(session: MeterSession) -> bool:
        nonlocal steps
        steps += 1
        await session.ping()
        return steps < 100

    async with running(tmp_path, SimulatedMeter(), "energy", interval_s=10) as work:
        await work.readouts(1)
        work.poller.begin(Kind.ALIGN, step)
        await asyncio.sleep(60)
        assert len(await work.readouts()) >= 6
    assert steps == 100


@pytest.mark.parametrize("by", [-HOUR, -23 * HOUR, -400 * DAY, HOUR, 400 * DAY])
@virtual
async def test_polls_go_on_when_the_clock_is_set(tmp_path: Path, by: float) -> None:
    async with running(tmp_path, SimulatedMeter(), "energy", interval_s=600) as work:
        await work.readouts(1)
        for ahead_s in (by, 0.0):
            work.clock.set(ahead_s)
            before = len(await work.readouts())
            await asyncio.sleep(660)
            assert len(await work.readouts()) > before


@virtual
async def test_a_line_that_hangs_up_amid_the_answers_does_not_outwit_the_budget(
    tmp_path: Path,
) -> None:
    simulated = SimulatedMeter(faults={Fault.HANG_UP: 1.0})
    async with running(
        tmp_path, simulated, "energy", interval_s=60, max_readings_per_day=10
    ) as work:
        await asyncio.sleep(20 * HOUR)
        memory = json.loads(await work.history.setting("meter", "schedule") or "")
        assert len(memory["asked"]) == 10


@virtual
async def test_a_restart_after_a_partial_readout_goes_on_with_the_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    async with running(tmp_path, SimulatedMeter(), "energy", "volume", clock=clock) as work:
        await work.readouts(1)
        work.poller.request((80,))
        await work.readouts(2)
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy", "volume", clock=clock) as work:
        await asyncio.sleep(60)
        assert not simulated.requests
        await work.readouts(3)
    async with running(tmp_path, simulated, "energy", "power", clock=clock) as work:
        await work.readouts(4)  # others than those: they are read at once
        assert asyncio.get_running_loop().time() < 3 * HOUR


@virtual
async def test_faster_readings_that_the_budget_has_no_room_for_are_not_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(tmp_path, SimulatedMeter(), "energy", max_readings_per_day=24) as work:
        await work.readouts(1)
        work.poller.boost(1800)
        await asyncio.sleep(60)
    assert "reading every 30 s for 30 min" not in caplog.text
    assert "max_readings_per_day leaves no room for that now" in caplog.text


@virtual
async def test_another_interval_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(
        tmp_path, SimulatedMeter(), "energy", active_interval_s=60, max_readings_per_day=500
    ) as work:
        await work.readouts(1)
        caplog.set_level("INFO")
        caplog.clear()
        work.poller.set_interval(1200)
        await asyncio.sleep(1)
    assert len(caplog.messages) == 1
    assert "reading every 20 min: 72 readings a day, about 18 h of battery life" in caplog.text


@virtual
async def test_a_meter_that_answers_no_registers_still_spends_the_budget(tmp_path: Path) -> None:
    simulated = Liar()
    simulated.deaf_to = GetRegisterRequest((60, 99, 1001))
    async with running(
        tmp_path, simulated, "energy", interval_s=60, max_readings_per_day=10
    ) as work:
        await asyncio.sleep(20 * HOUR)
        memory = json.loads(await work.history.setting("meter", "schedule") or "")
        assert 8 <= len(memory["asked"]) <= 10


@virtual
async def test_a_head_that_came_off_after_a_ping_is_no_sleeping_meter(tmp_path: Path) -> None:
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, "energy", interval_s=6 * HOUR, keep_awake=True) as work:
        await work.readouts(1)
        work.clock.set(0)
        while simulated.requests[-1] != GetSerialNoRequest():
            await asyncio.sleep(60)
        simulated.faults[Fault.SILENT] = 1.0
        work.poller.request()
        await asyncio.sleep(300)
        assert work.status.state is LinkState.SILENT


@virtual
async def test_eight_parameters_with_the_flow_among_them_take_one_telegram(tmp_path: Path) -> None:
    names = ("energy", "volume", "flow", "power", "temp1", "temp2", "tempdiff", "temp1xm3")
    simulated = SimulatedMeter()
    async with running(tmp_path, simulated, *names, active_interval_s=60) as work:
        await work.readouts(1)
        before = len(asked(simulated))
        await work.requested()
        assert len(asked(simulated)) - before == len(names)


@virtual
async def test_a_restart_does_not_read_again_for_what_the_meter_does_not_have(
    tmp_path: Path,
) -> None:
    clock, simulated = VirtualClock(), SimulatedMeter()
    for run_number in range(3):
        async with running(tmp_path, simulated, "energy", "0x10A", clock=clock) as work:
            await work.readouts(1)
            await asyncio.sleep(60)
            assert len(await work.readouts()) == 1
            if run_number == 0:
                before = len(simulated.requests)
    assert len(simulated.requests) == before


@virtual
async def test_what_the_disk_did_not_take_is_remembered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, full = History.set_setting, True

    async def fails(history: History, *what: str) -> bool:
        return False if full else await keep(history, *what)

    monkeypatch.setattr(History, "set_setting", fails)
    async with running(tmp_path, SimulatedMeter(), "energy", max_readings_per_day=9) as work:
        await work.readouts(1)
        await work.requested()
        full = False
        await asyncio.sleep(60)
        memory = json.loads(await work.history.setting("meter", "schedule") or "")
        assert len(memory["asked"]) == 2


@virtual
async def test_an_end_amid_the_start_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, latest = VirtualClock(), History.latest
    async with running(tmp_path, SimulatedMeter(), "energy", max_readings_per_day=3, clock=clock):
        await asyncio.sleep(60)

    async def slow(history: History, *what: Any) -> Any:
        await asyncio.sleep(5)
        return await latest(history, *what)

    monkeypatch.setattr(History, "latest", slow)
    async with running(
        tmp_path, SimulatedMeter(), "energy", max_readings_per_day=3, clock=clock
    ) as work:
        await asyncio.sleep(1)
        before = await work.history.setting("meter", "schedule")
    async with running(tmp_path, SimulatedMeter(), "energy", clock=clock) as work:
        assert await work.history.setting("meter", "schedule") == before
