"""Telegrams: the messages inside frames, encoded and decoded in both directions.

A request and its answer carry the same command byte. GetType, GetSerialNo and GetRegister are the
commands that only read; this project sends no other, and names the rest without decoding them.
Layouts are those of kmp.md, 3. Nothing here reads, waits, or knows a register's name.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, Self, TypeVar

from kamstrup_mqtt.errors import CommandError, LengthError, WrongRegisterError
from kamstrup_mqtt.kmp.frame import HEAT_METER, Direction, Frame, encode_frame
from kamstrup_mqtt.kmp.value import Value, decode_value

LONGEST_VALUE = 12  # bytes of a value; the longest seen on any meter (kmp.md, 3.4)
MAX_REGISTERS = 8  # that a meter answers in one GetRegister request (kmp.md, 3.4)

COMMAND_NAMES = {
    0x01: "GetType",
    0x02: "GetSerialNo",
    0x09: "SetClock",
    0x10: "GetRegister",
    0x11: "PutRegister",
    0x9B: "GetEventStatus",
    0x9C: "ClearEventStatus",
    0xA0: "GetLogTimePresent",
    0xA1: "GetLogLastPresent",
    0xA2: "GetLogIDPresent",
    0xA3: "GetLogTimePast",
    0xB8: "GetLogger",
}


AnswerT = TypeVar("AnswerT")


class Request(ABC, Generic[AnswerT]):
    """Something to ask a meter, which knows what answers it."""

    __slots__ = ()
    command: ClassVar[int]
    direction: ClassVar[Direction] = Direction.REQUEST

    @abstractmethod
    def to_data(self) -> bytes:
        """The body of the frame."""

    @property
    @abstractmethod
    def longest_answer(self) -> int:
        """Bytes in the body of the longest answer to expect."""

    @abstractmethod
    def accept(self, message: "Message") -> AnswerT:
        """`message`, if it answers this.

        Raises:
            CommandError: it answers something else.
            WrongRegisterError: it holds a register that was not asked for, or one twice.

        """


@dataclass(frozen=True, slots=True)
class GetTypeRequest(Request["GetTypeAnswer"]):
    """Asks for the meter's type and software revision."""

    command: ClassVar[int] = 0x01

    def to_data(self) -> bytes:
        """The body of the frame: empty."""
        return b""

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Raises LengthError unless `data` is empty."""
        _expect(data, 0)
        return cls()

    @property
    def longest_answer(self) -> int:
        """Four bytes."""
        return 4

    def accept(self, message: "Message") -> "GetTypeAnswer":
        """Raises CommandError for anything but such an answer."""
        return _of_kind(GetTypeAnswer, message)


@dataclass(frozen=True, slots=True)
class GetTypeAnswer:
    """The meter's type code and software revision, each a 16 bit number as sent."""

    type_code: int
    revision_code: int

    command: ClassVar[int] = 0x01
    direction: ClassVar[Direction] = Direction.ANSWER

    @property
    def revision(self) -> str | None:
        """The revision as printed on meters, letter and number such as F1; None if not told.

        Behind Z come AA to ZZ, as AIMIR's head-end knows them.
        """
        letter, number = divmod(self.revision_code, 256)
        if not self.revision_code:
            return None
        if not letter:
            return f"{self.revision_code:04X}"
        first, last = divmod(letter - 1, 26)
        return f"{chr(64 + first) if first else ''}{chr(65 + last)}{number}"

    def to_data(self) -> bytes:
        """Four bytes: type, revision."""
        return self.type_code.to_bytes(2, "big") + self.revision_code.to_bytes(2, "big")

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Raises LengthError unless `data` has four bytes."""
        _expect(data, 4)
        return cls(int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big"))


@dataclass(frozen=True, slots=True)
class GetSerialNoRequest(Request["GetSerialNoAnswer"]):
    """Asks for the meter's serial number."""

    command: ClassVar[int] = 0x02

    def to_data(self) -> bytes:
        """The body of the frame: empty."""
        return b""

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Raises LengthError unless `data` is empty."""
        _expect(data, 0)
        return cls()

    @property
    def longest_answer(self) -> int:
        """Four bytes."""
        return 4

    def accept(self, message: "Message") -> "GetSerialNoAnswer":
        """Raises CommandError for anything but such an answer."""
        return _of_kind(GetSerialNoAnswer, message)


@dataclass(frozen=True, slots=True)
class GetSerialNoAnswer:
    """The meter's serial number, as on its front."""

    serial: int

    command: ClassVar[int] = 0x02
    direction: ClassVar[Direction] = Direction.ANSWER

    def to_data(self) -> bytes:
        """Four bytes."""
        return self.serial.to_bytes(4, "big")

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Raises LengthError unless `data` has four bytes."""
        _expect(data, 4)
        return cls(int.from_bytes(data, "big"))


@dataclass(frozen=True, slots=True)
class GetRegisterRequest(Request["GetRegisterAnswer"]):
    """Asks for registers by their numbers.

    A meter answers 1 to `MAX_REGISTERS` of them; other programs may ask for any number.

    Raises:
        ValueError: no telegram can hold that.

    """

    registers: tuple[int, ...]

    command: ClassVar[int] = 0x10

    def __post_init__(self) -> None:
        if len(self.registers) > 0xFF or not all(0 <= one <= 0xFFFF for one in self.registers):
            raise ValueError(f"no telegram asks for the registers {self.registers}")

    def to_data(self) -> bytes:
        """Count, then two bytes a register."""
        ids = b"".join(register.to_bytes(2, "big") for register in self.registers)
        return bytes((len(self.registers),)) + ids

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Raises LengthError unless the count fits the bytes."""
        if not data or len(data) != 1 + 2 * data[0]:
            raise LengthError(f"{len(data)} bytes do not hold a count and that many registers")
        return cls(tuple(int.from_bytes(data[i : i + 2], "big") for i in range(1, len(data), 2)))

    @property
    def longest_answer(self) -> int:
        """For each register its number, unit, size, sign/exponent and value bytes."""
        return len(self.registers) * (5 + LONGEST_VALUE)

    def accept(self, message: "Message") -> "GetRegisterAnswer":
        """Raises CommandError, and WrongRegisterError for a foreign or doubled register."""
        answer = _of_kind(GetRegisterAnswer, message)
        found = [value.register for value in answer.values]
        if len(set(found)) != len(found) or not set(found) <= set(self.registers):
            raise WrongRegisterError(f"{found} is not what was asked for", found)
        return answer


