"""The gateway: one task a meter, one for the broker, from start to a clean end.

Readers put what they find on boards, and the outputs follow those. Nothing here knows a telegram.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from kamstrup_mqtt.capture import Recorder
from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.commands import COMMANDS
from kamstrup_mqtt.gateway.config import Config, MeterConfig
from kamstrup_mqtt.gateway.reader import Reader
from kamstrup_mqtt.gateway.service import answer_health, feed_watchdog, notify
from kamstrup_mqtt.meter import Tap
from kamstrup_mqtt.outputs import MqttOutput, Publication
from kamstrup_mqtt.status import MeterStatus
from kamstrup_mqtt.store import Board, History

_END_S = 1.5  # a clean end takes no longer, whatever hangs
_STUCK_S = 300.0  # longer than a readout of every register takes on the worst line
_CAPTURE_BYTES = 10_000_000  # enough for days, and no disk is filled by it
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


async def run_gateway(config: Config, capture: Path | None = None) -> None:
    """Read every meter at its interval and publish, until cancelled.

    Args:
        config: what to read, and where to publish it.
        capture: a file to record the line in; with several meters each has its own, by its name.

    Raises:
        UsageError: another gateway runs with this configuration, or the capture cannot be written.

    """
    history = History(config.history.path, config.history.keep_s)
    statuses: Board[MeterStatus] = Board()
    readers = {
        meter.name: Reader(meter, history, statuses, _recording(meter, config, capture))
        for meter in config.meters
    }

    def command(meter: str, name: str, payload: bytes) -> bool:
        try:
            COMMANDS[name](readers[meter], payload)
        except UsageError as error:
            _log.warning("%s: a message on %s is ignored: %s", meter, name, _printable(str(error)))
            return False
        return True

    publications = [Publication(m.name, m.topic, m.registers) for m in config.meters]
    output = MqttOutput(
        config.mqtt, config.homeassistant, publications, history, statuses, command=command,
        outdoor_topic=config.web.outdoor_topic if config.web else None,
    )  # fmt: skip

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
            if config.web is not None:
                from kamstrup_mqtt.web.app import House  # noqa: PLC0415 - 10 MB that few need
                from kamstrup_mqtt.web.server import serve_web  # noqa: PLC0415

                house = House(
                    config.web, config.history.path, history, statuses, complaints,
                    connected=lambda: output.connected, backlog=output.backlog,
                )  # fmt: skip
                tasks.create_task(serve_web(house))
            for reader in readers.values():
                tasks.create_task(reader.run())
    except ExceptionGroup as group:
        usage, _ = group.split(UsageError)
        raise (usage.exceptions[0] if usage else group) from None
    finally:
        notify("STOPPING=1")
        await history.close()


def _recording(meter: MeterConfig, config: Config, capture: Path | None) -> Tap | None:
    """Where the line to `meter` is recorded, if it is."""
    if capture is None:
        return None
    if len(config.meters) > 1:
        capture = capture.with_stem(f"{capture.stem}-{meter.name}")
    try:
        file = capture.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"{capture} cannot be written: {error.strerror}") from error

    def write(line: str) -> None:
        if not file.closed:
            try:
                file.write(line)
                full = file.tell() > _CAPTURE_BYTES
            except OSError as error:
                full = True
                _log.warning("The capture in %s ends: %s", capture, error.strerror)
            if full:
                _log.info("The capture in %s is complete", capture)
                with contextlib.suppress(OSError):
                    file.close()

    return Recorder(write, meter.port).tap


def _note_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log in one line what went wrong where nobody waits, as in a library that lost its socket."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.WARNING
    shown = error if _log.isEnabledFor(logging.DEBUG) else None
    _log.log(level, "%s: %r; --debug shows where", context["message"], error, exc_info=shown)


def _printable(text: str) -> str:
    """Words of others, fit for one line of the log."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST_LINE]
