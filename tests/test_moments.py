"""The moments of intervals and cron expressions: on the clock, in local time, all year."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.polling.moments import cron, cron_expression, every, longest_gap

HOUR, DAY = 3600.0, 86400.0
NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
UTC, INDIA = ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")

times = st.floats(NOON, NOON + 365 * DAY)
zones = st.sampled_from(["UTC", "Europe/Amsterdam", "Asia/Kolkata", "Australia/Lord_Howe"])
intervals = st.integers(1, 7 * 86400).map(float)


def local(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=AMSTERDAM).timestamp()


def test_polls_fall_on_the_clock() -> None:
    assert every(300, UTC)(NOON + 61) == NOON + 300
    assert every(300, UTC)(NOON) == NOON + 300
    assert every(300, UTC)(NOON + 299.9) == NOON + 300
    assert every(3600, INDIA)(NOON) == NOON + 1800  # on its own hour
    assert every(DAY, AMSTERDAM)(NOON) == NOON + 11 * 3600  # local midnight


@given(times, zones, intervals)
def test_the_next_poll_is_ahead_and_not_far(now: float, zone: str, interval: float) -> None:
    due = every(interval, ZoneInfo(zone))(now)
    assert now < due <= now + interval + 3600.001


@pytest.mark.parametrize(
    ("interval", "begin", "moments"),
    [
        (DAY, "2026-10-23T12:00", ["10-24T00:00", "10-25T00:00", "10-26T00:00"]),
        (DAY, "2026-03-27T12:00", ["03-28T00:00", "03-29T00:00", "03-30T00:00"]),
        (6 * HOUR, "2026-10-24T23:00", ["10-25T00:00", "10-25T06:00", "10-25T12:00"]),
        (6 * HOUR, "2026-03-28T23:00", ["03-29T00:00", "03-29T06:00", "03-29T12:00"]),
    ],
)
def test_intervals_of_hours_keep_local_time(
    interval: float, begin: str, moments: list[str]
) -> None:
    after, moment = every(interval, AMSTERDAM), local(begin)
    for expected in moments:
        moment = after(moment)
        assert moment == local(f"2026-{expected}")


@pytest.mark.parametrize("moments", [every(600, AMSTERDAM), cron("*/10 * * * *", AMSTERDAM)])
@pytest.mark.parametrize("day", ["2026-10-25", "2026-03-29"])
def test_every_ten_minutes_also_when_summer_time_changes(moments: object, day: str) -> None:
    assert callable(moments)
    moment = local(f"{day}T00:00")
    for _ in range(60):
        due = moments(moment)
        assert due == moment + 600
        moment = due


@pytest.mark.parametrize(
    ("given", "now", "due"),
    [
        ("59", "2026-11-24T10:20:30.5", "2026-11-24T10:59:00"),
        ("59", "2026-11-24T10:59:00", "2026-11-24T11:59:00"),
        ("14,44", "2026-11-24T10:20:30", "2026-11-24T10:44:00"),
        ("0 0 * * *", "2026-11-24T10:20:30", "2026-11-25T00:00:00"),
        ("30 2 * * *", "2026-03-28T12:00:00", "2026-03-29T03:00:00"),  # 2:30 does not exist
        ("30 2 * * *", "2026-10-24T12:00:00", "2026-10-25T02:30:00"),  # and is there twice
    ],
)
def test_polls_at_moments(given: str, now: str, due: str) -> None:
    assert cron(cron_expression(given), AMSTERDAM)(local(now)) == local(due)


def test_hourly_moments_also_in_the_hour_that_comes_twice() -> None:
    moment, after = local("2026-10-24T23:59"), cron("59 * * * *", AMSTERDAM)
    for _ in range(6):
        due = after(moment)
        assert due == moment + 3600
        moment = due


@pytest.mark.parametrize("given", ["60", "x", "", "* *", "0 0 31 2 *", "1 2 3 4 5 6", "-1"])
def test_what_is_no_moment(given: str) -> None:
    with pytest.raises(ValueError):
        cron_expression(given)


def test_the_longest_time_between_two_moments() -> None:
    assert longest_gap("59 * * * *") == 3600
    assert longest_gap("0 6,18 * * *") == 12 * 3600
    assert longest_gap("0 0 * * 1") == 7 * DAY
