"""Asks the cheapest question again and again, and tells what is seen on the line each time.

For whoever places a head or looks for a fault: what a readout repeats or passes over is told here.
"""

import asyncio
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from kamstrup_mqtt.errors import (
    CommandError,
    CrcError,
    NoAnswerError,
    TelegramError,
    WrongRegisterError,
)
from kamstrup_mqtt.kmp import (
    Direction,
    GetRegisterRequest,
    GetSerialNoRequest,
    Request,
)
from kamstrup_mqtt.meter.link import Link, Tap
from kamstrup_mqtt.meter.transaction import Transactions

# Some meters answer only the second.
_QUESTIONS: tuple[Request[Any], ...] = (GetSerialNoRequest(), GetRegisterRequest((60,)))
_STRAY = 3  # bytes that may come before a damaged answer without making it noise


class Seen(StrEnum):
    """What came back to a question."""

    NOTHING = "nothing"
    ECHO = "echo"  # our own question, and nothing else
    NOISE = "noise"  # bytes that are no answer, fragments of one, or an answer to somebody else
    BAD_CRC = "bad_crc"  # a whole answer with a wrong checksum
    GOOD = "good"


class Probe:
    """A line, given by its port or as it is, for questions; use it with `async with`."""

    def __init__(self, line: str | Link, tap: Tap | None = None) -> None:
        self.link = line if isinstance(line, Link) else Link(line)
        self.link.tap = self._tap
        self.asked = 0
        self.echo = False  # whether the last question came back
        self.other_program = False  # whether the last answer was to a question that is not ours
        self.took_s = 0.0  # from the last question to the end of its answer
        self._passed = tap or (lambda _direction, _data: None)
        self._sent = self._received = b""
        self._transactions = Transactions(self.link)
        self._question = 0
        self._heard = False

    async def __aenter__(self) -> Self:
        """Open the line. Raises PortError."""
        await self.link.open()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.link.close()

    async def ask(self) -> Seen:
        """Ask once, and tell what came back. Raises PortError when the line is lost."""
        self._received = b""
        self.other_program = False
        self.asked += 1
        begun = asyncio.get_running_loop().time()
        try:
            try:
                await self._transactions.exchange(_QUESTIONS[self._question])
            finally:
                self.echo = self._sent in self._received
        except NoAnswerError as fault:
            return self._unheard(Seen.ECHO if fault.echo else Seen.NOTHING)
        except CrcError:
            seen = Seen.BAD_CRC if self._is_answer() else Seen.NOISE
        except TelegramError as fault:
            self.other_program = isinstance(fault, CommandError | WrongRegisterError)
            seen = Seen.NOISE
        else:
            self._heard, seen = True, Seen.GOOD
        self.took_s = asyncio.get_running_loop().time() - begun
        return seen

    def _unheard(self, seen: Seen) -> Seen:
        if self._received and seen is Seen.NOTHING:  # bytes, and not even the start of a telegram
            return Seen.NOISE
        if not self._heard:
            self._question = 1 - self._question
        return seen

    def _is_answer(self) -> bool:
        """Whether a damaged telegram stands where an answer should, so that it is no noise."""
        question = self._received.find(Direction.REQUEST.value)
        start = self._received.find(Direction.ANSWER.value)
        before = self._received.find(0x0D, question, start) + 1 if 0 <= question < start else 0
        return 0 <= start - before <= _STRAY

    def _tap(self, direction: Direction, data: bytes) -> None:
        self._passed(direction, data)
        if direction is Direction.ANSWER:
            self._received += data
        else:
            self._sent = data
