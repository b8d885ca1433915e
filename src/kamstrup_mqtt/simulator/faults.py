"""What goes wrong between a meter and its reader: faults, and what each makes of an answer."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kamstrup_mqtt.kmp import Answer, GetRegisterAnswer, RegisterValue, encode
from kamstrup_mqtt.kmp.value import BIT_FIELD, MONTH_DAY, TEXT, TIME


class Fault(StrEnum):
    """What can go wrong between a meter and its reader."""

    BAD_CRC = "bad-crc"  # one bit of the answer flips
    TRUNCATED = "truncated"  # the answer ends in the middle
    GARBAGE_BEFORE = "garbage-before"  # noise, and then the answer
    SILENT = "silent"  # no answer
    ASLEEP = "asleep"  # no answer, until somebody presses a key: see `wake`
    ECHO_ONLY = "echo-only"  # the head mirrors the request, and no answer
    OTHER_PROGRAM = "other-program"  # another program asks meanwhile, and is answered
    HANG_UP = "hang-up"  # half an answer, and the connection closes
    WRONG_REGISTER = "wrong-register"  # a valid answer to another question
    FLOOD = "flood"  # bytes without end
    UNKNOWN_REGISTERS = "unknown-registers"  # some registers are left out
    STRANGE_VALUES = "strange-values"  # a valid answer with values that no meter sends


@dataclass(frozen=True, slots=True)
class Reaction:
    """What the meter does: send these bytes, and then perhaps hang up or flood the line.

    With `echo` the head mirrors the request first, also where it does not do so usually.
    """

    answer: bytes = b""
    hang_up: bool = False
    flood: bool = False
    echo: bool = False


def strike(fault: Fault, answer: Answer, chance: random.Random) -> Reaction:
    """What becomes of `answer`; all but `OTHER_PROGRAM`, which speaks for itself."""
    return _FAULTS[fault](answer, chance)


def _flip_a_bit(answer: Answer, chance: random.Random) -> Reaction:
    telegram = bytearray(encode(answer))
    telegram[chance.randrange(1, len(telegram) - 1)] ^= 1 << chance.randrange(8)
    return Reaction(bytes(telegram))


def _cut(answer: Answer, chance: random.Random) -> Reaction:
    telegram = encode(answer)
    return Reaction(telegram[: chance.randrange(1, len(telegram))])


def _leave_out(answer: Answer, chance: random.Random) -> Reaction:
    if isinstance(answer, GetRegisterAnswer) and answer.values:
        kept = chance.sample(answer.values, chance.randrange(len(answer.values)))
        answer = GetRegisterAnswer(tuple(value for value in answer.values if value in kept))
    return Reaction(encode(answer))


def _mistake(answer: Answer, chance: random.Random) -> Reaction:
    if isinstance(answer, GetRegisterAnswer) and answer.values:
        wrong = chance.randrange(len(answer.values))
        answer = GetRegisterAnswer(
            tuple(
                value._replace(register=value.register ^ 0x200) if index == wrong else value
                for index, value in enumerate(answer.values)
            )
        )
    return Reaction(encode(answer))


# Unit, or None for the right one, sign/exponent and bytes of values that no meter sends.
_STRANGE: tuple[tuple[int | None, int, bytes], ...] = (
    (None, 0x00, b""),
    (None, 0x1B, b"\x01"),  # 28 digits, of the whole and of decimals
    (None, 0x5B, b"\x01"),
    (None, 0xC3, b"\xff" * 4),  # less than nothing
    (None, 0x3F, b"\xff" * 12),  # as long as can be
    (None, 0x7F, b"\xff" * 12),
    (TIME, 0x00, b"\xff" * 6),
    (MONTH_DAY, 0x00, b"\xff" * 12),
    (TEXT, 0x00, b"#/+\x01"),
    (BIT_FIELD, 0x00, b"\xff" * 12),
    (0xFF, 0xFF, b"\x00"),
)


def _make_strange(answer: Answer, chance: random.Random) -> Reaction:
    if isinstance(answer, GetRegisterAnswer):
        strange = []
        for value in answer.values:
            unit, sign_exponent, data = chance.choice(_STRANGE)
            unit = value.unit if unit is None else unit
            strange.append(RegisterValue(value.register, unit, sign_exponent, data))
        answer = GetRegisterAnswer(tuple(strange))
    return Reaction(encode(answer))


_FAULTS: Mapping[Fault, Callable[[Answer, random.Random], Reaction]] = {
    Fault.BAD_CRC: _flip_a_bit,
    Fault.TRUNCATED: _cut,
    Fault.GARBAGE_BEFORE: lambda answer, chance: Reaction(
        chance.randbytes(chance.randrange(1, 40)) + encode(answer)
    ),
    Fault.SILENT: lambda _answer, _chance: Reaction(),
    Fault.ASLEEP: lambda _answer, _chance: Reaction(),
    Fault.ECHO_ONLY: lambda _answer, _chance: Reaction(echo=True),
    Fault.HANG_UP: lambda answer, chance: Reaction(_cut(answer, chance).answer, hang_up=True),
    Fault.WRONG_REGISTER: _mistake,
    Fault.FLOOD: lambda _answer, _chance: Reaction(flood=True),
    Fault.UNKNOWN_REGISTERS: _leave_out,
    Fault.STRANGE_VALUES: _make_strange,
}
