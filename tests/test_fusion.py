"""Two registers as one counter, whatever they say; the rest of it is in test_homeassistant.py."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import Reading
from kamstrup_mqtt.kmp import Value, decode_value, within_max_digits
from kamstrup_mqtt.outputs.fusion import FusedCounter

extremes = st.builds(
    lambda sign_exponent, data: decode_value(8, sign_exponent, data),
    st.sampled_from([0x00, 0x03, 0x1B, 0x3F, 0x43, 0x5B, 0x7F, 0x80, 0xDB]),
    st.sampled_from([b"", b"\x00", b"\x01"]) | st.binary(max_size=12),
)
units = st.sampled_from(["Wh", "kWh", "MWh", "GWh", "kJ", "MJ", "GJ", "Gcal", "l", "m³"])


@given(st.lists(st.tuples(extremes, units, extremes, units), min_size=1, max_size=5))
def test_whatever_two_registers_say_there_is_a_counter_or_none(
    told: list[tuple[Value, str, Value, str]],
) -> None:
    fused = FusedCounter()
    for coarse, coarse_unit, fine, fine_unit in told:
        total = fused.update(
            Reading(60, "energy", coarse, coarse_unit),
            Reading(266, "energy_high_res", fine, fine_unit),
        )
        if total is not None:
            assert isinstance(total.value, Decimal)
            assert within_max_digits(total.value)


def test_a_counter_with_more_digits_than_a_number_has_is_none() -> None:
    fused = FusedCounter()
    most, least = Decimal(10**27), Decimal("1E-27")
    fine = Reading(266, "energy_high_res", least, "Wh")
    assert fused.update(Reading(60, "energy", most, "GJ"), fine) is None
    total = fused.update(Reading(60, "energy", Decimal("0.000"), "GJ"), fine)
    assert total is not None
    assert total.value == least


def test_a_counter_follows_a_main_register_that_went_back() -> None:
    """As after a value that cannot be, and that the meter said twice."""
    fused, seen = FusedCounter(), []
    for energy, fine in (("60.000", 5), ("9999999.000", 6), ("60.001", 1005), ("60.002", 2005)):
        total = fused.update(
            Reading(60, "energy", Decimal(energy), "MWh"),
            Reading(266, "energy_high_res", Decimal(fine), "Wh"),
        )
        seen.append(total and total.value)
    assert seen == [60_000_005, 9_999_999_000_006, 60_001_005, 60_002_005]
