"""The schedule: on the clock, without drift, whatever the clock does."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.polling.schedule import (
    Budget,
    cron_expression,
    longest_gap,
    next_at,
    next_due,
    retry_delay,
)
from kamstrup_mqtt.quantities import duration, keep_seconds, size_bytes

DAY = 86400.0
NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC

times = st.floats(NOON, NOON + 365 * DAY)
offsets = st.integers(-12 * 4, 14 * 4).map(lambda quarters: quarters * 900.0)
intervals = st.integers(1, 7 * 86400).map(float)


def test_readings_fall_on_the_clock() -> None:
    assert next_due(NOON + 61, 0, 300, None) == NOON + 300
    assert next_due(NOON, 0, 300, None) == NOON + 300
    assert next_due(NOON + 299.9, 0, 300, None) == NOON + 300
    assert next_due(NOON, 5.5 * 3600, 3600, None) == NOON + 1800  # India: on its own hour
    assert next_due(NOON, 3600, DAY, None) == NOON + 11 * 3600  # local midnight


def test_waking_a_little_early_does_not_repeat_a_reading() -> None:
    assert next_due(NOON - 0.01, 0, 300, NOON) == NOON + 300
    # A clock that was set back is another matter: the grid counts from where it is now.
    assert next_due(NOON - 600, 0, 300, NOON) == NOON - 300


@given(times, offsets, intervals)
def test_the_next_reading_is_ahead_and_at_most_an_interval_away(
    now: float, offset: float, interval: float
) -> None:
    due = next_due(now, offset, interval, None)
    assert now < due <= now + interval + 0.001


@given(times, offsets, intervals, st.lists(st.floats(0, 0.5), max_size=20))
def test_drift_never_adds_up(
    now: float, offset: float, interval: float, delays: list[float]
) -> None:
    due = next_due(now, offset, interval, None)
    first = due
    for count, delay in enumerate(delays, start=1):
        due = next_due(due + delay * interval, offset, interval, due)
        assert abs(due - first - count * interval) < 0.001


def test_a_failed_reading_is_tried_again_ever_more_rarely() -> None:
    assert [retry_delay(n, 300) for n in (1, 2, 3, 7, 8, 1000)] == [5, 10, 20, 300, 300, 300]
    assert retry_delay(10**6, 7 * DAY) == 7 * DAY  # a head that was never plugged in again


def test_durations_as_people_say_them() -> None:
    assert [duration(s) for s in (1, 45, 90, 1680, 3600, 4.567)] == [
        "1 s", "45 s", "90 s", "28 min", "1 h", "4.57 s",
    ]  # fmt: skip


def local(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture
def amsterdam(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Amsterdam")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("given", "now", "due"),
    [
        ("59", "2026-11-24T10:20:30.5", "2026-11-24T10:59:00"),
        ("59", "2026-11-24T10:59:00", "2026-11-24T11:59:00"),
        ("14,44", "2026-11-24T10:20:30", "2026-11-24T10:44:00"),
        ("0 0 * * *", "2026-11-24T10:20:30", "2026-11-25T00:00:00"),
        ("30 2 * * *", "2026-03-28T12:00:00", "2026-03-29T03:30:00"),  # 2:30 does not exist
        ("30 2 * * *", "2026-10-24T12:00:00", "2026-10-25T02:30:00"),  # and is there twice
    ],
)
def test_readings_at_moments(amsterdam: None, given: str, now: str, due: str) -> None:
    assert next_at(cron_expression(given), local(now), None) == local(due)


def test_a_moment_is_not_repeated_by_waking_early(amsterdam: None) -> None:
    due = local("2026-11-24T10:59:00")
    assert next_at("59 * * * *", due - 0.4, due) == due + 3600


@pytest.mark.parametrize("given", ["60", "x", "", "* *", "0 0 31 2 *", "1 2 3 4 5 6", "-1"])
def test_what_is_no_moment(given: str) -> None:
    with pytest.raises(ValueError):
        cron_expression(given)


def test_the_longest_time_between_two_moments() -> None:
    assert longest_gap("59 * * * *") == 3600
    assert longest_gap("0 6,18 * * *") == 12 * 3600
    assert longest_gap("0 0 * * 1") == 7 * DAY


@pytest.mark.parametrize(("given", "days"), [("90d", 90), ("8 w", 56), ("2y", 730)])
def test_how_long_readouts_are_kept(given: str, days: int) -> None:
    assert keep_seconds(given) == days * DAY


@given(st.lists(st.floats(0, 3 * DAY), max_size=60).map(sorted), st.integers(1, 20))
def test_a_budget_is_never_exceeded(wishes: list[float], most: int) -> None:
    budget = Budget(most, [])
    spent: list[float] = []
    for wish in wishes:
        if budget.free_at(wish) <= wish:
            budget.spend(wish)
            spent.append(wish)
    for moment in spent:
        assert sum(moment - DAY < other <= moment for other in spent) <= most


def test_a_budget_says_when_there_is_room_again() -> None:
    budget = Budget(3, [10.0, 20.0])
    assert budget.free_at(30) == 30
    assert budget.free_at(30, reserved=1) == 10 + DAY
    assert budget.free_at(30, reserved=3) == 30 + DAY
    budget.spend(30)
    assert budget.free_at(40) == 10 + DAY
    assert budget.free_at(10 + DAY) == 10 + DAY
    assert Budget(None, []).free_at(5) == 5


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
