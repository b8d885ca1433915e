"""The Kamstrup Meter Protocol without I/O: bytes in, messages out, and back.

`FrameReader` cuts a stream into frames, `decode` and `encode` turn frames into messages and
messages into bytes, `decode_value` and `encode_value` do the same for the values inside. No port,
clock, thread or log anywhere, no register names, and no error but a `TelegramError` for bytes.
"""

from kamstrup_mqtt.kmp.frame import (
    BAUD,
    BYTE_S,
    HEAT_METER,
    STOP,
    Direction,
    Frame,
    FrameReader,
    decode_frame,
    encode_frame,
)
from kamstrup_mqtt.kmp.telegram import (
    MAX_REGISTERS,
    Answer,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    GetTypeAnswer,
    GetTypeRequest,
    Message,
    RegisterValue,
    Request,
    decode,
    encode,
)
from kamstrup_mqtt.kmp.value import (
    MAX_DIGITS,
    BitField,
    MonthDay,
    Unreadable,
    Value,
    decode_value,
    encode_value,
    format_value,
    within_max_digits,
)

__all__ = [
    "BAUD",
    "BYTE_S",
    "HEAT_METER",
    "MAX_DIGITS",
    "MAX_REGISTERS",
    "STOP",
    "Answer",
    "BitField",
    "Direction",
    "Frame",
    "FrameReader",
    "GetRegisterAnswer",
    "GetRegisterRequest",
    "GetSerialNoAnswer",
    "GetSerialNoRequest",
    "GetTypeAnswer",
    "GetTypeRequest",
    "Message",
    "MonthDay",
    "RegisterValue",
    "Request",
    "Unreadable",
    "Value",
    "decode",
    "decode_frame",
    "decode_value",
    "encode",
    "encode_frame",
    "encode_value",
    "format_value",
    "within_max_digits",
]
