"""Values: exact decimals, dates, times and bits, from bytes and back."""

from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.catalog import UNITS
from kamstrup_mqtt.kmp import (
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

GJ, TIME, DATE, LONG_DATE, MONTH_DAY, PLAIN, RTC, TEXT = 8, 47, 48, 49, 50, 51, 53, 54
GJ_TENFOLD, BITS, RTC_Q, DATE_TIME, SECONDS, DST = 57, 59, 63, 64, 72, 79

any_unit = st.integers(0, 255) | st.sampled_from([*range(47, 80), GJ])
any_sign_exponent = st.sampled_from([0x00, 0x40, 0x80, 0x01, 0x43]) | st.integers(0, 255)
# The century that two digits of a year mean.
days = st.dates(date(2000, 1, 1), date(2099, 12, 31))
moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
numbers = st.builds(
    lambda integer, exponent: Decimal(integer).scaleb(-exponent),
    st.integers(-(2**63), 2**63),
    st.integers(0, 9),
)


@pytest.mark.parametrize(
    ("unit", "sign_exponent", "data", "text"),
    [
        (GJ, 0x43, "00037875", "227.445"),
        (GJ, 0x43, "000376b8", "227.000"),
        (GJ, 0x43, "00000000", "0.000"),
        (GJ, 0xC2, "00003039", "-123.45"),
        (GJ, 0xC3, "0000", "0.000"),  # minus zero is zero
        (GJ, 0x40, "028f", "655"),
        (GJ, 0x03, "05397fb1", "87654321000"),
        (GJ, 0x03, "ff", "255000"),
        (GJ, 0x11, "012af024", "1959120400000000000000000"),
        (GJ, 0x49, "ffffffff", "4.294967295"),
        (GJ, 0x7F, "01", "0." + "0" * 62 + "1"),
        (GJ, 0x00, "ff" * 20, str(2**160 - 1)),
        (GJ, 0x00, "ff" * 255, str(2**2040 - 1)),
        (GJ, 0x3F, "ff" * 255, str(2**2040 - 1) + 63 * "0"),
        (GJ_TENFOLD, 0x43, "00000d80", "34.56"),
        (GJ_TENFOLD, 0x00, "07", "70"),
        (GJ_TENFOLD, 0x02, "07", "7000"),
        (BITS, 0x00, "0009", "9"),
        (TEXT, 0x00, "30324b353241433141374359", "02K52AC1A7CY"),
        (TEXT, 0x00, "41420000", "AB"),
        (TIME, 0x00, "00019258", "10:30:00"),
        (DATE, 0x00, "00035bd0", "2022-01-12"),
        (DATE, 0x40, "035bd0", "2022-01-12"),
        (DATE, 0x00, "00000000", ""),
        (LONG_DATE, 0x00, "01346484", "2021-08-20"),
        (LONG_DATE, 0x00, "00", ""),
        (MONTH_DAY, 0x00, "00000338", "08-24"),
        (MONTH_DAY, 0x00, "0000", ""),
        (RTC, 0x00, "82012102100a090c", "2012-09-10T16:02:33"),
        (RTC, 0x00, "00" * 8, ""),
        (DST, 0x00, "00180c1e000004", "2024-12-30T00:00:04"),
        (DST, 0x00, "3c1a04150c071e", "2026-04-21T13:07:30"),  # summer time
        (RTC_Q, 0x00, "82012102100a090c", "2012-09-10T16:02:33"),
        (SECONDS, 0x00, "0200000e10", "2000-01-01T01:00:00"),
        (SECONDS, 0x00, "0000000000", ""),
        (DST, 0x00, "00" * 7, ""),
    ],
)
def test_values_of_the_protocol_description(
    unit: int, sign_exponent: int, data: str, text: str
) -> None:
    value = decode_value(unit, sign_exponent, bytes.fromhex(data))
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("unit", "sign_exponent", "data", "raw"),
    [
        (DATE, 0x00, "0003fc9b", "261275"),  # no such month day
        (DATE, 0x41, "00035bd0", "22011.2"),  # scaled
        (DATE, 0x80, "00035bd0", "-220112"),
        (DATE, 0x00, "000f4240", "1000000"),
        (LONG_DATE, 0x00, "013464a0", "20210848"),
        (LONG_DATE, 0x80, "0001", "-1"),
        (LONG_DATE, 0x00, "ffffffffffff", str(2**48 - 1)),
        (MONTH_DAY, 0x00, "0001", "1"),
        (MONTH_DAY, 0x80, "0338", "-824"),
        (TIME, 0x00, "0003a980", "240000"),
        (TIME, 0x01, "00019258", "1030000"),
        (TIME, 0x00, "ffffffffffff", str(2**48 - 1)),
        (TIME, 0x00, "ff" * 255, str(2**2040 - 1)),
        (DATE, 0x3F, "01", "1" + 63 * "0"),
        (MONTH_DAY, 0x00, "2858", "10328"),  # a month 103
        (LONG_DATE, 0x3F, "01", "1" + 63 * "0"),
        (RTC, 0x00, "8201", "8201"),
        (RTC, 0x00, "82012102100a0d0c", "82012102100a0d0c"),
        (DST, 0x00, "00180d1e000004", "00180d1e000004"),
        (DST, 0x00, "00", "00"),
        (TEXT, 0x00, "41ff", "41ff"),
        (TEXT, 0x00, "410a", "410a"),
        (RTC_Q, 0x00, "0102", "0102"),
        (DATE_TIME, 0x43, "0102", "0102"),
        (GJ, 0x00, "ff" * 12, str(2**96 - 1)),  # more digits than any meter counts
        (GJ, 0x7F, "01", "0." + "0" * 62 + "1"),
        (GJ_TENFOLD, 0x80, "ff" * 12, f"-{2**96 - 1}0"),
        (BITS, 0x00, "ff" * 12, str(2**96 - 1)),
    ],
)
def test_what_is_no_date_time_or_text_is_reported_raw(
    unit: int, sign_exponent: int, data: str, raw: str
) -> None:
    value = decode_value(unit, sign_exponent, bytes.fromhex(data))
    assert value == Unreadable(raw)
    assert format_value(value) == raw


