"""The history: appended once, followed by whoever was away."""

import asyncio
from datetime import UTC, datetime

from kamstrup_mqtt import MeterIdentity, Readout
from kamstrup_mqtt.store import History


def readout(serial: str) -> Readout:
    return Readout(MeterIdentity(serial), datetime.now(UTC), {}, {})


async def test_a_follower_waits_for_news_and_goes_on_from_its_cursor() -> None:
    history = History()
    waiting = asyncio.create_task(history.after(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    history.append("a", readout("1"))
    (entry,) = await waiting
    assert (entry.meter, entry.readout.meter.serial) == ("a", "1")
    late = asyncio.create_task(history.after(entry.sequence))
    await asyncio.sleep(0)
    assert not late.done()
    history.append("b", readout("2"))
    assert [entry.meter for entry in await late] == ["b"]


async def test_the_live_topic_gets_the_latest_of_each_meter_in_their_order() -> None:
    history = History()
    for meter, serial in (("a", "1"), ("b", "2"), ("a", "3")):
        history.append(meter, readout(serial))
    assert [(e.meter, e.readout.meter.serial) for e in await history.after(0)] == [
        ("b", "2"),
        ("a", "3"),
    ]
