"""Puts a simulated meter where a reader can reach it: on TCP, as behind ser2net, or on a pty.

With pacing, every byte takes its time on a 1200 baud line, in both directions.
"""

import asyncio
import contextlib
import os
import random
import tty
from collections.abc import AsyncIterator
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


@contextlib.asynccontextmanager
async def serve_tcp(
    meter: Meter, host: str = "127.0.0.1", port: int = 0, line: Line | None = None
) -> AsyncIterator[str]:
    """Serve `meter` on TCP and yield its URL, such as socket://127.0.0.1:4001.

    Raises:
        OSError: the address cannot be bound.

    """
    connections: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer] = asyncio.get_running_loop().create_future()
        try:
            await _converse(meter, line or Line(), reader, writer)
        finally:
            connections.pop(writer).set_result(None)

    server = await asyncio.start_server(connected, host, port)
    bound = server.sockets[0].getsockname()
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    try:
        yield f"socket://{shown}:{bound[1]}"
    finally:
        server.close()
        ended = list(connections.values())
        for writer in connections:
            writer.transport.abort()
        await asyncio.gather(*ended)


@contextlib.asynccontextmanager
async def serve_pty(meter: Meter, line: Line | None = None) -> AsyncIterator[str]:
    """Serve `meter` on a new pseudo terminal and yield its path. It cannot hang up."""
    loop = asyncio.get_running_loop()
    ours, theirs = os.openpty()  # theirs stays open here too, so that readers may come and go
    tty.setraw(theirs)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    source, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(ours, "rb", 0))
    sink, _ = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(os.dup(ours), "wb", 0)
    )
    writer = asyncio.StreamWriter(sink, protocol, reader, loop)
    task = asyncio.create_task(_converse(meter, line or Line(), reader, writer))
    try:
        yield os.ttyname(theirs)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        source.close()
        sink.abort()
        os.close(theirs)


async def _converse(
    meter: Meter, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer requests until the other side, or the meter, hangs up."""
    frames = FrameReader()
    reaction: asyncio.Task[bool] | None = None
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4096):
            for found in frames.feed(data):
                if isinstance(found, Frame) and found.direction is Direction.REQUEST:
                    if reaction is not None:
                        reaction.cancel()  # a new request ends a flood
                    reaction = asyncio.create_task(_react(meter, line, found, writer))
    if reaction is not None:
        reaction.cancel()
        await asyncio.gather(reaction, return_exceptions=True)
    writer.close()


async def _react(meter: Meter, line: Line, request: Frame, writer: asyncio.StreamWriter) -> bool:
    loop = asyncio.get_running_loop()
    now = loop.time()
    raw = encode_frame(request)
    if line.echo:
        await _send(writer, raw, now, pace=line.pace)
    answering = now + len(raw) * BYTE_S * line.pace + line.turnaround_s
    await asyncio.sleep(answering - loop.time())
    reaction = meter.react(request, now)
    if reaction.echo and not line.echo:
        await _send(writer, raw, now, pace=line.pace)
    await _send(writer, reaction.answer, answering, pace=line.pace)
    while reaction.flood:
        await _send(writer, random.randbytes(_FLOOD_CHUNK), loop.time(), pace=line.pace)
        await asyncio.sleep(0)
    if reaction.hang_up:
        writer.close()
    return reaction.hang_up


async def _send(writer: asyncio.StreamWriter, data: bytes, begin: float, *, pace: bool) -> None:
    """Send `data`; paced, each byte is complete a byte time after the one before it."""
    if not pace:
        writer.write(data)
    else:
        loop = asyncio.get_running_loop()
        for index, byte in enumerate(data, start=1):
            await asyncio.sleep(begin + index * BYTE_S - loop.time())
            writer.write(bytes((byte,)))
    await writer.drain()
