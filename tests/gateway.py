"""The gateway as tests start it, and what a client of its broker receives."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiomqtt

from .conftest import Server
from .test_config import OLDER

Background = Callable[..., subprocess.Popen[str]]
Broker = Callable[..., Server]
Message = tuple[str, str, bool]  # topic, payload, retained


@contextlib.asynccontextmanager
async def watching(port: int, topic: str = "#") -> AsyncIterator[asyncio.Queue[Message]]:
    """What a client of the broker receives, as it comes."""
    queue: asyncio.Queue[Message] = asyncio.Queue()

    async def watch(client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):  # the broker may end before us
            async for message in client.messages:
                queue.put_nowait(
                    (str(message.topic), message.payload.decode(errors="replace"), message.retain)
                )

    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe(topic)
        task = asyncio.create_task(watch(client))
        yield queue
        task.cancel()


async def next_of(queue: asyncio.Queue[Message], topic: str, seconds: float = 30) -> str:
    async with asyncio.timeout(seconds):
        while True:
            found, payload, _ = await queue.get()
            if found == topic:
                return payload


async def log_until(
    process: subprocess.Popen[str], words: str, times: int = 1, seconds: float = 30
) -> str:
    """The log of the gateway up to the line with these words."""
    assert process.stderr is not None
    log = ""
    try:
        async with asyncio.timeout(seconds):
            while log.count(words) < times:
                line = await asyncio.to_thread(process.stderr.readline)
                assert line, f"the gateway ended: {log}"
                log += line
    except TimeoutError as error:
        process.kill()  # ends the thread that still reads
        raise AssertionError(f"'{words}' is not in the log: {log}") from error
    return log


def write_config(path: Path, broker: int, port: str, *changes: tuple[str, str]) -> Path:
    """The older project's file with other addresses, and a faster interval for the test."""
    text = OLDER.read_text().replace("10.0.0.210", "127.0.0.1").replace("1883", str(broker))
    text = text.replace("/dev/ttyKamstrup", port)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    config = path / "config.yaml"
    config.write_text(text)
    return config


FAST = ("poll_interval: 28", "poll_interval: 2s")


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """End the gateway cleanly, and return its log."""
    process.send_signal(number)
    _, log = process.communicate(timeout=10)  # how long it takes is measured in benchmarks/
    assert process.returncode == 0, log
    assert "Traceback" not in log, log
    return log
