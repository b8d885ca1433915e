"""`align`: what is seen while a head is moved."""

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import Callable
from contextlib import suppress

import pytest

from kamstrup_mqtt.meter.alignment import ENOUGH, LONGEST_S, Alignment, View, align
from kamstrup_mqtt.meter.probe import Seen
from kamstrup_mqtt.simulator import Fault, Line, SimulatedMeter, serve_tcp

from .conftest import COMMAND, kamstrup_mqtt
from .test_doctor import NoMeter
from .virtual import VirtualLink, virtual

Background = Callable[..., subprocess.Popen[str]]


def shown(*seen: Seen, step_s: float = 0.5) -> View:
    alignment = Alignment()
    for number, one in enumerate(seen):
        view = alignment.add(one, number * step_s)
    return view


def test_quality_is_the_share_of_the_last_seconds() -> None:
    assert shown(Seen.GOOD, Seen.NOTHING).quality == 50
    view = shown(*[Seen.GOOD] * 10, *[Seen.NOTHING] * 30)
    assert (view.quality, view.best) == (0, 100)


def test_a_move_is_felt_before_there_is_a_good_answer() -> None:
    assert shown(*[Seen.NOTHING] * 10, *[Seen.BAD_CRC] * 6).trend == 1
    assert shown(*[Seen.GOOD] * 10, *[Seen.NOISE] * 6).trend == -1
    assert shown(*[Seen.NOISE] * 16).trend == 0


def test_enough_good_answers_in_a_row() -> None:
    assert not shown(*[Seen.GOOD] * 19).done
    assert shown(*[Seen.GOOD] * 20).done
    assert not shown(*[Seen.GOOD] * 19, Seen.BAD_CRC, *[Seen.GOOD] * 19).done


def test_the_next_move_changes_until_something_is_heard() -> None:
    hints = [shown(*[Seen.NOTHING] * count, step_s=2).hint for count in (1, 10, 20, 40)]
    assert len(set(hints)) == 4
    assert "press a key" in hints[0]


@pytest.mark.parametrize(
    ("faults", "seen"),
    [
        ({Fault.SILENT: 1.0}, "nothing"),
        ({Fault.ECHO_ONLY: 1.0}, "echo"),
        ({Fault.BAD_CRC: 1.0}, "bad_crc"),
        ({Fault.TRUNCATED: 1.0}, "noise"),
        ({Fault.OTHER_PROGRAM: 1.0}, "noise"),
        ({}, "good"),
    ],
)
@virtual
async def test_situations_are_told_apart_at_once(faults: dict[Fault, float], seen: str) -> None:
    views = align(VirtualLink(SimulatedMeter(faults=faults, seed=3)))
    first = await anext(views)
    assert first.seen == seen
    assert first.quality == (100 if seen == "good" else 0)


async def test_each_question_is_a_line_of_json(background: Background) -> None:
    async with serve_tcp(SimulatedMeter(faults={Fault.BAD_CRC: 1.0}, seed=3)) as url:
        process = background("align", url, "--json")
        assert process.stdout is not None
        first = json.loads(await asyncio.to_thread(process.stdout.readline))
        process.kill()
    assert first["seen"] == "bad_crc"
    assert first["quality"] == 0


@virtual
async def test_noise_is_not_taken_for_damaged_answers() -> None:
    seen = [view.seen async for view in align(VirtualLink(NoMeter(seed=1)), longest_s=60)]
    assert len(seen) > 10
    assert set(seen) == {Seen.NOISE}


async def test_a_good_place_ends_it_with_status_0_and_the_cost() -> None:
    meter = SimulatedMeter()
    async with serve_tcp(meter, line=Line(echo=True)) as url:
        done = await asyncio.to_thread(kamstrup_mqtt, "align", url, "--plain", "--sound")
    assert done.returncode == 0
    assert "100 % |####################|" in done.stdout
    assert "The head sits well" in done.stdout
    assert "battery life" in done.stdout
    assert done.stderr.count("\a") == ENOUGH
    assert len(meter.requests) == ENOUGH


@virtual
async def test_it_ends_by_itself() -> None:
    link = VirtualLink(SimulatedMeter(faults={Fault.BAD_CRC: 0.5}, seed=1))
    begun = asyncio.get_running_loop().time()
    views = [view async for view in align(link)]
    assert LONGEST_S < asyncio.get_running_loop().time() - begun < LONGEST_S + 5
    assert len(views) > 100
    assert not views[-1].done
    assert not link.is_open


@virtual
async def test_a_drifting_head_goes_from_good_over_damage_to_nothing() -> None:
    meter = SimulatedMeter(seed=5)
    seen = {}
    for away in (0.0, 0.5, 0.8, 1.0):
        meter.place_head(away)
        seen[away] = [view.seen async for view in align(VirtualLink(meter), longest_s=9)]
    assert set(seen[0.0]) == {Seen.GOOD}
    assert Seen.BAD_CRC in seen[0.5]
    assert Seen.NOISE in seen[0.8]
    assert set(seen[1.0]) == {Seen.NOTHING}


@virtual
async def test_a_plug_that_is_pulled_is_waited_for() -> None:
    link = VirtualLink(SimulatedMeter())
    seen: list[Seen] = []
    async for view in align(link):
        seen.append(view.seen)
        if len(seen) == 5:
            link.unplug()
        elif len(seen) == 10:
            link.plug()
    assert seen == [*[Seen.GOOD] * 5, *[Seen.NOTHING] * 5, *[Seen.GOOD] * ENOUGH]


async def test_ctrl_c_gives_the_verdict() -> None:
    async with serve_tcp(SimulatedMeter(faults={Fault.ECHO_ONLY: 1.0})) as url:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "align", url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert b"only our own echo" in await process.stdout.readline()
        process.send_signal(2)
        _, errors = await process.communicate()
    assert process.returncode == 3
    assert b"hears only itself" in errors
    assert b"Traceback" not in errors


async def test_the_live_view_fills_a_terminal() -> None:
    async with serve_tcp(SimulatedMeter()) as url:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "align", url, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        )  # fmt: skip
        os.close(theirs)
        screen = b""
        while b"in a row: 3 of" not in screen:
            screen += await asyncio.to_thread(os.read, ours, 4096)
        process.send_signal(2)
        with suppress(OSError):  # how a pseudo terminal ends
            while data := await asyncio.to_thread(os.read, ours, 4096):
                screen += data
        os.close(ours)
        assert await process.wait() == 4
    text = screen.decode()
    assert "100 % good" in text
    assert "█" in text
    assert "best so far: 100 %" in text
    assert "never 20 good answers in a row; at best 100 % were good" in text


def test_a_port_that_is_not_there_is_status_5() -> None:
    done = kamstrup_mqtt("align", "socket://127.0.0.1:1", "--json")
    assert done.returncode == 5
    assert done.stdout == ""
