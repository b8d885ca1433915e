"""Ports that cannot be opened: what is said, and what to check."""

import pytest

from kamstrup_mqtt import PortError, open_meter
from kamstrup_mqtt.simulator import SimulatedMeter, serve_pty


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("/dev/ttyNOTTHERE", "does not exist"),
        ("/dev/null", "no serial port"),
        ("/tmp", "no serial port"),
        ("socket://127.0.0.1:1", "refused"),
        ("socket://127.0.0.1", "host:port"),
        ("socket://127.0.0.1:99999", "host:port"),
        ("socket://no-such-host.invalid:4000", "cannot be reached"),
        ("sokcet://127.0.0.1:4000", "unknown"),
        ("rfc2217://127.0.0.1:1", "refused"),
    ],
)
async def test_a_port_that_cannot_be_opened_says_what_to_check(port: str, said: str) -> None:
    with pytest.raises(PortError, match=said) as caught:
        async with open_meter(port):
            pass
    assert "\n" not in str(caught.value)
    assert port in str(caught.value)


async def test_a_port_that_another_program_reads_is_in_use() -> None:
    async with serve_pty(SimulatedMeter()) as path, open_meter(path):
        with pytest.raises(PortError, match="in use"):
            async with open_meter(path):
                pass