@given(any_unit, st.integers(0, 255), st.binary(max_size=255))
def test_any_bytes_of_any_unit_have_a_value_and_a_plain_text(
    unit: int, sign_exponent: int, data: bytes
) -> None:
    text = format_value(decode_value(unit, sign_exponent, data))
    assert unit == TEXT or "E" not in text


@given(any_unit, any_sign_exponent, st.binary(max_size=12) | st.binary(max_size=255))
def test_any_value_survives_encoding_in_as_many_bytes(
    unit: int, sign_exponent: int, data: bytes
) -> None:
    value = decode_value(unit, sign_exponent, data)
    code, again = encode_value(value, unit, len(data))
    assert len(again) == len(data) or unit == TEXT
    decoded = decode_value(unit, code, again)
    assert decoded == value
    assert type(decoded) is type(value)
    assert format_value(decoded) == format_value(value)


@given(any_unit, any_sign_exponent)
def test_no_bytes_are_no_value(unit: int, sign_exponent: int) -> None:
    assert decode_value(unit, sign_exponent, b"") == Unreadable("")


@given(any_unit, any_sign_exponent, st.binary(max_size=255))
def test_a_number_has_no_more_digits_than_can_be_reckoned_with(
    unit: int, sign_exponent: int, data: bytes
) -> None:
    value = decode_value(unit, sign_exponent, data)
    if isinstance(value, Decimal | BitField):
        digits = format_value(value).lstrip("-").replace(".", "")
        assert len(digits) <= MAX_DIGITS


@given(st.integers(0, 255), st.binary(min_size=1, max_size=20))
def test_numbers_are_exact(sign_exponent: int, data: bytes) -> None:
    decoded = decode_value(GJ, sign_exponent, data)
    value = Decimal(format_value(decoded))
    digits = format_value(decoded).lstrip("-").replace(".", "")
    assert isinstance(decoded, Decimal if len(digits) <= MAX_DIGITS else Unreadable)
    exponent = -(sign_exponent & 0x3F) if sign_exponent & 0x40 else sign_exponent & 0x3F
    sign = -1 if sign_exponent & 0x80 else 1
    numerator, denominator = value.as_integer_ratio()
    integer = sign * int.from_bytes(data)
    assert numerator * 10 ** max(0, -exponent) == integer * 10 ** max(0, exponent) * denominator
    if exponent <= 0:  # the meter's own number of decimals
        assert value.as_tuple().exponent == exponent


