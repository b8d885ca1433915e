"""What users ask for over MQTT: payloads from anybody, to what a reader understands.

Everything that cannot be meant raises `UsageError`; nothing else ever comes out of a payload.
"""

import json
from collections.abc import Callable
from typing import Protocol

from kamstrup_mqtt.catalog import register_numbers
from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.schedule import INTERVAL, interval_seconds

_LONGEST = 4096  # bytes; every register by its number takes less
_SHOWN = 40


class Commanded(Protocol):
    """Who carries commands out."""

    def read_now(self, registers: tuple[int, ...] | None = None) -> None:
        """Make a readout now, of all configured registers or of these."""

    def set_interval(self, seconds: float | None) -> None:
        """Read at another interval, or with None at the configured one again."""


def _read(reader: Commanded, payload: bytes) -> None:
    reader.read_now(wanted_registers(payload))


def _poll_interval(reader: Commanded, payload: bytes) -> None:
    reader.set_interval(wanted_interval(payload))


# The commands by the last part of their topic.
COMMANDS: dict[str, Callable[[Commanded, bytes], None]] = {
    "read": _read,
    "poll_interval": _poll_interval,
}


def wanted_registers(payload: bytes) -> tuple[int, ...] | None:
    """The registers a message on `<topic>/read` limits a readout to; None when it does not.

    Raises:
        UsageError: it is a list, but not one of parameters.

    """
    if len(payload) > _LONGEST:
        return None
    try:
        wanted = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(wanted, list) or not wanted:
        return None
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in wanted):
        raise UsageError("a list of parameters holds names and register numbers only")
    return register_numbers(wanted)


def wanted_interval(payload: bytes) -> float | None:
    """The seconds a message on `<topic>/poll_interval` asks for; None when it is empty.

    Raises:
        UsageError: it is no interval.

    """
    text = payload[:_LONGEST].decode("utf-8", "replace").strip()
    if not text:
        return None
    try:
        return interval_seconds(text)
    except ValueError as error:
        raise UsageError(f"expected {INTERVAL}, got {text[:_SHOWN]!r}") from error
