"""How a simulated meter talks at its end of a line: paced, with an echo, hanging up, flooding.

With pacing, every byte takes its time on a 1200 baud line, in both directions. What carries the
bytes, a socket or a pseudo terminal, is not known here.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Protocol

from kamstrup_mqtt.kmp import BYTE_S, Direction, Frame, FrameReader, encode_frame
from kamstrup_mqtt.simulator.faults import Reaction

_FLOOD_CHUNK = 256


class Meter(Protocol):
    """What can be served: a simulated meter, or one that repeats a capture."""

    def react(self, frame: Frame, now: float) -> Reaction:
        """What happens when the request `frame` arrives at `now`."""


@dataclass(frozen=True, slots=True)
class Line:
    """How the line to the simulated meter behaves.

    Args:
        pace: whether bytes take their time at 1200 baud.
        echo: whether the head shows the reader its own request, as most do.
        turnaround_s: how long the meter thinks before it answers.

    """

    pace: bool = False
    echo: bool = False
    turnaround_s: float = 0.0


class Source(Protocol):
    """Where requests come from, such as an `asyncio.StreamReader`."""

    async def read(self, most: int, /) -> bytes:
        """What came, once something did; b"" at the end."""


class Sink(Protocol):
    """Where answers go, such as an `asyncio.StreamWriter`."""

    def write(self, data: bytes, /) -> None:
        """Send `data`."""

    async def drain(self) -> None:
        """Wait until it may be written on. Raises ConnectionError when nobody is there."""

    def close(self) -> None:
        """Hang up."""


async def converse(meter: Meter, line: Line, source: Source, sink: Sink) -> None:
    """Answer requests until the other side, or the meter, hangs up."""
    frames = FrameReader()
    reaction: asyncio.Task[bool] | None = None
    with contextlib.suppress(ConnectionError):
        while data := await source.read(4096):
            for found in frames.feed(data):
                if isinstance(found, Frame) and found.direction is Direction.REQUEST:
                    if reaction is not None:
                        reaction.cancel()  # a new request ends a flood
                    reaction = asyncio.create_task(_react(meter, line, found, sink))
    if reaction is not None:
        reaction.cancel()
        await asyncio.gather(reaction, return_exceptions=True)
    sink.close()


async def _react(meter: Meter, line: Line, request: Frame, sink: Sink) -> bool:
    loop = asyncio.get_running_loop()
    now = loop.time()
    raw = encode_frame(request)
    if line.echo:
        await _send(sink, raw, now, pace=line.pace)
    answering = now + len(raw) * BYTE_S * line.pace + line.turnaround_s
    await asyncio.sleep(answering - loop.time())
    reaction = meter.react(request, now)
    if reaction.echo and not line.echo:
        await _send(sink, raw, now, pace=line.pace)
    await _send(sink, reaction.answer, answering, pace=line.pace)
    while reaction.flood:
        await _send(sink, random.randbytes(_FLOOD_CHUNK), loop.time(), pace=line.pace)
        await asyncio.sleep(0)
    if reaction.hang_up:
        sink.close()
    return reaction.hang_up


async def _send(sink: Sink, data: bytes, begin: float, *, pace: bool) -> None:
    """Send `data`; paced, each byte is complete a byte time after the one before it."""
    if not pace:
        sink.write(data)
    else:
        loop = asyncio.get_running_loop()
        for index, byte in enumerate(data, start=1):
            await asyncio.sleep(begin + index * BYTE_S - loop.time())
            sink.write(bytes((byte,)))
    await sink.drain()
