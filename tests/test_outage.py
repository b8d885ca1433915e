"""Outages: what was read while the broker was away arrives later, in order, and only once."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp

from .gateway import Background, Broker, Message, log_until, next_of, stop, watching, write_config

EVERY_SECOND = ("poll_interval: 28", "poll_interval: 1s")
FEW = ("    - volume\n    - temp1\n    - temp2\n", "    - hourcounter\n    - 1002\n")


def stamps(messages: list[Message], topic: str) -> list[str]:
    return [json.loads(payload)["timestamp"] for t, payload, _ in messages if t == topic]


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_outage_loses_nothing_and_the_live_topic_gets_only_the_latest(
    mosquitto: Broker, background: Background, tmp_path: Path, qos: int
) -> None:
    broker = mosquitto()
    meter = SimulatedMeter()
    async with serve_tcp(meter) as port:
        config = write_config(
            tmp_path, broker.port, port, EVERY_SECOND, FEW, ("qos: 0", f"qos: {qos}")
        )
        gateway = background("run", "-c", str(config))
        async with watching(broker.port, "kamstrup/values") as live:
            await next_of(live, "kamstrup/values")
            await asyncio.to_thread(broker.stop)
        seen = len(meter.requests)
        while len(meter.requests) < seen + 6:
            await asyncio.sleep(0.1)
        await asyncio.to_thread(broker.start)
        heard: list[Message] = []
        async with watching(broker.port, "kamstrup/+") as messages:
            async with asyncio.timeout(60):
                while len(stamps(heard, "kamstrup/values")) < 3 or not stamps(
                    heard, "kamstrup/backlog"
                ):
                    heard.append(await messages.get())
        log = stop(gateway)
    late = stamps(heard, "kamstrup/backlog")
    values = stamps(heard, "kamstrup/values")
    assert late == sorted(set(late))
    assert len(late) >= 5
    assert values == sorted(set(values))
    assert values[0] >= late[-1]  # the latest only
    assert not any(kept for topic, _, kept in heard if topic == "kamstrup/backlog")
    assert log.count("Delivering readouts that were missed") == 1


async def test_a_kill_in_the_middle_of_an_outage_loses_nothing(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    """Every readout has a number of its own: the meter counts them in its hour counter."""
    broker = mosquitto()
    meter = SimulatedMeter()
    chance = random.Random(4)
    async with serve_tcp(meter) as port:
        config = write_config(tmp_path, broker.port, port, EVERY_SECOND, FEW, ("qos: 0", "qos: 1"))
        await asyncio.to_thread(broker.stop)
        written: list[str] = []
        for _ in range(6):
            gateway = background("run", "-c", str(config))
            await log_until(gateway, "answers, type")
            await asyncio.sleep(chance.uniform(0.3, 2.5))
            gateway.kill()
            await asyncio.to_thread(gateway.communicate)
        written = await rows(tmp_path / "config.history.db")
        await asyncio.to_thread(broker.start)
        async with watching(broker.port, "kamstrup/+") as messages:
            gateway = background("run", "-c", str(config))
            heard: list[Message] = []
            async with asyncio.timeout(60):
                while len(stamps(heard, "kamstrup/backlog")) < len(written) - 1:
                    heard.append(await messages.get())
            stop(gateway)
    late = [stamp[:19] for stamp in stamps(heard, "kamstrup/backlog")]
    assert late == written[:-1]
    assert stamps(heard, "kamstrup/values")[0][:19] == written[-1]  # the newest is live
    assert len(written) >= 6


async def rows(path: Path) -> list[str]:
    from kamstrup_mqtt.store import History

    history = History(path, 1e9)
    await history.open()
    try:
        return [
            one.readout.time.isoformat(timespec="seconds")[:19]
            for one in await history.after(0, 10_000)
        ]
    finally:
        await history.close()
