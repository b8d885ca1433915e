"""Every error that kamstrup-mqtt raises for a caller, in one tree under `KamstrupError`.

Each says in one line what happened and what to do next, and carries the exit status of the
command line. Nothing here opens, reads or logs.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar

_LONGEST_NAME = 64  # nothing near a longer one is known, and looking takes time


class KamstrupError(Exception):
    """The base of every error a caller of kamstrup-mqtt may want to catch."""

    exit_status: ClassVar[int] = 1


class UsageError(KamstrupError):
    """The caller asked for something that does not exist, such as an unknown parameter."""

    exit_status = 2


class NoAnswerError(KamstrupError):
    """The port works, but no telegram came back.

    Args:
        echo: whether our own request was seen on the line, as most optical heads show it.

    """

    exit_status = 3

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        heard = "the head hears only itself (port and head work)" if echo else "nothing came back"
        super().__init__(
            f"the meter did not answer: {heard}. Likely causes: the head is not in position "
            "(move it some millimetres or turn it half a turn), the meter is asleep "
            "(press a button on it), or this is the wrong port (see `kamstrup-mqtt ports`)"
        )


class PortError(KamstrupError):
    """The serial port or network address could not be opened, or it was lost.

    Args:
        message: what is wrong, and what to do.
        kind: `port_missing`, `port_busy`, `no_permission`, `unreachable` or `port_unusable`.

    """

    exit_status = 5

    def __init__(self, message: str, kind: str = "port_unusable") -> None:
        self.kind = kind
        super().__init__(message)


class TelegramError(KamstrupError):
    """A telegram that is not valid, and therefore yields no value.

    Each way of being wrong is a class of its own, and its `kind` is the short name that
    `kamstrup-mqtt decode --json` prints.
    """

    exit_status = 4
    kind: ClassVar[str] = "telegram"


class CrcError(TelegramError):
    """The checksum does not fit: a byte was damaged on the way."""

    kind = "crc"


class TruncatedError(TelegramError):
    """The telegram ended, or another one began, before its stop byte."""

    kind = "truncated"


class StuffingError(TelegramError):
    """A byte that must be escaped stands alone, or an escape hides a byte that needs none."""

    kind = "stuffing"


class FramingError(TelegramError):
    """No telegram where one should be: no start byte, or bytes without an end."""

    kind = "framing"


class LengthError(TelegramError):
    """The checksum fits, but the fields do not fill the telegram exactly."""

    kind = "length"


class CommandError(TelegramError):
    """A valid telegram of a command that is unknown, or not the one asked for."""

    kind = "command"


class WrongRegisterError(TelegramError):
    """A valid answer that names a register nobody asked for, or the same one twice.

    Args:
        message: what is wrong.
        registers: those of the answer.

    """

    kind = "register"

    def __init__(self, message: str, registers: Sequence[int] = ()) -> None:
        self.registers = registers
        super().__init__(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """An ending for a message about an unknown name: the nearest known one, if any is near."""
    if len(name) > _LONGEST_NAME:
        return ""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f", did you mean '{by_lower[near[0]]}'?" if near else ""
