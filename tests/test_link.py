"""Ports that cannot be opened: what is said, and what to check."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kamstrup_mqtt import MeterSession, NoAnswerError, PortError, open_meter
from kamstrup_mqtt.meter import port
from kamstrup_mqtt.meter.probe import Probe
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, Sink, Source, serve_pty

from .conftest import Server
from .virtual import VirtualLink, virtual


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("/dev/ttyNOTTHERE", "does not exist"),
        ("/dev/null", "no serial port"),
        ("/tmp", "no serial port"),
        ("socket://127.0.0.1:1", "refused"),
        ("socket://127.0.0.1", "host:port"),
        ("socket://127.0.0.1:99999", "host:port"),
        ("socket://no-such-host.invalid:4000", "cannot be reached"),
        ("sokcet://127.0.0.1:4000", "unknown"),
        ("rfc2217://127.0.0.1:1", "refused"),
    ],
)
async def test_a_port_that_cannot_be_opened_says_what_to_check(port: str, said: str) -> None:
    with pytest.raises(PortError, match=said) as caught:
        async with open_meter(port):
            pass
    assert "\n" not in str(caught.value)
    assert port in str(caught.value)


async def test_a_port_that_another_program_reads_is_in_use() -> None:
    async with serve_pty(SimulatedMeter()) as path, open_meter(path):
        with pytest.raises(PortError, match="in use"):
            async with open_meter(path):
                pass


async def test_who_holds_the_port_is_named() -> None:
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(); time.sleep(60)"
    )
    async with serve_pty(SimulatedMeter()) as path:
        other = subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE)
        assert other.stdout is not None
        await asyncio.to_thread(other.stdout.readline)
        with pytest.raises(PortError, match=rf"in use: stop 'python.*' \(process {other.pid}\)"):
            async with open_meter(path):
                pass
        other.kill()
        await asyncio.to_thread(other.communicate)


class Bridge(VirtualLink):
    """The first connection leads nowhere, as when a bridge lost its power; the second works."""

    async def talk(self, source: Source, sink: Sink) -> None:
        if self.connection > 1:
            await super().talk(source, sink)


@virtual
async def test_a_connection_that_died_without_a_word_is_made_anew() -> None:
    link = Bridge(SimulatedMeter())
    meter = MeterSession(link)
    with pytest.raises(NoAnswerError):
        await meter.read("energy")
    assert (await meter.read("energy"))["energy"].unit == "GJ"
    assert link.connection == 2


@virtual
async def test_after_a_silence_another_meter_is_known_by_its_own_number() -> None:
    simulated = SimulatedMeter(serial=1)
    meter = MeterSession(VirtualLink(simulated))
    assert (await meter.read("energy")).meter.serial == "1"
    simulated.faults[Fault.SILENT] = 1.0  # the head is moved over
    with pytest.raises(NoAnswerError):
        await meter.read("energy")
    simulated.faults.clear()
    simulated.serial = 2
    assert (await meter.read("energy")).meter.serial == "2"


@pytest.mark.parametrize(
    "claim",
    [
        "fcntl.lockf(f, fcntl.LOCK_EX)",
        "fcntl.ioctl(f, termios.TIOCEXCL)",
        "open(lock, 'w').write(f'{os.getpid():10}\\n')",
    ],
)
async def test_every_way_to_claim_a_port_is_respected(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record lock and exclusive mode do not keep root out, and a lock file nobody."""
    monkeypatch.setattr(port, "LOCK_FOLDERS", (tmp_path,))
    async with serve_pty(SimulatedMeter()) as path:
        hold = (
            "import fcntl, os, sys, termios, time; f = open(sys.argv[1], 'r+b', 0); "
            f"lock = {str(tmp_path / 'LCK..')!r} + os.path.basename(sys.argv[1]); {claim}; "
            "print(flush=True); time.sleep(60)"
        )
        other = subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE)
        assert other.stdout is not None
        await asyncio.to_thread(other.stdout.readline)
        with pytest.raises(PortError, match=r"in use: stop 'python.*'") as caught:
            async with open_meter(path):
                pass
        assert caught.value.kind == "port_busy"
        other.kill()
        await asyncio.to_thread(other.communicate)


async def test_a_second_reader_is_told_what_ser2net_says(ser2net: Callable[..., Server]) -> None:
    async with serve_pty(SimulatedMeter()) as device:
        server = await asyncio.to_thread(ser2net, device)
        url = f"socket://127.0.0.1:{server.port}"
        async with open_meter(url) as first, Probe(url) as second:
            assert len(await first.read("energy")) == 1
            with pytest.raises(PortError, match="ser2net serves one program at a time") as caught:
                await second.ask()
        assert caught.value.kind == "port_busy"
