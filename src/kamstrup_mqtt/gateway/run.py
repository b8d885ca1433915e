"""The gateway: one task a meter, one for the broker, from start to a clean end.

Readers put what they find on boards, and the outputs follow those. Nothing here knows a telegram.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from typing import Any

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.commands import COMMANDS
from kamstrup_mqtt.gateway.config import Config
from kamstrup_mqtt.gateway.reader import Reader
from kamstrup_mqtt.gateway.service import answer_health, feed_watchdog, notify
from kamstrup_mqtt.outputs import MqttOutput, Publication
from kamstrup_mqtt.status import MeterStatus
from kamstrup_mqtt.store import Board, History

_END_S = 1.5  # a clean end takes no longer, whatever hangs
_STUCK_S = 300.0  # longer than a readout of every register takes on the worst line
_LONGEST_LINE = 200  # of what others sent, in the log

_log = logging.getLogger(__name__)


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it ends, or until SIGTERM or SIGINT; then end it cleanly, and soon."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_note_stray_error)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_END_S)
    if task.done() and not task.cancelled():
        task.result()


async def run_gateway(config: Config) -> None:
    """Read every meter at its interval and publish, until cancelled."""
    history = History(config.history.path, config.history.keep_s)
    statuses: Board[MeterStatus] = Board()
    readers = {meter.name: Reader(meter, history, statuses) for meter in config.meters}

    def command(meter: str, name: str, payload: bytes) -> bool:
        try:
            COMMANDS[name](readers[meter], payload)
        except UsageError as error:
            _log.warning("%s: a message on %s is ignored: %s", meter, name, _printable(str(error)))
            return False
        return True

    publications = [Publication(m.name, m.topic, m.registers) for m in config.meters]
    output = MqttOutput(
        config.mqtt, config.homeassistant, publications, history, statuses, command=command
    )

    def stuck() -> list[str]:
        last = {f"the reading of {name}": reader.alive_at for name, reader in readers.items()}
        last["the publishing"] = output.alive_at
        oldest = time.monotonic() - _STUCK_S
        return [f"{name} is stuck" for name, at in last.items() if at < oldest]

    def complaints() -> list[str]:
        found = stuck() + [
            line for line in (reader.complaint for reader in readers.values()) if line
        ]
        return found + ([] if output.connected else ["the broker is not connected"])

    try:
        await history.open()
        async with asyncio.TaskGroup() as tasks:
            if config.path is not None:
                tasks.create_task(answer_health(config.path, complaints))
            tasks.create_task(feed_watchdog(stuck))
            tasks.create_task(output.run())
            for reader in readers.values():
                tasks.create_task(reader.run())
    except ExceptionGroup as group:
        usage, _ = group.split(UsageError)
        raise (usage.exceptions[0] if usage else group) from None
    finally:
        notify("STOPPING=1")
        await history.close()


def _note_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log in one line what went wrong where nobody waits, as in a library that lost its socket."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.WARNING
    shown = error if _log.isEnabledFor(logging.DEBUG) else None
    _log.log(level, "%s: %r; --debug shows where", context["message"], error, exc_info=shown)


def _printable(text: str) -> str:
    """Words of others, fit for one line of the log."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST_LINE]
