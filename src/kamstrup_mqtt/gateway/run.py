"""The gateway: one task a meter, one for the broker, from start to a clean end.

Readouts go into the history, and the outputs follow it. Nothing here knows a telegram.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from kamstrup_mqtt.errors import KamstrupError, PortError
from kamstrup_mqtt.gateway.config import Config, MeterConfig
from kamstrup_mqtt.gateway.schedule import duration, next_due, retry_delay
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.outputs import MqttOutput
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.store import History

STANDBY_S = 30 * 60  # without a question for so long, a meter goes to sleep (kmp.md, 1)
_PORT_RETRY_S = 60.0  # looking for a port costs the meter's battery nothing
_NAMED = 8  # missing registers that a line of the log names
_END_S = 1.5  # a clean end takes no longer, whatever hangs
_NAP_S = 60.0  # a long sleep looks at the clock now and then, for it may be set

_log = logging.getLogger(__name__)


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it ends, or until SIGTERM or SIGINT; then end it cleanly, and soon."""
    loop = asyncio.get_running_loop()
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
    history = History()
    topics = {meter.name: meter.topic for meter in config.meters}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(MqttOutput(config.mqtt, history, topics).run())
        for meter in config.meters:
            tasks.create_task(_read_forever(meter, history))


async def _read_forever(meter: MeterConfig, history: History) -> None:
    """Read `meter` now and then on the clock; a meter or port that is absent is tried again."""
    _log.info(
        "%s: reading %d registers from %s every %s",
        meter.name,
        len(meter.registers),
        meter.port,
        duration(meter.interval_s),
    )
    if meter.interval_s > STANDBY_S:
        _log.warning(
            "%s: meters fall asleep after about 30 minutes without a question, and the interval is "
            "%s: a shorter one keeps the meter awake",
            meter.name,
            duration(meter.interval_s),
        )
    session = MeterSession(meter.port)
    failures = 0
    due: float | None = None
    missing: frozenset[str] | None = None
    try:
        while True:
            fault: KamstrupError | None = None
            try:
                readout = await session.read(meter.registers)
            except KamstrupError as error:
                fault = error
            wake = due = _next_due(meter.interval_s, due)
            if fault is not None:
                failures += 1
                longest = _PORT_RETRY_S if isinstance(fault, PortError) else meter.interval_s
                wake = min(due, time.time() + retry_delay(failures, longest))
                left = duration(wake - time.time())
                _log.warning("%s: %s. Next try in %s", meter.name, fault, left)
            else:
                if failures or missing is None:
                    _log.info("%s: %s", meter.name, _introduce(readout))
                failures = 0
                if missing != (missing := frozenset(readout.missing)) and missing:
                    _log.warning("%s: not read: %s", meter.name, _reasons(readout))
                if readout.readings:
                    history.append(meter.name, readout)
            await _sleep_until(wake, meter.interval_s)
    finally:
        await session.close()


def _next_due(interval_s: float, previous: float | None) -> float:
    now = time.time()
    offset = datetime.fromtimestamp(now).astimezone().utcoffset()
    return next_due(now, offset.total_seconds() if offset else 0.0, interval_s, previous)


async def _sleep_until(moment: float, longest_s: float) -> None:
    """Sleep until `moment`; a clock that was set back ends it rather than prolonging it."""
    while 0 < (left := moment - time.time()) <= longest_s + 1:  # noqa: ASYNC110 - a clock
        await asyncio.sleep(min(left, _NAP_S))


def _introduce(readout: Readout) -> str:
    meter = readout.meter
    known = f"MULTICAL {meter.model}" if meter.model else f"type {meter.type_code or 'unknown'}"
    return f"serial number {meter.serial or 'unknown'} answers, {known}"


def _reasons(readout: Readout) -> str:
    named = [f"{name} ({reason})" for name, reason in readout.missing.items()]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"and {len(named) - _NAMED} more"]
    return ", ".join(named)
