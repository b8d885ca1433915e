"""The hand at the simulated meter: a TCP connection on which each line does something to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from kamstrup_mqtt.simulator.faults import Fault
from kamstrup_mqtt.simulator.meter import SimulatedMeter

HELP = (
    "key: press a key, which wakes the meter; head 0.3: put the head so far from its place, "
    "0 to 1; drift 60: let it slip in so many seconds; fault bad-crc=0.3: let a fault strike, "
    "0 ends it"
)


def fault_rate(text: str) -> tuple[Fault, float]:
    """A fault and its rate from 0 to 1, of text such as bad-crc=0.3. Raises ValueError."""
    name, _, often = text.partition("=")
    fault, rate = Fault(name.replace("_", "-")), float(often or 1)
    if not 0 <= rate <= 1:
        raise ValueError(text)
    return fault, rate


@contextlib.asynccontextmanager
async def serve_control(
    meter: SimulatedMeter, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Let whoever connects control `meter`, and yield the address, such as 127.0.0.1:4002.

    Raises:
        OSError: the address cannot be bound.

    """
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError, ValueError):  # gone, or a line without an end
            while line := await reader.readline():
                writer.write(f"{_obey(meter, line.decode(errors='replace').strip())}\n".encode())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, host, port)
    bound = server.sockets[0].getsockname()
    try:
        yield f"{bound[0]}:{bound[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _obey(meter: SimulatedMeter, line: str) -> str:
    """Do what `line` says, and give the answer to it."""
    command, _, argument = line.partition(" ")
    try:
        match command:
            case "key":
                meter.wake()
            case "head":
                meter.place_head(float(argument))
            case "drift":
                meter.drift(max(0.001, float(argument)))
            case "fault":
                fault, rate = fault_rate(argument)
                meter.faults[fault] = rate
            case _:
                return HELP
    except ValueError:
        return HELP
    return "ok"
