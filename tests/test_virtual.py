"""The virtual loop, clock and line: hours pass at once, and nothing is waited for in vain."""

import asyncio
import time

import pytest

from kamstrup_mqtt import MeterSession, PortError
from kamstrup_mqtt.kmp import BYTE_S
from kamstrup_mqtt.simulator import Line, SimulatedMeter

from .virtual import StuckError, VirtualClock, VirtualLink, VirtualLoop, virtual


@virtual
async def test_a_year_passes_at_once_in_the_right_order() -> None:
    order: list[str] = []

    async def note(after_s: float, name: str) -> None:
        await asyncio.sleep(after_s)
        order.append(name)

    begun = asyncio.get_running_loop().time()
    await asyncio.gather(note(365 * 86400.0, "year"), note(0.001, "moment"), note(60, "minute"))
    assert order == ["moment", "minute", "year"]
    assert asyncio.get_running_loop().time() == pytest.approx(begun + 365 * 86400)


@virtual
async def test_the_wall_clock_passes_with_the_loop_and_may_be_set() -> None:
    clock = VirtualClock()
    before = clock()
    await asyncio.sleep(3600)
    assert clock().wall - before.wall == clock().monotonic - before.monotonic == 3600
    clock.set(-86400)
    assert clock().wall - before.wall == 3600 - 86400
    assert clock().monotonic == asyncio.get_running_loop().time()


@virtual
async def test_work_for_a_thread_is_done_at_once() -> None:
    begun = asyncio.get_running_loop().time()
    assert await asyncio.to_thread(time.thread_time_ns) > 0
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(divmod, 1, 0)
    assert asyncio.get_running_loop().time() == begun


def test_what_waits_for_ever_is_told() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
        pytest.raises(StuckError, match=r"nothing will ever happen: .*wait_for_nobody"),
    ):
        runner.run(wait_for_nobody())


@virtual
async def test_a_paced_line_takes_the_time_of_a_real_one() -> None:
    loop = asyncio.get_running_loop()
    link = VirtualLink(SimulatedMeter(), Line(pace=True, echo=True, turnaround_s=0.1))
    passed: list[tuple[float, int]] = []
    link.tap = lambda _direction, data: passed.append((loop.time(), len(data)))
    await MeterSession(link).read(["energy"])
    (asked, size), *heard = passed[:8]
    assert [(round((at - asked) / BYTE_S, 3), count) for at, count in heard[:size]] == [
        (float(number), 1) for number in range(1, size + 1)
    ]
    assert heard[size][0] - heard[size - 1][0] == pytest.approx(0.1 + BYTE_S)


@virtual
async def test_a_plug_that_is_pulled() -> None:
    link = VirtualLink(SimulatedMeter())
    session = MeterSession(link)
    await session.read(["energy"])
    link.unplug()
    assert not link.is_open
    with pytest.raises(PortError, match="plug the head in"):
        await session.read(["energy"])
    link.plug()
    assert len(await session.read(["energy"])) == 1
    assert link.connection == 2


@virtual
async def test_a_plug_is_pulled_while_an_answer_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    link = VirtualLink(SimulatedMeter(), Line(turnaround_s=1.0))
    await link.open()
    loop.call_later(0.5, link.unplug)
    begun = loop.time()
    with pytest.raises(PortError):
        await link.read(until=begun + 10)
    assert loop.time() == begun + 0.5
