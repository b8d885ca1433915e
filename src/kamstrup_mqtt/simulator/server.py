"""Puts a simulated meter where a reader can reach it: on TCP, as behind ser2net, or on a pty."""

import asyncio
import contextlib
import os
import tty
from collections.abc import AsyncIterator

from kamstrup_mqtt.simulator.conversation import Line, Meter, converse


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
            await converse(meter, line or Line(), reader, writer)
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
    task = asyncio.create_task(converse(meter, line or Line(), reader, writer))
    try:
        yield os.ttyname(theirs)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        source.close()
        sink.abort()
        os.close(theirs)
