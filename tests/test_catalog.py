"""The catalog: names, numbers, units, models and info codes."""

import pytest

from kamstrup_mqtt import catalog
from kamstrup_mqtt.errors import UsageError

# Word for word from the documentation of kamstrup-402-mqtt.
DOCUMENTED = """
energy power temp1 temp2 tempdiff flow volume minflow_m maxflow_m minflowDate_m maxflowDate_m
minpower_m maxpower_m avgtemp1_m avgtemp2_m minpowerdate_m maxpowerdate_m minflow_y maxflow_y
minflowdate_y maxflowdate_y minpower_y maxpower_y avgtemp1_y avgtemp2_y minpowerdate_y
maxpowerdate_y temp1xm3 temp2xm3 infoevent hourcounter
"""
CLASSIC = DOCUMENTED.split()
CLASSIC_NUMBERS = [
    0x3C, 0x50, 0x56, 0x57, 0x59, 0x4A, 0x44, 0x8D, 0x8B, 0x8C, 0x8A, 0x91, 0x8F, 0x95, 0x96, 0x90,
    0x8E, 0x7E, 0x7C, 0x7D, 0x7B, 0x82, 0x80, 0x92, 0x93, 0x81, 0x7F, 0x61, 0x6E, 0x71, 0x3EC,
]  # fmt: skip


def test_the_31_older_parameters_are_known_in_any_case() -> None:
    assert list(catalog.CLASSIC_PARAMETERS) == CLASSIC
    for form in (str, str.upper, str.lower, lambda name: f" {name} "):
        assert [catalog.register_number(form(name)) for name in CLASSIC] == CLASSIC_NUMBERS


def test_names_are_unique_readable_and_lead_back_to_their_register() -> None:
    names = [register.name for register in catalog.REGISTERS.values()]
    assert len({name.lower() for name in names}) == len(names)
    for register in catalog.REGISTERS.values():
        assert register.name in CLASSIC or register.name == register.name.lower()
        assert register.name.replace("_", "").isalnum()
        assert register.title
        assert catalog.register_number(register.name) == register.number
        assert set(register.models) <= set(catalog.MODELS)
        assert set(register.units) <= set(catalog.UNITS.values())


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("energy_high_res", 266),
        ("cooling_energy", 63),
        ("info_code", 99),
        ("serial_number", 1001),
        ("60", 60),
        ("0060", 60),
        ("0x10A", 266),
        ("0X10a", 266),
        (0x10A, 266),
    ],
)
def test_parameters_by_name_and_number(name: str | int, number: int) -> None:
    assert catalog.register_number(name) == number


def test_an_unknown_register_is_named_by_its_number() -> None:
    assert catalog.register_name(0x123) == "0x0123"
    assert catalog.register_number("0x0123") == 0x123


def test_all_means_every_register_once() -> None:
    assert catalog.register_numbers(["volume", "ALL", "60"])[0] == 68
    assert sorted(catalog.register_numbers(["all", "volume"])) == sorted(catalog.REGISTERS)
    assert catalog.register_numbers(["energy", "60", "0x3c"]) == (60,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("enregy", "did you mean 'energy'"),
        ("minflowdat_m", "did you mean 'minflowDate_m'"),
        ("-1", "0 to 0xFFFF"),
        ("65536", "0 to 0xFFFF"),
        (65536, "0 to 0xFFFF"),
        (-1, "0 to 0xFFFF"),
        ("qqqqqq", "unknown parameter 'qqqqqq'"),
        ("", "unknown parameter"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest_name(name: str | int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        catalog.register_number(name)


def test_every_unit_code_has_a_symbol() -> None:
    assert set(range(65)) <= set(catalog.UNITS)
    assert (catalog.unit_symbol(8), catalog.unit_symbol(41), catalog.unit_symbol(51)) == (
        "GJ", "l/h", "",
    )  # fmt: skip
    assert catalog.unit_symbol(200) == "unit 200"


def test_only_documented_types_have_a_model() -> None:
    assert catalog.model_of_type(0x0004) == "601"
    assert catalog.model_of_type(0x1234) is None


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("403", 0, []),
        ("403", 24, ["T1 above its range or disconnected", "T2 above its range or disconnected"]),
        (
            "403",
            1_100_000,
            ["T1 above its range or disconnected", "T2 above its range or disconnected"],
        ),
        ("403", 9_900_000, ["invalid temperature difference T1 - T2"]),
        ("403", 1024, ["not documented: bit 1024"]),
        (
            "601",
            12,
            ["temperature sensor T2 outside its range", "temperature sensor T1 outside its range"],
        ),
        ("603", 20_000_007, ["low battery", "leakage at input B2"]),
        ("403", 100_000_000, ["not documented: info code 100000000"]),  # nine digits
        ("403", -1, ["not documented: info code -1"]),
        ("603", 24, []),  # a sum of bits or digits: nobody knows
        ("402", 12, []),
        ("nobody's", 12, []),
    ],
)
def test_info_codes_in_words_where_a_table_is_public(
    model: str, code: int, words: list[str]
) -> None:
    assert list(catalog.info_words(code, model)) == words
