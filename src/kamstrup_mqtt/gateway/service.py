"""What whoever watches over the gateway wants to know: systemd, Docker, and people in a hurry.

`ready`, the watchdog and `health` say how it is; nothing here mends anything.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from kamstrup_mqtt.errors import KamstrupError, UsageError

_ANSWER_S = 5.0
_READY, _LIVE = "ready", "live"  # the two answers
_FEEDS = 3  # how often the watchdog is fed within the time it is given

# Gives what is wrong, one line each; empty when all is well.
Complaints = Callable[[], list[str]]


def notify(message: str) -> None:
    """Tell systemd something, such as READY=1; nothing happens where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.sendall(message.encode())


async def feed_watchdog(alive: Complaints) -> None:
    """Tell systemd again and again that the gateway is alive, as long as `alive` says so."""
    notify("READY=1")
    every_s = int(os.environ.get("WATCHDOG_USEC", "60000000")) / 1e6 / _FEEDS
    while True:
        stuck = alive()
        notify("STATUS=" + "; ".join(stuck) if stuck else "WATCHDOG=1\nSTATUS=Reading")
        await asyncio.sleep(every_s)


def _address(config: Path) -> str:
    """Where the gateway with this configuration answers: a name that needs no file."""
    name = hashlib.sha256(str(config.resolve()).encode()).hexdigest()[:32]
    return f"\0kamstrup-mqtt-{name}"


async def answer_health(config: Path, complaints: Complaints, stuck: Complaints) -> None:
    """Answer whoever asks with `health`, until cancelled.

    Args:
        config: the configuration that the gateway runs with.
        complaints: what is wrong, so that nobody should rely on it.
        stuck: what does not get on any more, which only a restart mends.

    Raises:
        UsageError: another gateway runs with this configuration.

    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            answer = {_READY: complaints(), _LIVE: stuck()}
            writer.write(json.dumps(answer).encode())
            writer.write_eof()
            await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_unix_server(answer, _address(config))
    except OSError as error:
        raise UsageError(f"another kamstrup-mqtt runs with {config} already: stop it") from error
    async with server:
        await server.serve_forever()


async def ask_health(config: Path, *, live: bool = False) -> list[str]:
    """What the gateway with this configuration complains of; empty when all is well.

    With `live`, only what does not get on any more.

    Raises:
        KamstrupError: no such gateway runs, or it does not answer.

    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(_address(config))
            lines = json.loads(await reader.read())[_LIVE if live else _READY]
            writer.close()
    except TimeoutError as error:
        raise KamstrupError(f"the gateway with {config} does not answer: restart it") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise KamstrupError(f"no gateway runs with {config}") from error
    return [str(line) for line in lines]
