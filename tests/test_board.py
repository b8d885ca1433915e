"""The board: what is new, followed by whoever was away."""

import asyncio
from datetime import UTC, datetime

from kamstrup_mqtt import MeterIdentity, Readout
from kamstrup_mqtt.store import Board


def readout(serial: str) -> Readout:
    return Readout(MeterIdentity(serial), datetime.now(UTC), {}, {})


async def test_a_follower_waits_for_news_and_goes_on_from_its_cursor() -> None:
    board: Board[Readout] = Board()
    waiting = asyncio.create_task(board.after(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    board.put("a", readout("1"))
    (entry,) = await waiting
    assert (entry.meter, entry.content.meter.serial) == ("a", "1")
    late = asyncio.create_task(board.after(entry.sequence))
    await asyncio.sleep(0)
    assert not late.done()
    board.put("b", readout("2"))
    assert [entry.meter for entry in await late] == ["b"]


async def test_the_live_topic_gets_the_latest_of_each_meter_in_their_order() -> None:
    board: Board[Readout] = Board()
    for meter, serial in (("a", "1"), ("b", "2"), ("a", "3")):
        board.put(meter, readout(serial))
    assert [(e.meter, e.content.meter.serial) for e in await board.after(0)] == [
        ("b", "2"),
        ("a", "3"),
    ]
