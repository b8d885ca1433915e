"""A meter that answers as a captured one did, damage and silence included."""

from collections import deque
from collections.abc import Iterable

from kamstrup_mqtt.errors import TelegramError
from kamstrup_mqtt.kmp import (
    MAX_REGISTERS,
    Answer,
    Direction,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    GetTypeAnswer,
    GetTypeRequest,
    RegisterValue,
    decode,
    encode,
    encode_frame,
)
from kamstrup_mqtt.readout.capture import Passage
from kamstrup_mqtt.simulator.faults import Reaction


class ReplayedMeter:
    """The meter of a capture.

    A request that was captured gets what came back then, each time the next that did; any other is
    answered from what the capture tells of the meter.

    Args:
        passages: the capture.

    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._captured: dict[bytes, deque[bytes]] = {}
        self._serial: GetSerialNoAnswer | None = None
        self._type: GetTypeAnswer | None = None
        self._values: dict[int, RegisterValue] = {}
        answers: deque[bytes] = deque()
        for passage in passages:
            if passage.direction is Direction.REQUEST:
                answers = self._captured.setdefault(passage.data, deque())
                answers.append(b"")
            elif answers:
                answers[-1] += passage.data
                self._learn(passage.data)

    def react(self, frame: Frame, _now: float) -> Reaction:
        """What came back to this request, or what would have."""
        captured = self._captured.get(encode_frame(frame))
        if captured:
            captured.rotate(-1)
            return Reaction(captured[-1])
        try:
            answer = self._answer(frame)
        except TelegramError:
            answer = None
        return Reaction(encode(answer) if answer else b"")

    def _learn(self, data: bytes) -> None:
        for found in FrameReader().feed(data):
            if isinstance(found, Frame):
                try:
                    message = decode(found)
                except TelegramError:
                    continue
                match message:
                    case GetSerialNoAnswer():
                        self._serial = message
                    case GetTypeAnswer():
                        self._type = message
                    case GetRegisterAnswer(values):
                        self._values |= {value.register: value for value in values}

    def _answer(self, frame: Frame) -> Answer | None:
        match decode(frame):
            case GetSerialNoRequest():
                return self._serial
            case GetTypeRequest():
                return self._type
            case GetRegisterRequest(registers) if 1 <= len(registers) <= MAX_REGISTERS:
                known = [self._values[number] for number in registers if number in self._values]
                return GetRegisterAnswer(tuple(known)) if self._values else None
        return None
