"""Commands over MQTT: whatever anybody sends, the gateway understands it or says why not."""

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kamstrup_mqtt import UsageError
from kamstrup_mqtt.gateway.commands import COMMANDS, wanted_interval, wanted_readout


@pytest.mark.parametrize(
    ("payload", "registers"),
    [
        ("", ()),
        ("PRESS", ()),
        ("{}", ()),
        ('{"for": "30m"}', ()),
        ("[]", ()),
        ("\xff", ()),
        ("[" * 4000, ()),
        ('["energy"' + " " * 5000 + "]", ()),
        ('["energy", "POWER", 266, "0x3C"]', (60, 80, 266)),
        ('["all"]', "all"),
    ],
)
def test_what_a_message_on_read_limits_the_readout_to(payload: str, registers: object) -> None:
    found = wanted_readout(payload.encode("latin-1")).registers
    assert found == registers or (registers == "all" and len(found) > 100)


@pytest.mark.parametrize(
    "payload", ['["enrgy"]', "[true]", "[null]", "[[60]]", "[-1]", "[65536]", "[1e3]", '[""]']
)
def test_lists_that_name_no_parameters_are_refused(payload: str) -> None:
    with pytest.raises(UsageError):
        wanted_readout(payload.encode())


@pytest.mark.parametrize(("given", "seconds"), [("30m", 1800), ("10", 600), ("7h", 25200)])
def test_reading_faster_for_a_time(given: str, seconds: float) -> None:
    assert wanted_readout(json.dumps({"for": given}).encode()) == ((), seconds)


@pytest.mark.parametrize("given", ["", None, [], "long", -1])
def test_no_times(given: object) -> None:
    with pytest.raises(UsageError, match="a time such as 30m"):
        wanted_readout(json.dumps({"for": given}).encode())


@pytest.mark.parametrize(
    ("payload", "seconds"), [("5", 300), ("5.0", 300), (" 30s ", 30), ("1h", 3600), ("", None)]
)
def test_intervals(payload: str, seconds: float | None) -> None:
    assert wanted_interval(payload.encode()) == seconds


@pytest.mark.parametrize("payload", ["0", "-5", "x", "8d", "1e9", "9" * 5000])
def test_no_intervals(payload: str) -> None:
    with pytest.raises(UsageError, match="expected minutes such as 28"):
        wanted_interval(payload.encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
)


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 3000)
@example(b'["' + b"x" * 4000 + b'"]')
@example(b"[" + b"9" * 4090 + b"]")
def test_no_payload_does_more_than_be_refused(payload: bytes) -> None:
    class Nobody:
        def request(self, registers: tuple[int, ...] = ()) -> None:
            assert all(0 <= number <= 0xFFFF for number in registers)

        def boost(self, seconds: float) -> None:
            assert 1 <= seconds <= 86400

        def set_interval(self, seconds: float | None) -> None:
            assert seconds is None or 1 <= seconds <= 7 * 86400

    for command in COMMANDS.values():
        with contextlib.suppress(UsageError):
            command(Nobody(), payload)