class RegisterValue(NamedTuple):
    """One register of an answer, as sent: number, unit code, sign/exponent and value bytes."""

    register: int
    unit: int
    sign_exponent: int
    data: bytes

    @property
    def value(self) -> Value:
        """The exact value; see `kamstrup_mqtt.kmp.value.decode_value`."""
        return decode_value(self.unit, self.sign_exponent, self.data)


@dataclass(frozen=True, slots=True)
class GetRegisterAnswer:
    """The registers the meter has of those asked for, in the meter's order."""

    values: tuple[RegisterValue, ...]

    command: ClassVar[int] = 0x10
    direction: ClassVar[Direction] = Direction.ANSWER

    def to_data(self) -> bytes:
        """For each register its number, unit, size, sign/exponent and value bytes."""
        return b"".join(
            value.register.to_bytes(2, "big")
            + bytes((value.unit, len(value.data), value.sign_exponent))
            + value.data
            for value in self.values
        )

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Raises LengthError unless the registers fill `data` exactly."""
        values: list[RegisterValue] = []
        position = 0
        while position < len(data):
            start = position + 5
            end = start + data[position + 3] if start <= len(data) else start
            if end > len(data):
                raise LengthError(f"register {len(values) + 1} of the answer is cut short")
            register = data[position] << 8 | data[position + 1]
            values.append(
                RegisterValue(register, data[position + 2], data[position + 4], data[start:end])
            )
            position = end
        return cls(tuple(values))


Answer = GetTypeAnswer | GetSerialNoAnswer | GetRegisterAnswer
Message = GetTypeRequest | GetSerialNoRequest | GetRegisterRequest | Answer

MESSAGES: tuple[type[Message], ...] = (
    GetTypeRequest,
    GetTypeAnswer,
    GetSerialNoRequest,
    GetSerialNoAnswer,
    GetRegisterRequest,
    GetRegisterAnswer,
)
_BY_COMMAND = {(message.direction, message.command): message for message in MESSAGES}


def encode(message: Message | Request[AnswerT], address: int = HEAT_METER) -> bytes:
    """The bytes of `message` as they travel to or from the meter at `address`."""
    return encode_frame(Frame(message.direction, address, message.command, message.to_data()))


def decode(frame: Frame) -> Message:
    """The message in `frame`.

    Raises:
        CommandError: the command is none that this project decodes.
        LengthError: the body does not have the command's layout.

    """
    message = _BY_COMMAND.get((frame.direction, frame.command))
    if message is None:
        name = COMMAND_NAMES.get(frame.command, "unknown command")
        raise CommandError(f"{name} (0x{frame.command:02X}) is not decoded: {frame.data.hex()}")
    return message.from_data(frame.data)


def _expect(data: bytes, length: int) -> None:
    if len(data) != length:
        raise LengthError(f"{len(data)} bytes of data where the command has {length}")


def _of_kind(kind: type[AnswerT], message: Message) -> AnswerT:
    if not isinstance(message, kind):
        raise CommandError(f"{type(message).__name__}, which was not asked for")
    return message
