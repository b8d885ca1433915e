"""One request and its answer on a half duplex line, with the pauses that a meter wants.

What is taken for an answer is a valid telegram of the right kind that holds only registers that
were asked for. Echo, noise, damaged and foreign telegrams are passed over. Nothing is repeated.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from kamstrup_mqtt.catalog import register_name
from kamstrup_mqtt.errors import (
    CommandError,
    CrcError,
    FramingError,
    NoAnswerError,
    PortError,
    TelegramError,
    WrongRegisterError,
)
from kamstrup_mqtt.kmp import (
    BYTE_S,
    HEAT_METER,
    Direction,
    Frame,
    FrameReader,
    Request,
    decode,
    encode,
)
from kamstrup_mqtt.meter.link import Link
from kamstrup_mqtt.readout.status import Counters

ANSWER_DEADLINE_S = 1.6  # an answer starts at the latest so long after the request (kmp.md, 1)
LATENCY_S = 0.3  # what a USB adapter, ser2net and a network may add
REST_S = 1.6  # the quiet a meter wants before a request is repeated (kmp.md, 1)
JUDGED = 50  # the latest telegrams, by which the line is judged
NOISE = 64  # bytes tolerated around an answer before the line counts as flooded

_log = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")


class Transactions:
    """Questions and answers on `link`, one at a time."""

    def __init__(self, link: Link) -> None:
        self.counters = Counters()
        self.asked_at = 0.0  # the loop's time of the last telegram
        self.heard_at = -math.inf  # when something came back to one that is not our echo
        self._link = link
        self._quiet_from = 0.0  # the loop's time from which the line may be written to
        self._answered: deque[bool] = deque(maxlen=JUDGED)

    @property
    def quality(self) -> int | None:
        """Percent of the latest telegrams that got a usable answer; None before the first."""
        count = len(self._answered)
        return 100 * sum(self._answered) // count if count else None

    async def exchange(self, request: Request[AnswerT]) -> AnswerT:
        """Send `request` once, and listen until its answer is there or none can come any more.

        Args:
            request: what to ask; the line is opened first if it is closed.

        Raises:
            NoAnswerError: nothing came in time.
            TelegramError: something came, and it was not a valid answer to this request.
            PortError: the line cannot be opened, or was lost.

        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._quiet_from - loop.time())
        try:
            await self._link.open()
            await self._link.discard()
            return await self._counted(self._listen(request))
        except (PortError, FramingError):  # hung up or flooded: only a new connection helps
            await self._link.close()
            self._quiet_from = loop.time() + REST_S
            raise

    async def _counted(self, exchange: Coroutine[Any, Any, AnswerT]) -> AnswerT:
        self.counters.telegrams += 1
        self.asked_at = asyncio.get_running_loop().time()
        try:
            answer = await exchange
        except (NoAnswerError, TelegramError) as fault:
            self._answered.append(False)
            if isinstance(fault, NoAnswerError):
                self.counters.timeouts += 1
            elif isinstance(fault, CrcError):
                self.counters.crc_errors += 1
            else:
                self.counters.damaged += 1
            raise
        self._answered.append(True)
        return answer

    async def _listen(self, request: Request[AnswerT]) -> AnswerT:
        loop = asyncio.get_running_loop()
        telegram = encode(request)
        _log.debug("%s > %s", self._link.port, telegram.hex(" "))
        await self._link.write(telegram)
        self.counters.bytes += len(telegram)
        longest = 2 * (4 + request.longest_answer) + 2  # every byte of it stuffed
        deadline = loop.time() + len(telegram) * BYTE_S + ANSWER_DEADLINE_S + LATENCY_S
        latest = deadline + longest * BYTE_S + REST_S
        reader = FrameReader()
        received = b""
        fault: TelegramError | None = None
        echo = False
        while chunk := await self._link.read(until=deadline):
            received += chunk
            self.counters.bytes += len(chunk)
            if not telegram.startswith(received):
                self.heard_at = loop.time()
            for found in reader.feed(chunk):
                if isinstance(found, Frame) and found.direction is Direction.REQUEST:
                    echo = True
                    continue
                try:
                    answer = _accept(found, request)
                except TelegramError as error:
                    fault = error
                else:
                    _log.debug("%s < %s", self._link.port, received.hex(" "))
                    self._quiet_from = loop.time() + BYTE_S
                    return answer
            if len(received) > len(telegram) + longest + NOISE:
                raise FramingError(f"{len(received)} bytes and no end of the answer")
            if fault or reader.in_frame:  # listening on is also the rest before the next try
                deadline = min(max(deadline, loop.time() + REST_S), latest)
        _log.debug("%s < %s", self._link.port, received.hex(" ") or "nothing")
        raise fault or reader.close() or NoAnswerError(echo=echo)


def _accept(found: Frame | TelegramError, request: Request[AnswerT]) -> AnswerT:
    """The message in `found` if it answers `request`; a TelegramError for anything else."""
    if isinstance(found, TelegramError):
        raise found
    if found.address != HEAT_METER:
        raise CommandError(f"an answer of address 0x{found.address:02X}, not ours")
    try:
        return request.accept(decode(found))
    except WrongRegisterError as error:
        names = ", ".join(map(register_name, error.registers))
        raise WrongRegisterError(f"the answer holds {names}, which was not the question") from error
