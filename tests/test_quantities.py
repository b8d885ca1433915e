"""Times and sizes as people write and read them."""

import pytest

from kamstrup_mqtt.quantities import duration, keep_seconds, size_bytes

DAY = 86400.0


def test_durations_as_people_say_them() -> None:
    assert [duration(s) for s in (1, 45, 90, 1680, 3600, 4.567, 5400, 45900, 86400)] == [
        "1 s", "45 s", "90 s", "28 min", "1 h", "4.57 s", "90 min", "12 h 45 min", "24 h",
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "days"), [("90d", 90), ("8 w", 56), ("2y", 730)])
def test_how_long_readouts_are_kept(given: str, days: int) -> None:
    assert keep_seconds(given) == days * DAY


@pytest.mark.parametrize(
    ("given", "megabytes"),
    [("500MB", 500), ("1GB", 1024), ("1.5 gb", 1536), ("2G", 2048), ("1mib", 1), ("2048 kB", 2)],
)
def test_a_size(given: str, megabytes: int) -> None:
    assert size_bytes(given) == megabytes << 20


@pytest.mark.parametrize("given", ["", "1", "GB", "-1GB", "900kB", "1PB", "9999999TB", "1 GB 2"])
def test_no_size(given: str) -> None:
    with pytest.raises(ValueError):
        size_bytes(given)
