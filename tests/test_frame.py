"""Framing: stuffing, CRC, and a reader that takes a real line's bytes in any pieces."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.errors import (
    CrcError,
    FramingError,
    KamstrupError,
    LengthError,
    StuffingError,
    TelegramError,
    TruncatedError,
)
from kamstrup_mqtt.kmp import Direction, Frame, FrameReader, decode, decode_frame, encode_frame
from kamstrup_mqtt.kmp.frame import MAX_FRAME_LENGTH, crc
from kamstrup_mqtt.kmp.telegram import GetRegisterAnswer, RegisterValue, encode

frames = st.builds(
    Frame,
    st.sampled_from(Direction),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=90),
)
answers = st.builds(
    GetRegisterAnswer,
    st.lists(
        st.builds(
            RegisterValue,
            st.integers(0, 0xFFFF),
            st.integers(0, 255),
            st.integers(0, 255),
            st.binary(max_size=12),
        ),
        min_size=1,
        max_size=8,
    ).map(tuple),
)

REQUEST = bytes.fromhex("803f1001001b7fd4080d")
ANSWER = bytes.fromhex("403f10003c0304430000d6de03220d")
GOOD = Frame(Direction.ANSWER, 0x3F, 0x10, bytes.fromhex("003c0304430000d6de"))


def read_all(data: bytes) -> list[Frame | TelegramError]:
    return FrameReader().feed(data)


def test_crc_has_the_check_word_of_its_polynomial() -> None:
    assert crc(b"123456789") == 0x31C3


def test_a_request_is_stuffed_behind_its_crc() -> None:
    # Register 128: the CRC is computed over 80, the line shows 1B 7F.
    frame = Frame(Direction.REQUEST, 0x3F, 0x10, bytes.fromhex("010080"))
    assert encode_frame(frame) == REQUEST


@given(frames)
def test_encode_then_decode_gives_the_same_frame(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@given(frames)
def test_between_start_and_stop_no_byte_looks_like_either(frame: Frame) -> None:
    inner = encode_frame(frame)[1:-1]
    assert not set(inner) & {0x06, 0x0D, 0x40, 0x80}


@pytest.mark.parametrize("before", ["", "00", "ffff", "0d0d1b", "06"])
@pytest.mark.parametrize("behind", ["", "00", "0d", "1bff"])
def test_noise_around_a_frame_is_dropped(before: str, behind: str) -> None:
    assert read_all(bytes.fromhex(before) + ANSWER + bytes.fromhex(behind)) == [GOOD]


def test_our_own_echo_comes_back_as_a_request() -> None:
    echo, answer = read_all(REQUEST + b"\x00" + ANSWER)
    assert isinstance(echo, Frame)
    assert echo.direction is Direction.REQUEST
    assert answer == GOOD


@given(st.lists(frames, max_size=4), st.binary(max_size=30), st.data())
def test_pieces_give_the_same_as_the_whole(
    several: list[Frame], noise: bytes, data: st.DataObject
) -> None:
    stream = noise + b"".join(map(encode_frame, several)) + noise
    whole = [str(found) for found in read_all(stream)]
    by_byte, by_piece = FrameReader(), FrameReader()
    assert [str(f) for i in range(len(stream)) for f in by_byte.feed(stream[i : i + 1])] == whole
    cut = data.draw(st.integers(0, len(stream)))
    assert [str(f) for part in (stream[:cut], stream[cut:]) for f in by_piece.feed(part)] == whole


@given(st.binary(max_size=60), frames)
def test_a_frame_is_found_behind_any_garbage(garbage: bytes, frame: Frame) -> None:
    assert read_all(garbage + encode_frame(frame))[-1] == frame


@given(st.binary(max_size=300))
def test_any_bytes_give_frames_or_our_errors(data: bytes) -> None:
    reader = FrameReader()
    for found in reader.feed(data):
        if isinstance(found, Frame):
            with contextlib.suppress(TelegramError):
                decode(found)
        else:
            assert isinstance(found, TelegramError)
            assert str(found)
    reader.close()
    assert not reader.in_frame


@given(answers, st.data())
def test_a_single_damaged_byte_never_yields_a_value(
    answer: GetRegisterAnswer, data: st.DataObject
) -> None:
    raw = bytearray(encode(answer))
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] ^= data.draw(st.integers(1, 255))
    values: list[object] = []
    for found in read_all(bytes(raw)):
        try:
            if isinstance(found, Frame) and found.direction is Direction.ANSWER:
                message = decode(found)
                values += message.values if isinstance(message, GetRegisterAnswer) else [message]
        except TelegramError:
            pass
    assert values == []


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ("403f10003c0304430000d6de03230d", CrcError),
        ("403f101b0d", StuffingError),
        ("403f101b003c0d", StuffingError),
        ("403f10060007e90d", StuffingError),
        ("400d", LengthError),
        ("403f079a0d", LengthError),
    ],
)
def test_each_damage_has_its_own_error(raw: str, error: type[TelegramError]) -> None:
    (found,) = read_all(bytes.fromhex(raw))
    assert type(found) is error


def test_a_frame_that_is_cut_by_another_is_truncated_and_the_other_is_read() -> None:
    cut, whole = read_all(ANSWER[:6] + ANSWER)
    assert type(cut) is TruncatedError
    assert whole == GOOD


def test_the_end_of_the_line_truncates_what_has_begun() -> None:
    reader = FrameReader()
    assert reader.feed(ANSWER[:-1]) == []
    assert reader.in_frame
    assert type(reader.close()) is TruncatedError
    assert not reader.in_frame
    assert reader.close() is None


def test_bytes_without_end_are_bounded_and_named() -> None:
    reader = FrameReader()
    assert reader.feed(b"\x40" + bytes(MAX_FRAME_LENGTH - 1)) == []
    (found,) = reader.feed(b"\x00")
    assert type(found) is FramingError
    assert not reader.in_frame
    (endless, good) = FrameReader().feed(b"\x40" + bytes(MAX_FRAME_LENGTH) + ANSWER)
    assert type(endless) is FramingError
    assert good == GOOD


def test_a_longest_frame_still_fits() -> None:
    frame = Frame(Direction.ANSWER, 0x40, 0x40, b"\x40" * (8 * (5 + 255)))
    assert read_all(encode_frame(frame)) == [frame]


def test_every_error_of_a_telegram_has_a_kind_of_its_own_and_one_base() -> None:
    errors = TelegramError.__subclasses__()
    assert len({error.kind for error in errors}) == len(errors)
    assert all(issubclass(error, KamstrupError) for error in errors)
