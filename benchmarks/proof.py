"""Proof, with a fixed seed, that nothing is wrong and nothing is lost: `make proof`.

Five campaigns on real parts: telegrams with every fault, a gateway that is killed again and again
while its broker comes and goes, one whose broker, disk, history and clock fail, a day of minutes on
a fast clock, and a year of minutes in the history. Each prints what was counted; the exit status is
1 when one of them failed.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import aiomqtt
from outages import outage_campaign

from kamstrup_mqtt import KamstrupError, Readout
from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS, register_numbers
from kamstrup_mqtt.consumption import Archive, local_zone
from kamstrup_mqtt.meter import open_meter
from kamstrup_mqtt.simulator import Fault, SimulatedMeter, past, serve_tcp
from kamstrup_mqtt.store import History

SEED = 20261124
TELEGRAMS = 10_000
LINES = 60  # at a time, because most faults cost seconds of waiting
KILLS = 200
BAD_DAYS = 60
MINUTES = 1440
PACE = 100.0
ZONE = "Europe/Amsterdam"
SUMMER_NOON = "2026-10-24 12:00:00"  # and the next night summer time ends
GATEWAY = [sys.executable, "-m", "kamstrup_mqtt", "run", "-c"]


async def fault_campaign(telegrams: int) -> bool:
    """Every fault mixed, on many lines at once; each value is compared with what the meter has."""
    count = dict.fromkeys(("telegrams", "readouts", "failed", "values", "missing", "wrong"), 0)

    async def line(number: int) -> None:
        faults = dict.fromkeys(Fault, 0.05)
        del faults[Fault.ASLEEP]  # never ends by itself; SILENT is the same for a while
        del faults[Fault.STRANGE_VALUES]  # no fault of the line: it is what the meter said
        simulated = SimulatedMeter("402", number, faults, SEED + number, speed=0.0)
        true = {one.register: one.value for one in simulated.measure(simulated.registers)}
        async with serve_tcp(simulated) as port, open_meter(port) as meter:
            done = 0
            while count["telegrams"] < telegrams:
                try:
                    readout = await meter.read(sorted(simulated.registers))
                except KamstrupError:
                    count["failed"] += 1
                else:
                    count["readouts"] += 1
                    count["missing"] += len(readout.missing)
                    for reading in readout:
                        count["values"] += 1
                        count["wrong"] += reading.value != true[reading.register]
                count["telegrams"] += meter.counters.telegrams - done
                done = meter.counters.telegrams

    await asyncio.gather(*(line(number) for number in range(LINES)))
    print("faults:", ", ".join(f"{value} {name}" for name, value in count.items()))
    return count["wrong"] == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A real Mosquitto."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self._config)], stderr=subprocess.DEVNULL,
            env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin"},
        )  # fmt: skip
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def configure(
    folder: Path, broker: Broker, port: str, interval: str,
    parameters: str = "[energy, power, volume]",
) -> Path:  # fmt: skip
    config = folder / "config.yaml"
    config.write_text(
        f"mqtt: {{host: 127.0.0.1, port: {broker.port}, qos: 1}}\n"
        f'serial_device: {{com_port: "{port}"}}\n'
        f"kamstrup: {{parameters: {parameters}, poll_interval: {interval}}}\n"
    )
    return config


async def kill_campaign(kills: int) -> bool:
    """Kill the gateway at random moments, broker away or not, and count what arrives."""
    chance = random.Random(SEED)
    got: list[tuple[str, str]] = []

    async def listen() -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1", broker.port, identifier="listener", clean_session=False
                ) as client:
                    await client.subscribe("kamstrup/+", qos=1)
                    async for message in client.messages:
                        name = str(message.topic).rpartition("/")[2]
                        if name in ("values", "backlog"):
                            stamp = json.loads(str(message.payload, "utf-8"))["timestamp"]
                            got.append((name, stamp[:19]))
            await asyncio.sleep(0.02)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder)
        simulated = SimulatedMeter()
        async with serve_tcp(simulated) as port:
            config = configure(folder, broker, port, "1s")
            listener = asyncio.create_task(listen())
            for number in range(kills):
                if number % 20 == 10:
                    await broker.start()
                if number % 20 == 14:
                    broker.stop()
                gateway = subprocess.Popen([*GATEWAY, config], stderr=subprocess.DEVNULL)
                await asyncio.sleep(chance.uniform(0.5, 2.5))
                gateway.kill()
                gateway.wait()
            await broker.start()
            await asyncio.sleep(1)
            gateway = subprocess.Popen([*GATEWAY, config], stderr=subprocess.DEVNULL)
            await asyncio.sleep(20)
            gateway.send_signal(signal.SIGTERM)
            gateway.wait()
            await asyncio.sleep(1)
            listener.cancel()
            broker.stop()
        history = History(folder / "config.history.db", 1e9)
        await history.open()
        readouts = [one.readout for one in await history.after(0, 1_000_000)]
        await history.close()
    # Two readouts may be of one second, for the first one of each run is at its start.
    taken = Counter(readout.time.isoformat()[:19] for readout in readouts)
    late = [stamp for name, stamp in got if name == "backlog"]
    lost = (taken - Counter(stamp for _, stamp in got)).total()
    twice = (Counter(late) - taken).total()
    swapped, seen = 0, set[str]()
    for before, after in pairwise(late):
        seen.add(before)
        swapped += after < before and after not in seen  # unlike one that is delivered again
    print(
        f"kills: {kills}, {taken.total()} readouts, {len(late)} of them late, {lost} lost, "
        f"{swapped} out of order, {twice} delivered twice"
    )
    return lost == swapped == 0


async def day_campaign(minutes: int) -> bool:
    """A day of minutes on a clock that runs a hundred times as fast, begun at noon.

    The day is the one on which summer time ends; the house lives at the same pace.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder)
        await broker.start()
        simulated = SimulatedMeter(speed=PACE)
        async with serve_tcp(simulated) as port:
            config = configure(folder, broker, port, "1m", "all")
            gateway = subprocess.Popen(
                [*GATEWAY, config], stderr=subprocess.DEVNULL, env=fast_clock(SUMMER_NOON)
            )
            stamps, memory, counters = [], 0, {"bytes": 0}
            async with aiomqtt.Client("127.0.0.1", broker.port) as client:
                await client.subscribe([("kamstrup/values", 1), ("kamstrup/state", 1)])
                async for message in client.messages:
                    content = json.loads(str(message.payload, "utf-8"))
                    if str(message.topic) == "kamstrup/state":
                        counters = content["counters"]
                        continue
                    stamps.append(datetime.fromisoformat(content["timestamp"]))
                    if len(stamps) == 60:
                        memory = resident(gateway.pid)
                    if len(stamps) > minutes:
                        break
            grown = resident(gateway.pid) - memory
            gateway.send_signal(signal.SIGTERM)
            gateway.wait()
        naive = minutes * await everything()
        broker.stop()
    # The first reading is at the start; how late the others are is this machine's doing.
    steps = [round((b - a).total_seconds() / 60) for a, b in pairwise(stamps[1:])]
    missed = sum(step != 1 for step in steps)
    print(
        f"day: {len(stamps)} readouts of all registers, {missed} minutes missed, "
        f"{counters['bytes'] / naive:.0%} of the bytes of who asks for everything each time, "
        f"{memory} kB resident after an hour, {grown:+} kB since"
    )
    return grown < 1024 and missed == 0 and counters["bytes"] <= 0.45 * naive


