"""The schedule: on the clock, without drift, whatever the clock does."""

from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.gateway.schedule import duration, next_due, retry_delay

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