@pytest.mark.parametrize("unit", [code for code in UNITS if code not in range(47, 80)])
@given(value=numbers)
def test_numbers_survive_encoding(unit: int, value: Decimal) -> None:
    decoded = decode_value(unit, *encode_value(value, unit, 8))
    assert decoded == value
    assert format_value(decoded) == (format_value(value) if value else format_value(abs(value)))


@given(numbers)
def test_tenfold_units_survive_encoding(value: Decimal) -> None:
    assert decode_value(GJ_TENFOLD, *encode_value(value, GJ_TENFOLD, 9)) == value


@given(
    st.one_of(
        days.map(lambda day: (DATE, day)),
        days.map(lambda day: (LONG_DATE, day)),
        days.map(lambda day: (MONTH_DAY, MonthDay(day.month, day.day))),
        st.times().map(lambda moment: (TIME, moment.replace(microsecond=0))),
        moments.map(lambda moment: (RTC, moment)),
        moments.map(lambda moment: (DST, moment)),
        moments.map(lambda moment: (SECONDS, moment)),
        st.integers(0, 2**32 - 1).map(lambda bits: (BITS, BitField(bits))),
        st.text(st.characters(min_codepoint=33, max_codepoint=126)).map(lambda text: (TEXT, text)),
        st.sampled_from(
            [
                (DATE, None),
                (RTC, None),
                (SECONDS, None),
                (DST, None),
                (MONTH_DAY, None),
                (DATE, Unreadable("261275")),
            ]
        ),
        st.binary(max_size=9).map(lambda data: (RTC_Q, Unreadable(data.hex()))),
    )
)
def test_dates_times_bits_and_text_survive_encoding(pair: tuple[int, Value]) -> None:
    unit, value = pair
    decoded = decode_value(unit, *encode_value(value, unit))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("value", "unit", "size"),
    [
        (Decimal(4294967296), GJ, 4),
        (Decimal("NaN"), GJ, 4),
        (Decimal("1E-64"), GJ, 4),
        (Decimal("1E999999999"), GJ, 4),
        (Decimal(10**28), GJ, 255),
        (Decimal(0), GJ, 0),
        (BitField(256), BITS, 1),
        (BitField(10**28), BITS, 255),
        (date(1999, 12, 31), DATE, 4),
        (date(2100, 1, 1), DATE, 4),
        (None, DATE, 0),
        ("", TEXT, 0),
        ("\u20ac", TEXT, 4),
        (Unreadable("so"), GJ, 4),
        (Unreadable("so"), TEXT, 4),
        (Unreadable("NaN"), DATE, 4),
    ],
)
def test_what_does_not_fit_is_refused(value: Value, unit: int, size: int) -> None:
    with pytest.raises(ValueError):
        encode_value(value, unit, size)


@pytest.mark.parametrize(
    ("number", "within"),
    [
        ("9999999999999999999999999999", True),
        ("-9999999999999999999999999999", True),
        ("10000000000000000000000000000", False),
        ("1E27", True),
        ("1E28", False),
        ("0.000000000000000000000000001", True),
        ("1E-28", False),
        ("0E999999999", False),
        ("NaN", False),
        ("-Infinity", False),
    ],
)
def test_a_number_is_judged_by_its_digits_written_out(number: str, within: bool) -> None:
    assert within_max_digits(Decimal(number)) is within


def test_large_numbers_are_written_out() -> None:
    assert decode_value(GJ, *encode_value(Decimal("12E2"), GJ)) == 1200


def test_bits_of_a_bit_field_have_numbers() -> None:
    assert BitField(0b1001).bits == (0, 3)
    assert BitField(0).bits == ()
