"""What users ask for over MQTT: payloads from anybody, to what a poller understands.

Everything that cannot be meant raises `UsageError`; nothing else ever comes out of a payload.
"""

import json
from collections.abc import Callable
from typing import NamedTuple, Protocol

from kamstrup_mqtt.catalog import register_numbers
from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.quantities import INTERVAL, interval_seconds

_LONGEST = 4096  # bytes; every register by its number takes less
_SHOWN = 40
_LONGEST_BOOST_S = 86400.0


class Commanded(Protocol):
    """Who carries commands out."""

    def request(self, registers: tuple[int, ...] = ()) -> None:
        """Make a readout now, of these registers or of all that are configured."""

    def boost(self, seconds: float) -> None:
        """Make readouts at the active interval for so long."""

    def set_interval(self, seconds: float | None) -> None:
        """Read at another interval, or with None at the configured one again."""


class Wanted(NamedTuple):
    """What a message on `<topic>/read` asks for."""

    registers: tuple[int, ...] = ()  # none for all that are configured
    boost_s: float | None = None  # for how long to go on reading faster


def _read(poller: Commanded, payload: bytes) -> None:
    wanted = wanted_readout(payload)
    if wanted.boost_s is not None:
        poller.boost(wanted.boost_s)
    poller.request(wanted.registers)


def _poll_interval(poller: Commanded, payload: bytes) -> None:
    poller.set_interval(wanted_interval(payload))


# The commands by the last part of their topic.
COMMANDS: dict[str, Callable[[Commanded, bytes], None]] = {
    "read": _read,
    "poll_interval": _poll_interval,
}


def wanted_readout(payload: bytes) -> Wanted:
    """What a message on `<topic>/read` asks for: whatever it says, a readout now.

    A list of parameters limits the readout; `{"for": "30m"}` asks for more of them.

    Raises:
        UsageError: it is a list, but not one of parameters, or a time that is none.

    """
    try:
        content = json.loads(payload) if len(payload) <= _LONGEST else None
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, list) and content:
        if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in content):
            raise UsageError("a list of parameters holds names and register numbers only")
        return Wanted(registers=register_numbers(content))
    if isinstance(content, dict) and "for" in content:
        try:
            seconds = interval_seconds(str(content["for"]))
        except ValueError as error:
            given = json.dumps(content["for"], ensure_ascii=False)[:_SHOWN]
            raise UsageError(f"'for' takes a time such as 30m, got {given}") from error
        return Wanted(boost_s=min(seconds, _LONGEST_BOOST_S))
    return Wanted()


def wanted_interval(payload: bytes) -> float | None:
    """The seconds a message on `<topic>/poll_interval` asks for; None when it is empty.

    Raises:
        UsageError: it is no interval.

    """
    if len(payload) > _LONGEST:
        raise UsageError(f"expected {INTERVAL}, got {len(payload)} bytes")
    try:
        text = payload.decode().strip()
        return interval_seconds(text) if text else None
    except ValueError as error:  # or no text at all
        got = payload[:_SHOWN].decode("utf-8", "replace")
        raise UsageError(f"expected {INTERVAL}, got {got!r}") from error
