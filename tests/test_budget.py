"""The budget and the waits between two tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt.polling.backoff import retry_delay
from kamstrup_mqtt.polling.budget import Budget
from kamstrup_mqtt.readout import Now

DAY = 86400.0
NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC


@given(st.lists(st.floats(0, 3 * DAY), max_size=60).map(sorted), st.integers(1, 20))
def test_a_budget_is_never_exceeded(wishes: list[float], most: int) -> None:
    budget = Budget(most)
    spent: list[float] = []
    for wish in wishes:
        if budget.free_at(wish) <= wish:
            budget.spend(wish)
            spent.append(wish)
    for moment in spent:
        assert sum(moment - DAY < other <= moment for other in spent) <= most


def test_a_budget_says_when_there_is_room_again() -> None:
    budget = Budget(3)
    budget.spend(10)
    budget.spend(20)
    assert budget.free_at(30) == 30
    assert budget.free_at(30, reserved=1) == 10 + DAY
    assert budget.free_at(30, reserved=3) == 30 + DAY
    budget.spend(30)
    assert budget.free_at(40) == 10 + DAY
    assert budget.free_at(10 + DAY) == 10 + DAY
    assert Budget(None).free_at(5) == 5


def test_a_failed_poll_is_tried_again_ever_more_rarely() -> None:
    assert [retry_delay(n, 300) for n in (1, 2, 3, 7, 8, 1000)] == [5, 10, 20, 300, 300, 300]
    assert retry_delay(10**6, 7 * DAY) == 7 * DAY  # a head that was never plugged in again


def test_what_an_earlier_run_asked_is_dated_again_when_the_clock_is_set() -> None:
    budget = Budget(3, begin=100.0)
    budget.resume([NOON, NOON + 60, NOON + 120], Now(NOON - DAY, 100.0))  # a clock behind
    assert budget.free_at(100) == pytest.approx(100 + DAY / 4)  # nobody knows
    assert budget.stamps(0.0) == (NOON, NOON + 60, NOON + 120)
    budget.clock_set(Now(NOON + 3600, 200.0))
    assert budget.free_at(200) == 200 + DAY - 3600
    budget = Budget(3, begin=100.0)
    budget.resume([NOON, NOON + 60, NOON + 120], Now(NOON + 9 * DAY, 100.0))  # a clock ahead
    assert budget.free_at(100) == 100
    budget.clock_set(Now(NOON + 3600, 200.0))
    assert budget.free_at(200) == 200 + DAY - 3600
    budget.clock_set(Now(NOON + 9 * DAY, 300.0))  # and again: what was recent stays recent
    assert budget.free_at(300) == 200 + DAY - 3600
