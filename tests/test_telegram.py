"""Telegrams in both directions, and every capture of the protocol notes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.catalog import unit_symbol
from kamstrup_mqtt.cli.show import explain, explanation_text
from kamstrup_mqtt.errors import CommandError, LengthError, TelegramError
from kamstrup_mqtt.kmp import (
    Direction,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    GetSerialNoAnswer,
    GetSerialNoRequest,
    GetTypeAnswer,
    GetTypeRequest,
    Message,
    RegisterValue,
    decode,
    encode,
    encode_frame,
    format_value,
)

CAPTURES = [
    json.loads(line)
    for line in (Path(__file__).parent / "captures" / "captures.jsonl").read_text().splitlines()
]
NOT_DECODED = {0x09, 0xA0, 0xA2, 0xB8}


def captures(*keys: str) -> list[Any]:
    return [
        pytest.param(capture, id=f"line {number}: {capture['source']}")
        for number, capture in enumerate(CAPTURES, start=1)
        if all(capture.get(key) for key in keys)
    ]


def messages(raw: str) -> list[Message]:
    frames = FrameReader().feed(bytes.fromhex(raw))
    return [decode(frame) for frame in frames if isinstance(frame, Frame)]


numbers = st.integers(0, 0xFFFF)
values = st.builds(
    RegisterValue, numbers, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=255)
)
any_message = st.one_of(
    st.builds(GetTypeRequest),
    st.builds(GetTypeAnswer, numbers, numbers),
    st.builds(GetSerialNoRequest),
    st.builds(GetSerialNoAnswer, st.integers(0, 2**32 - 1)),
    st.builds(GetRegisterRequest, st.lists(numbers, max_size=255).map(tuple)),
    st.builds(GetRegisterAnswer, st.lists(values, max_size=8).map(tuple)),
)


@given(any_message, st.integers(0, 255))
def test_encode_then_decode_gives_the_same_message(message: Message, address: int) -> None:
    (frame,) = FrameReader().feed(encode(message, address))
    assert isinstance(frame, Frame)
    assert frame.address == address
    assert decode(frame) == message


@pytest.mark.parametrize("capture", captures("response_hex", "expect"))
def test_a_captured_answer_has_exactly_the_expected_values(capture: dict[str, Any]) -> None:
    (answer,) = messages(capture["response_hex"])
    assert isinstance(answer, GetRegisterAnswer)
    found = {v.register: (unit_symbol(v.unit), format_value(v.value)) for v in answer.values}
    for expected in capture["expect"]:
        unit, text = found[expected["register"]]
        assert text == expected["value"]
        assert expected["unit"] in {None, unit}


@pytest.mark.parametrize("capture", captures("response_hex", "expect_fields"))
def test_a_captured_identity_has_the_expected_fields(capture: dict[str, Any]) -> None:
    (answer,) = messages(capture["response_hex"])
    if isinstance(answer, GetTypeAnswer):
        fields = {"type": f"{answer.type_code:04X}", "revision": answer.revision}
    else:
        assert isinstance(answer, GetSerialNoAnswer)
        fields = {"serial": str(answer.serial)}
    assert fields == capture["expect_fields"]


@pytest.mark.parametrize("capture", captures("response_hex", "error"))
def test_a_damaged_capture_yields_no_value(capture: dict[str, Any]) -> None:
    reader = FrameReader()
    found = reader.feed(bytes.fromhex(capture["response_hex"]))
    kinds = []
    for item in [*found, reader.close()]:
        if isinstance(item, Frame):
            with pytest.raises(LengthError) as caught:
                decode(item)
            kinds.append(caught.value.kind)
        elif item is not None:
            kinds.append(item.kind)
    assert capture["error"] in kinds


@pytest.mark.parametrize("capture", captures("request_hex"))
def test_a_captured_request_is_what_we_would_send(capture: dict[str, Any]) -> None:
    raw = bytes.fromhex(capture["request_hex"])
    (frame,) = FrameReader().feed(raw)
    if "request_error" in capture:
        assert not isinstance(frame, Frame)
        assert frame.kind == capture["request_error"]
        return
    assert isinstance(frame, Frame)
    assert frame.direction is Direction.REQUEST
    if frame.command in NOT_DECODED:
        with pytest.raises(CommandError):
            decode(frame)
    else:
        assert encode(decode(frame)) == raw


@pytest.mark.parametrize(
    ("direction", "command", "data"),
    [
        (Direction.REQUEST, 0x01, "00"),
        (Direction.ANSWER, 0x01, "0004"),
        (Direction.REQUEST, 0x02, "00"),
        (Direction.ANSWER, 0x02, "0004"),
        (Direction.REQUEST, 0x10, ""),
        (Direction.REQUEST, 0x10, "01003c00"),
        (Direction.ANSWER, 0x10, "00"),
        (Direction.ANSWER, 0x10, "003c0304"),
        (Direction.ANSWER, 0x10, "003c03044300000000ff"),
        (Direction.ANSWER, 0x10, "003c03054300000000"),
    ],
)
def test_a_body_that_does_not_fit_its_command_is_refused(
    direction: Direction, command: int, data: str
) -> None:
    with pytest.raises(LengthError):
        decode(Frame(direction, 0x3F, command, bytes.fromhex(data)))


@pytest.mark.parametrize("command", [0x00, 0x09, 0xB8, 0xFF])
def test_another_command_is_named_and_not_decoded(command: int) -> None:
    with pytest.raises(CommandError, match=f"0x{command:02X}"):
        decode(Frame(Direction.ANSWER, 0x3F, command, b"\x01"))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 255])
def test_what_other_programs_ask_for_is_understood_and_written_back(count: int) -> None:
    request = GetRegisterRequest(tuple(range(count)))
    (frame,) = FrameReader().feed(encode(request))
    assert isinstance(frame, Frame)
    assert decode(frame) == request
    assert encode(decode(frame)) == encode(request)


@pytest.mark.parametrize("registers", [tuple(range(256)), (0x10000,), (-1,)])
def test_a_request_that_no_telegram_can_hold_cannot_be_made(registers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no telegram"):
        GetRegisterRequest(registers)


any_frame = st.builds(
    Frame,
    st.sampled_from(Direction),
    st.just(0x3F) | st.integers(0, 255),
    st.sampled_from([0x01, 0x02, 0x10]) | st.integers(0, 255),
    st.binary(max_size=20) | st.binary(max_size=2500),
)
any_answer = values.map(lambda value: GetRegisterAnswer((value,)))


@given(any_frame)
def test_any_frame_is_a_message_that_is_written_back_or_a_telegram_error(frame: Frame) -> None:
    try:
        message = decode(frame)
    except TelegramError:
        return
    assert encode(message, frame.address) == encode_frame(frame)


@given(
    st.lists(any_frame.map(encode_frame) | any_answer.map(encode) | st.binary(max_size=9)).map(
        b"".join
    )
)
def test_whatever_is_on_the_line_is_explained(data: bytes) -> None:
    text = explanation_text(explanation := explain(data.hex()))
    assert text.splitlines()
    assert json.loads(json.dumps(explanation)) == explanation


@pytest.mark.parametrize(
    ("code", "revision"),
    [(0x0601, "F1"), (0x1A63, "Z99"), (0, None), (0x1B01, "AA1"), (0xFF02, "IU2"), (7, "0007")],
)
def test_the_revision_is_a_letter_and_a_number(code: int, revision: str | None) -> None:
    assert GetTypeAnswer(4, code).revision == revision