async def everything() -> int:
    """The bytes it takes to ask for all that the meter has."""
    simulated = SimulatedMeter()
    async with serve_tcp(simulated) as port, open_meter(port) as meter:
        await meter.read(["energy"])
        before = meter.counters.bytes
        await meter.read(sorted(simulated.registers))
        return meter.counters.bytes - before


def fast_clock(begin: str) -> dict[str, str]:
    """The environment in which a program's clocks run fast, from `begin` on."""
    told = subprocess.run(
        ["faketime", "-f", f"@{begin} x{PACE:.0f}", "env"],
        check=True, capture_output=True, text=True, env=os.environ | {"TZ": ZONE},
    )  # fmt: skip
    pairs = dict(line.partition("=")[::2] for line in told.stdout.splitlines())
    pairs.pop("FAKETIME_SHARED", None)  # of the program that printed it
    return pairs


def resident(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


async def year_campaign(every: timedelta) -> bool:
    """A year of the usual parameters: what it takes, and that its months add up to the digit."""
    end = datetime.now(local_zone()).replace(minute=0, second=0, microsecond=0)
    begin = end - timedelta(days=365)
    counters: dict[datetime, Decimal] = {}

    def noted(readouts: Iterator[Readout]) -> Iterator[tuple[str, Readout]]:
        for readout in readouts:
            counters[readout.time] = Decimal(readout["energy"].text)
            yield "meter", readout

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "history.db")
        history = History(path, 1e9)
        await history.open()
        meter, registers = SimulatedMeter(), register_numbers(CLASSIC_PARAMETERS)
        count, _ = await history.take_in(noted(past(meter, registers, begin, end, every)))
        await history.close()
        size = path.stat().st_size
        with Archive(path) as archive:
            _, months = archive.used("meter", 60, begin, end, "month")
            drawn = {}
            for by in ("hour", "day", "month"):
                first = end - timedelta(days=62) if by == "hour" else begin
                started = time.perf_counter()
                archive.used("meter", 60, first, end, by)
                drawn[by] = (time.perf_counter() - started) * 1000
    whole = [period for period in months.periods if period.complete]
    wrong = sum(period.used != counters[period.end] - counters[period.begin] for period in whole)
    print(
        f"year: {count} readouts of {len(registers)} parameters, {size / 1e6:.0f} MB, "
        f"{size / count:.0f} bytes each, {len(whole)} whole months, {wrong} wrong; drawn in "
        + ", ".join(f"{took:.0f} ms by {by}" for by, took in drawn.items())
    )
    return wrong == 0 and len(whole) >= 11 and size < 250e6


async def main() -> None:
    # A library that lost its broker; what matters of that is in the counts.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    began = time.monotonic()
    wanted = sys.argv[1:] or ["faults", "kills", "delivery", "day", "year"]
    fine = True
    if "faults" in wanted:
        fine &= await fault_campaign(TELEGRAMS)
    if "kills" in wanted:
        fine &= await kill_campaign(KILLS)
    if "delivery" in wanted:
        with tempfile.TemporaryDirectory() as folder:
            broker = Broker(Path(folder))
            await broker.start()
            fine &= await outage_campaign(BAD_DAYS, SEED, broker.port, GATEWAY)
            broker.stop()
    if "day" in wanted:
        fine &= await day_campaign(MINUTES)
    if "year" in wanted:
        fine &= await year_campaign(timedelta(minutes=1))
    print(f"{'proved' if fine else 'FAILED'} in {time.monotonic() - began:.0f} s")
    sys.exit(not fine)


if __name__ == "__main__":
    asyncio.run(main())
