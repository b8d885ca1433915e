"""Captures: all that went over the line to a meter, as a small text file that is safe to post.

    # kamstrup-mqtt capture of socket://10.0.0.5:4000, 1200 baud 8N2, numbers masked
    2026-11-24T10:28:00.104+00:00 > 803f02bb410d
    2026-11-24T10:28:00.391+00:00 < 403f0200000000a6d30d

A line is a moment, a direction (> to the meter, < from it) and bytes in hex. Unless one wants them
raw, serial and customer numbers are zeros, in telegrams whose checksum is made to fit again.
Nothing here opens a port or a file.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from kamstrup_mqtt.catalog import PRIVATE_REGISTERS
from kamstrup_mqtt.errors import TelegramError, UsageError
from kamstrup_mqtt.kmp import (
    STOP,
    Direction,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    Message,
    decode,
    decode_frame,
    encode,
)

_HEAD = "# kamstrup-mqtt capture"
_ARROWS = {Direction.REQUEST: ">", Direction.ANSWER: "<"}
_DIRECTIONS = {arrow: direction for direction, arrow in _ARROWS.items()}
_LONGEST = 4096  # bytes from the meter in one line
_TELEGRAM = re.compile(rb"[\x40\x80][^\x40\x80\x0d]*\x0d")
_UP_TO_STOP = re.compile(rb"[^\x0d]*\x0d|[^\x0d]+")
_KEPT = 3  # bytes of a damaged telegram that say what it was: start, address, command


@dataclass(frozen=True, slots=True)
class Passage:
    """What one side sent before the other spoke."""

    time: datetime
    direction: Direction
    data: bytes


class Recorder:
    """Turns what passes on a line into the lines of a capture.

    Args:
        write: takes each line, with its end.
        port: the port, for the headline.
        raw: keep serial and customer numbers.

    """

    def __init__(self, write: Callable[[str], object], port: str, *, raw: bool = False) -> None:
        self._write = write
        self._raw = raw
        self._received = bytearray()
        self._since = datetime.now(UTC)
        self._private = [False, False]  # whether the last two requests asked for such numbers
        numbers = "numbers in full" if raw else "numbers masked"
        write(f"{_HEAD} of {port}, 1200 baud 8N2, {numbers}\n")

    def tap(self, direction: Direction, data: bytes) -> None:
        """Take what just passed."""
        if direction is Direction.ANSWER:
            if not self._received:
                self._since = datetime.now(UTC)
            for part in _UP_TO_STOP.findall(data):
                self._received += part
                if part[-1] == STOP or len(self._received) > _LONGEST:
                    self.flush()
            return
        self.flush()
        self._private = [self._private[1], _asks_private(data)]
        self._line(datetime.now(UTC), direction, data)

    def flush(self) -> None:
        """Write what the meter sent so far."""
        if self._received:
            data = bytes(self._received)
            self._received.clear()
            if not self._raw:
                data = mask(data, asked=any(self._private))
            self._line(self._since, Direction.ANSWER, data)

    def _line(self, moment: datetime, direction: Direction, data: bytes) -> None:
        stamp = moment.isoformat(timespec="milliseconds")
        self._write(f"{stamp} {_ARROWS[direction]} {data.hex()}\n")


def is_capture(beginning: bytes) -> bool:
    """Whether a file that begins so is a capture."""
    return beginning.startswith(_HEAD.encode())


def read_capture(lines: Iterable[str]) -> list[Passage]:
    """The passages of a capture.

    Raises:
        UsageError: a line is none of a capture; the message names it.

    """
    passages = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            stamp, arrow, digits = words
            passage = Passage(
                datetime.fromisoformat(stamp), _DIRECTIONS[arrow], bytes.fromhex(digits)
            )
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"line {number} is not of a capture: expected a time, > or <, and hex digits"
            ) from error
        passages.append(passage)
    return passages


def mask(data: bytes, *, asked: bool) -> bytes:
    """`data` from a line, with zeros for serial and customer numbers.

    Args:
        data: telegrams, damaged ones, and noise.
        asked: whether such numbers were asked for, so that what is damaged may hold them.

    """
    masked, position = b"", 0
    for found in _TELEGRAM.finditer(data):
        masked += _blank(data[position : found.start()], asked=asked)
        raw, position = found[0], found.end()
        try:
            frame = decode_frame(raw)
            message = decode(frame)
        except TelegramError:
            masked += _blank(raw, asked=asked)
        else:
            asked = asked or _is_private(message)
            harmless = _without_numbers(message)
            masked += raw if harmless == message else encode(harmless, frame.address)
    return masked + _blank(data[position:], asked=asked)


def _blank(damaged: bytes, *, asked: bool) -> bytes:
    if not asked:
        return damaged
    kept = _KEPT if damaged[:1] in (b"\x40", b"\x80") else 0
    end = damaged[kept:][-1:] if damaged[-1:] == bytes((STOP,)) else b""
    return damaged[:kept] + bytes(len(damaged[kept:]) - len(end)) + end


def _without_numbers(message: Message) -> Message:
    match message:
        case GetSerialNoAnswer():
            return GetSerialNoAnswer(0)
        case GetRegisterAnswer(values):
            return GetRegisterAnswer(
                tuple(
                    value._replace(data=bytes(len(value.data)))
                    if value.register in PRIVATE_REGISTERS
                    else value
                    for value in values
                )
            )
    return message


def _asks_private(telegram: bytes) -> bool:
    try:
        return _is_private(decode(decode_frame(telegram)))
    except TelegramError:
        return True


def _is_private(message: Message) -> bool:
    match message:
        case GetSerialNoRequest():
            return True
        case GetRegisterRequest(registers):
            return not PRIVATE_REGISTERS.isdisjoint(registers)
    return False
