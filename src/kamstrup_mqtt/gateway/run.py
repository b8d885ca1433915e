"""The gateway: one task a meter, one for the broker, from start to a clean end.

Pollers put what they find on boards, and the outputs follow those. Nothing here knows a telegram.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.files import check_ours, is_same
from kamstrup_mqtt.gateway.config import Config
from kamstrup_mqtt.gateway.inbox import Inbox
from kamstrup_mqtt.gateway.log import log_names
from kamstrup_mqtt.gateway.service import answer_health, feed_watchdog, notify
from kamstrup_mqtt.gateway.supervisor import Supervisor
from kamstrup_mqtt.kmp import Direction
from kamstrup_mqtt.meter import MeterSession, Tap
from kamstrup_mqtt.outputs import MqttOutput, Publication
from kamstrup_mqtt.polling.poller import Poller
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout.capture import Recorder, is_capture
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, History, history_names
from kamstrup_mqtt.tasks import run_together
from kamstrup_mqtt.web.settings import WebSettings

_END_S = 1.5  # a clean end takes no longer, whatever hangs
_STUCK_S = 300.0  # longer than a readout of every register takes on the worst line
_CAPTURE_BYTES = 10_000_000  # enough for days, and no disk is filled by it

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
    names = [meter.name for meter in config.meters]
    history = History(config.history.path, config.history.keep_s, config.history.max_bytes, names)
    statuses: Board[MeterStatus] = Board()
    supervisor = Supervisor()
    pollers = {
        meter.name: Poller(
            meter, MeterSession(meter.port, _recording(meter, config, capture)), history, statuses
        )
        for meter in config.meters
    }

    outdoor_topic = config.web.outdoor_topic if config.web else None
    inbox = Inbox(config.meters, pollers, history, outdoor_topic)
    publications = [Publication(m.name, m.topic, m.registers) for m in config.meters]
    output = MqttOutput(
        config.mqtt, config.homeassistant, publications, history, statuses, inbox=inbox
    )

    def stuck() -> list[str]:
        last = {f"the reading of {name}": poller.alive_at for name, poller in pollers.items()}
        last["the publishing"] = output.alive_at
        oldest = time.monotonic() - _STUCK_S
        return [f"{name} is stuck" for name, at in last.items() if at < oldest]

    def complaints() -> list[str]:
        found = [line for line in (poller.complaint for poller in pollers.values()) if line]
        found += [history.complaint] if history.complaint else []
        return [*stuck(), *supervisor.complaints, *found, *output.complaints]

    async def renamed(name: str) -> None:
        await inbox.restore_meter(name)
        await pollers[name].renamed()

    async def serve_page(settings: WebSettings) -> None:
        from kamstrup_mqtt.web.app import House  # noqa: PLC0415 - 10 MB that few need
        from kamstrup_mqtt.web.server import serve_web  # noqa: PLC0415

        await serve_web(
            House(
                settings,
                config.history.path,
                history,
                statuses,
                names,
                config.prices,
                config.currency,
                complaints,
                stuck,
                connected=lambda: output.connected,
                backlog=output.backlog,
            )
        )

    is_open = False

    async def live() -> None:
        """All but the health, which is answered also while a large history is migrated."""
        nonlocal is_open
        await history.open()
        is_open = True
        await inbox.restore()
        history.on_renamed = renamed
        parts = [
            supervisor.keep("the watchdog", lambda: feed_watchdog(stuck)),
            supervisor.keep("the publishing", output.run),
            supervisor.keep("the history", history.watch),
            supervisor.keep("the commands", inbox.keep_restoring),
        ]
        if (web := config.web) is not None:
            parts.append(supervisor.keep("the page", lambda: serve_page(web)))
        for name, poller in pollers.items():
            parts.append(supervisor.keep(f"the reading of {name}", poller.run, poller.note_failure))
        await run_together(*parts)

    def stuck_if_open() -> list[str]:
        return stuck() if is_open else []

    def ready() -> list[str]:
        return complaints() if is_open else ["the history is not open yet"]

    try:
        parts = [live()]
        if (path := config.path) is not None:
            answer = partial(answer_health, path, ready, stuck_if_open)
            parts.append(supervisor.keep("the health", answer))
        await run_together(*parts)
    finally:
        notify("STOPPING=1")
        await history.close()


def _recording(meter: MeterConfig, config: Config, capture: Path | None) -> Tap | None:
    """Where the line to `meter` is recorded, if it is."""
    if capture is None:
        return None
    if len(config.meters) > 1:
        capture = capture.with_stem(f"{capture.stem}-{meter.name}")
    taken = history_names(config.history.path)
    taken += log_names(config.log.file) if config.log.file else []
    if any(is_same(capture, path) for path in taken):
        raise UsageError(f"{capture} is in use already: name another file for the capture")
    try:
        check_ours(capture, "capture", is_capture)
        file = capture.open("w", encoding="utf-8", buffering=1)
        recorder = Recorder(file.write, meter.port)
    except OSError as error:
        raise UsageError(f"{capture} cannot be written: {error.strerror}") from error

    def tap(direction: Direction, data: bytes) -> None:
        if file.closed:
            return
        end = "is complete"
        try:
            recorder.tap(direction, data)
            if file.tell() <= _CAPTURE_BYTES:
                return
        except OSError as error:
            end = f"ends: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the reading goes on
            end = f"ends: {error!r}"
        _log.warning("The capture in %s %s", capture, end)
        with contextlib.suppress(OSError):
            file.close()

    return tap


def _note_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log in one line what went wrong where nobody waits, as in a library that lost its socket."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.WARNING
    shown = error if _log.isEnabledFor(logging.DEBUG) else None
    _log.log(level, "%s: %r; --debug shows where", context["message"], error, exc_info=shown)
