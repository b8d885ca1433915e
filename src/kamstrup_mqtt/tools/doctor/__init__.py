"""The doctor: examines all that lies between the meter and the broker, in the order of the way.

Each check says in one sentence what it found and what to do. It reads and publishes only to try,
and ends within 90 s.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kamstrup_mqtt.gateway.config import Config, ConfigError, load_config
from kamstrup_mqtt.meter import Tap
from kamstrup_mqtt.store import last_taken
from kamstrup_mqtt.tools.doctor.broker import examine_broker
from kamstrup_mqtt.tools.doctor.finding import Check, Finding, Report, to_json, verdict
from kamstrup_mqtt.tools.doctor.line import Note, examine_line
from kamstrup_mqtt.tools.doctor.machine import examine_data, examine_service

__all__ = ["Check", "Finding", "examine", "to_json", "verdict"]

_LINE_S = 62.0
_BROKER_S = 20.0


class _Target(NamedTuple):
    """A line to examine, and how its meter is called in the configuration, if it is in there."""

    port: str
    name: str = ""
    registers: tuple[int, ...] = ()


async def examine(
    path: Path | None,
    port: str | None,
    report: Report,
    tap_of: Callable[[str], Tap] | None = None,
) -> list[Check]:
    """Examine what is configured in `path`, or only `port`, or `port` instead of the configured.

    Args:
        path: the configuration, or None where there is none.
        port: a device or URL.
        report: takes each check as soon as it is done.
        tap_of: gives for a port what is called with all bytes that pass there.

    Returns:
        All checks.

    """
    checks: list[Check] = []

    def noting(meter: str = "") -> Note:
        def note(check: str, finding: Finding, advice: str) -> None:
            checks.append(Check(check, finding, advice, meter))
            report(checks[-1])

        return note

    note = noting()
    config = _examine_config(path, note) if path is not None else None
    targets = _targets(config, port)
    async with asyncio.TaskGroup() as tasks:
        for target in targets:
            named = noting(target.name if len(targets) > 1 else "")
            tap = tap_of(target.port) if tap_of else None
            tasks.create_task(_examine_target(target, config, named, tap))
    if config is not None:
        topics = list(dict.fromkeys(meter.topic for meter in config.meters))
        try:
            async with asyncio.timeout(_BROKER_S):
                await examine_broker(config.mqtt, config.homeassistant, topics, note)
        except TimeoutError:
            note("broker", Finding.BROKER_UNREACHABLE, "it answers too slowly to be examined")
        examine_data(config, note)
        examine_service(path, note)
    return checks


def _examine_config(path: Path, note: Note) -> Config | None:
    try:
        config = load_config(path)
    except ConfigError as error:
        for fault in error.faults:
            note("config", Finding.CONFIG_INVALID, fault)
        return None
    wise = f"{path} is valid"
    note("config", Finding.OK, "; but ".join((wise, *config.warnings)))
    return config


def _targets(config: Config | None, port: str | None) -> list[_Target]:
    """The lines to examine: the one that was named, or else all that are configured."""
    configured = [
        _Target(meter.port, meter.name, meter.registers)
        for meter in (config.meters if config else ())
    ]
    if port is None:
        return configured
    same = [target for target in configured if target.port == port]
    if same or len(configured) != 1:
        return same or [_Target(port)]
    return [configured[0]._replace(port=port)]


async def _examine_target(
    target: _Target, config: Config | None, note: Note, tap: Tap | None
) -> None:
    last = last_taken(config.history.path, target.name) if config and target.name else None
    try:
        async with asyncio.timeout(_LINE_S):
            await examine_line(target.port, target.registers, note, last, tap)
    except TimeoutError:
        note("line", Finding.SLOW, f"{target.port} answers too slowly to be examined to the end")
