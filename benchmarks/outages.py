"""An hour of a gateway's bad days: outages, a disk that fills, a history that goes, a set clock.

Each readout is to arrive once, on `values` or on `backlog`.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import aiomqtt

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.conftest import Clock
from tests.wire import Heard, Wire

from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp

SETTLED_S = 0.3  # in which a broker confirms what it got


class House:
    """A gateway with a disk, a clock and a wire of its own."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.heard = Heard()
        self.did: Counter[str] = Counter()
        self.disk = folder / "disk"
        self.clock = Clock(folder)
        self._chance = chance
        self._folder = folder
        self._ahead_s = 0.0

    async def outage(self, wire: Wire) -> None:
        """The broker is away, for one readout or for many."""
        await asyncio.sleep(SETTLED_S)
        wire.cut()
        await asyncio.sleep(self._chance.choice([1.0, 1.0, 2.0, 6.0]))
        wire.mend()

    async def full(self, wire: Wire) -> None:
        """The disk is full for ten readouts, and the broker reconnects meanwhile."""
        with contextlib.suppress(OSError), (self.disk / "fill").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        await asyncio.sleep(4)
        await self.outage(wire)
        await asyncio.sleep(4)
        (self.disk / "fill").unlink()

    async def gone(self, _wire: Wire) -> None:
        """The history is deleted."""
        (self.disk / "history.db").unlink(missing_ok=True)
        await asyncio.sleep(1)

    async def set_clock(self, _wire: Wire) -> None:
        """The clock is set by seconds to years."""
        by = 10.0 ** self._chance.uniform(0.5, 8)
        self._ahead_s = by * self._chance.choice([-1, 1])
        self.clock.set(self._ahead_s)

    async def live(self, days: int, broker: int, command: list[str]) -> None:
        """Have a gateway go through so many bad things."""

        async def listen(client: aiomqtt.Client) -> None:
            async for message in client.messages:
                if str(message.topic).rpartition("/")[2] in ("values", "backlog"):
                    self.heard.take(str(message.topic), str(message.payload, "utf-8"))

        config = self._folder / "config.yaml"
        async with (
            serve_tcp(SimulatedMeter()) as port,
            Wire(broker).laid() as wire,
            aiomqtt.Client("127.0.0.1", broker) as client,
        ):
            await client.subscribe("kamstrup/+", qos=1)
            listener = asyncio.create_task(listen(client))
            content = {
                "mqtt": {"host": "127.0.0.1", "port": wire.port, "qos": 1},
                "history": {"path": str(self.disk / "history.db")},
                "serial_device": {"com_port": port},
                "kamstrup": {"parameters": ["energy"], "poll_interval": "1s"},
            }
            config.write_text(json.dumps(content))
            gateway = subprocess.Popen(
                [*command, config], stderr=subprocess.DEVNULL, env=os.environ | self.clock.env
            )
            await asyncio.sleep(5)
            deeds = [self.outage] * 4 + [self.full, self.gone, self.set_clock]
            for _ in range(days):
                deed = self._chance.choice(deeds)
                self.did[deed.__name__] += 1
                await deed(wire)
                await asyncio.sleep(self._chance.uniform(2, 5))
            self.clock.set(0)
            await asyncio.sleep(25)
            gateway.send_signal(signal.SIGTERM)
            gateway.wait(10)
            await asyncio.sleep(1)
            listener.cancel()


async def outage_campaign(days: int, seed: int, broker: int, gateway: list[str]) -> bool:
    """So many bad things in a row; as root, for the disk is one of its own.

    Args:
        days: how many.
        seed: what they are.
        broker: the port of a broker that stays.
        gateway: the command, without its configuration.

    """
    with tempfile.TemporaryDirectory() as name:
        house = House(Path(name), random.Random(seed))
        house.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", house.disk], check=True)
        try:
            await house.live(days, broker, gateway)
        finally:
            subprocess.run(["umount", "-l", house.disk], check=True)
    counts = Counter(house.heard.all)
    lost = len(set(range(1, max(counts) + 1)) - set(counts))
    twice = sum(count > 1 for count in counts.values())
    unordered = house.heard.late != sorted(house.heard.late)
    did = ", ".join(f"{count} {what}" for what, count in sorted(house.did.items()))
    print(
        f"delivery: {len(counts)} readouts over {did}; {len(house.heard.late)} late, {lost} lost, "
        f"{twice} twice, {'not ' if unordered else ''}in order"
    )
    return lost == twice == unordered == 0
