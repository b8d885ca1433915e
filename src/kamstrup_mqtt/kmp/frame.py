"""Frames of the Kamstrup Meter Protocol: start and stop bytes, stuffing, CRC.

    0x80  address command data...  CRC-high CRC-low  0x0D     request, to the meter
    0x40  address command data...  CRC-high CRC-low  0x0D     answer, from the meter

Between start and stop each of 06 0D 1B 40 80 travels as 1B and its complement, so that outside
an escape a start byte always starts a frame and a stop byte always ends one. What a real line
brings besides: noise and a lone 00 before and behind a frame, our own request mirrored by the
head, frames cut in the middle, bytes without end.

This module takes bytes and returns frames. It never reads, waits, logs or knows a register.
"""

import re
from binascii import crc_hqx
from dataclasses import dataclass
from enum import Enum

from kamstrup_mqtt.errors import (
    CrcError,
    FramingError,
    LengthError,
    StuffingError,
    TelegramError,
    TruncatedError,
)

STOP = 0x0D
ESCAPE = 0x1B
BAUD = 1200  # on the optical eye; 8 data bits, no parity, 2 stop bits (kmp.md, 1)
BYTE_S = 11 / BAUD  # seconds one byte takes: one start, eight data, two stop bits
HEAT_METER = 0x3F  # the address of a heat meter's own register set

# GetRegister, the longest message in use: address, command and CRC, then 8 registers of a 5 byte
# header and at most 255 bytes; every byte may be stuffed. Start and stop come on top.
MAX_FRAME_LENGTH = 2 * (4 + 8 * (5 + 255)) + 2

_STUFFED = re.compile(rb"[\x06\x0d\x1b\x40\x80]")
_ESCAPED = re.compile(rb"\x1b.", re.DOTALL)
_NOT_STUFFED = re.compile(rb"[\x06\x0d\x40\x80]|\x1b(?:[^\xf9\xf2\xe4\xbf\x7f]|\Z)", re.DOTALL)
_START = re.compile(rb"[\x40\x80]")
_START_OR_STOP = re.compile(rb"[\x40\x80\x0d]")


class Direction(Enum):
    """Who sent a frame; the value is its start byte."""

    REQUEST = 0x80
    ANSWER = 0x40


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose CRC is right; `data` is the command's body without address and CRC."""

    direction: Direction
    address: int
    command: int
    data: bytes


def crc(data: bytes) -> int:
    """The checksum of `data`: polynomial 0x1021, start 0, high bit first (kmp.md, 2)."""
    return crc_hqx(data, 0)


def encode_frame(frame: Frame) -> bytes:
    """The bytes of `frame` as they travel: CRC appended, stuffed, between start and stop."""
    body = bytes((frame.address, frame.command)) + frame.data
    body += crc(body).to_bytes(2, "big")
    stuffed = _STUFFED.sub(lambda match: bytes((ESCAPE, match[0][0] ^ 0xFF)), body)
    return bytes((frame.direction.value,)) + stuffed + bytes((STOP,))


def decode_frame(raw: bytes) -> Frame:
    """The frame in `raw`, which begins with its start byte and ends with its stop byte.

    Raises:
        StuffingError, LengthError, CrcError: each for its own damage.

    """
    body = _unstuff(raw[1:-1])
    if len(body) < 4:
        raise LengthError(
            f"{len(body)} bytes between start and stop; address, command and CRC take at least 4"
        )
    if crc(body):
        raise CrcError(
            f"checksum {body[-2:].hex().upper()} does not fit, {crc(body[:-2]):04X} was computed"
        )
    return Frame(Direction(raw[0]), body[0], body[1], body[2:-2])


def _unstuff(stuffed: bytes) -> bytes:
    """One pass from left to right, so that no byte is ever decoded twice."""
    if wrong := _NOT_STUFFED.search(stuffed):
        raise StuffingError(f"{wrong[0].hex(' ').upper()} stands where stuffing does not allow it")
    return _ESCAPED.sub(lambda match: bytes((match[0][1] ^ 0xFF,)), stuffed)


class FrameReader:
    """Cuts a stream of bytes into frames, in whatever pieces it comes.

    Contract: `feed` returns frames and `TelegramError`s in the order of the line; any exception
    it raises is a bug. Bytes between frames are noise and are dropped. Memory stays below
    `MAX_FRAME_LENGTH` and what was fed at once; time is linear in the bytes.
    """

    def __init__(self) -> None:
        self._pending = bytearray()  # empty, or a start byte and what followed it

    @property
    def in_frame(self) -> bool:
        """Whether a frame has begun and not yet ended."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[Frame | TelegramError]:
        """Take bytes from the line and return what became complete, right or damaged."""
        found: list[Frame | TelegramError] = []
        position = 0
        if not self._pending:
            position = self._begin(data, 0)
        while self._pending:
            match = _START_OR_STOP.search(data, position)
            self._pending += data[position : match.start() if match else len(data)]
            if len(self._pending) > MAX_FRAME_LENGTH:
                found.append(FramingError(f"no stop byte within {MAX_FRAME_LENGTH} bytes"))
                position = self._begin(data, match.start() if match else len(data))
            elif match is None:
                break
            elif match[0][0] == STOP:
                self._pending.append(STOP)
                found.append(_decoded(bytes(self._pending)))
                position = self._begin(data, match.end())
            else:
                found.append(_cut(self._pending))
                position = self._begin(data, match.start())
        return found

    def close(self) -> TelegramError | None:
        """The line has ended: the damage of a frame that was not finished, or None."""
        if not self._pending:
            return None
        damage = _cut(self._pending)
        self._pending.clear()
        return damage

    def _begin(self, data: bytes, position: int) -> int:
        """Drop noise up to the next start byte; return where to read on."""
        self._pending.clear()
        match = _START.search(data, position)
        if match is None:
            return len(data)
        self._pending += match[0]
        return match.end()


def _decoded(raw: bytes) -> Frame | TelegramError:
    try:
        return decode_frame(raw)
    except TelegramError as damage:
        return damage


def _cut(pending: bytearray) -> TruncatedError:
    return TruncatedError(f"ends after {len(pending)} bytes, before a stop byte (0D)")
