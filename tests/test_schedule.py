"""The schedule: on the clock, without drift, within the budget, whatever the clock does."""

from dataclasses import replace
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kamstrup_mqtt.polling.cost import warned
from kamstrup_mqtt.polling.job import Fault, Job, Kind, Wake
from kamstrup_mqtt.polling.memory import Memory
from kamstrup_mqtt.polling.schedule import CLOCK_S, SLEEPY_S, Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import Now

HOUR, DAY = 3600.0, 86400.0
NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC
AMSTERDAM = ZoneInfo("Europe/Amsterdam")


class Meter:
    """A schedule at work on a meter, hour by hour."""

    def __init__(self, wall: float = NOON, **settings: object) -> None:
        given = {"interval_s": HOUR} | settings
        self.settings = MeterConfig("meter", "port", (60, 68), topic="t", **given)  # type: ignore[arg-type]
        self.now = Now(wall, 1000.0)
        self.schedule = Schedule(self.settings, AMSTERDAM, self.now)
        self.jobs: list[tuple[Kind, float]] = []
        self.asked: list[float] = []  # on the monotonic clock

    def live(self, seconds: float, fault: Fault | None = None, takes_s: float = 2.0) -> list[Kind]:
        """Do what is to be done for so long; gives what that was."""
        end, before = self.now.monotonic + seconds, len(self.jobs)
        while True:
            found = self.schedule.next(self.now)
            if isinstance(found, Job):
                self.jobs.append((found.kind, self.now.wall))
                self.asked.append(self.now.monotonic)
                self.sleep(takes_s)
                if fault is None:
                    self.schedule.done(found, self.now)
                else:
                    self.schedule.failed(found, fault, self.now)
            elif found.at > end:
                self.sleep(end - self.now.monotonic)
                return [kind for kind, _ in self.jobs[before:]]
            else:
                self.sleep(found.at - self.now.monotonic)

    def sleep(self, seconds: float) -> None:
        self.now = Now(self.now.wall + seconds, self.now.monotonic + seconds)

    def set(self, by: float) -> None:
        self.now = Now(self.now.wall + by, self.now.monotonic)

    def restart(self, last: float | None) -> None:
        memory = self.schedule.memory
        self.schedule = Schedule(self.settings, AMSTERDAM, self.now)
        self.schedule.resume(self.now, memory, last)


def test_a_restart_does_not_read_at_once_what_was_read_a_moment_ago() -> None:
    meter = Meter()
    assert meter.live(60) == [Kind.POLL]
    meter.restart(meter.jobs[-1][1])
    assert meter.live(HOUR) == [Kind.POLL]
    assert meter.jobs[-1][1] == NOON + HOUR
    meter.sleep(3 * HOUR)  # what was due meanwhile is read at once
    meter.restart(meter.jobs[-1][1])
    assert meter.live(60) == [Kind.POLL]


def test_a_clock_behind_at_the_start_is_given_time_to_be_set() -> None:
    meter = Meter()
    meter.schedule.resume(meter.now, Memory(), NOON + DAY)
    assert meter.schedule.awaits_clock
    assert meter.live(CLOCK_S - 10) == []
    assert meter.live(20) == [Kind.POLL]
    meter = Meter()
    meter.schedule.resume(meter.now, Memory(), NOON + DAY)
    meter.set(DAY + 600)
    assert meter.live(HOUR - 700) == []  # and then there was no need to hurry
    assert meter.live(200) == [Kind.POLL]


def test_a_partial_request_does_not_swallow_the_poll_that_is_due() -> None:
    meter = Meter()
    meter.live(HOUR - 1)
    meter.schedule.request((80,))
    meter.sleep(2)
    assert meter.live(60) == [Kind.POLL, Kind.REQUEST]


def test_what_is_asked_for_during_a_readout_is_read_after_it() -> None:
    meter = Meter()
    job = meter.schedule.next(meter.now)
    meter.schedule.request()
    assert meter.schedule.next(meter.now) is job
    assert isinstance(job, Job)
    meter.schedule.done(job, meter.now)
    assert meter.live(60) == [Kind.REQUEST]


def test_a_meter_is_kept_awake_once_it_was_found_asleep() -> None:
    meter = Meter(interval_s=2 * HOUR)
    assert meter.live(DAY) == [Kind.POLL] * 13
    meter.schedule.slept = True
    found = meter.live(DAY)
    asked = [at for _, at in meter.jobs[-len(found) :]]
    assert max(b - a for a, b in pairwise(asked)) <= SLEEPY_S + 60
    assert found.count(Kind.POLL) == 12
    meter.restart(meter.jobs[-1][1])
    assert meter.schedule.keeps_awake
    assert not Meter(interval_s=28 * 60 - 300).schedule.keeps_awake
    for wanted in (True, False):
        assert Meter(keep_awake=wanted).schedule.keeps_awake is wanted


def test_keeping_awake_counts_in_the_budget() -> None:
    meter = Meter(interval_s=4 * HOUR, keep_awake=True, max_readings_per_day=20)
    assert 18 <= len(meter.live(DAY - 60)) <= 20


def test_a_budget_stretches_the_interval_instead_of_ending_the_day() -> None:
    meter = Meter(interval_s=60.0, max_readings_per_day=24)
    meter.live(2 * DAY)
    polls = [at for _, at in meter.jobs]
    assert len(polls) >= 46
    assert max(b - a for a, b in pairwise(polls)) <= HOUR + 120
    for _ in range(10):
        meter.schedule.request()
        meter.live(10)
    found = meter.live(DAY)
    assert 12 <= len(found) <= 24
    polls = [at for _, at in meter.jobs]
    assert max(b - a for a, b in pairwise(polls)) <= 3 * HOUR


def test_a_budget_for_every_slot_leaves_none_out() -> None:
    meter = Meter(max_readings_per_day=24)
    assert len(meter.live(10 * DAY)) >= 24 * 10


def test_noise_does_not_end_the_day_of_a_budget() -> None:
    meter = Meter(max_readings_per_day=10)
    meter.live(HOUR, Fault.UNUSABLE)
    meter.live(DAY)
    assert max(b - a for (_, a), (_, b) in pairwise(meter.jobs)) < 9 * HOUR


def test_small_steps_wait_for_all_else() -> None:
    meter = Meter()
    meter.live(60)
    meter.schedule.begin(Kind.ALIGN)
    meter.schedule.request()
    found = [meter.schedule.next(meter.now)]
    assert found == [Job(Kind.REQUEST)]
    meter.schedule.done(Job(Kind.REQUEST), meter.now)
    assert meter.schedule.next(meter.now) == Job(Kind.ALIGN)
    meter.schedule.stop(Kind.ALIGN)
    meter.schedule.done(Job(Kind.ALIGN), meter.now)
    assert isinstance(meter.schedule.next(meter.now), Wake)


@pytest.mark.parametrize("by", [-HOUR, -23 * HOUR, -400 * DAY, HOUR, 400 * DAY, 12 * 365 * DAY])
def test_a_clock_that_is_set_never_makes_the_wait_longer(by: float) -> None:
    meter = Meter(interval_s=600.0)
    meter.live(60)
    meter.set(by)
    assert Kind.POLL in meter.live(601)
    meter.set(-by)
    assert Kind.POLL in meter.live(601)


def test_what_an_earlier_run_asked_counts_and_memory_is_kept_as_json() -> None:
    meter = Meter(interval_s=60.0, max_readings_per_day=3)
    for _ in range(2):
        meter.schedule.request()
    meter.live(30)
    for _ in range(2):
        meter.schedule.request()
        meter.live(10)
    assert len(meter.jobs) == 3
    memory = meter.schedule.memory
    assert Memory.from_json(memory.to_json()) == memory
    meter.restart(meter.jobs[-1][1])
    assert meter.live(23 * HOUR) == []
    for damaged in (
        None,
        "",
        "[]",
        "{",
        '{"asked": 1}',
        '{"asked": ["x"], "slept": 1}',
        '{"asked": [1' + "0" * 400 + '], "slept": true}',
    ):
        assert Memory.from_json(damaged) == Memory()


def test_pings_leave_the_budget_to_the_polls() -> None:
    meter = Meter(keep_awake=True, max_readings_per_day=24)
    assert meter.live(3 * DAY).count(Kind.POLL) >= 71


def test_a_lost_port_is_noticed_by_a_ping_and_not_hammered() -> None:
    meter = Meter(interval_s=6 * HOUR, keep_awake=True)
    meter.live(60)
    found = meter.live(2 * HOUR, Fault.PORT)
    assert 60 < len(found) < 130
    assert found.count(Kind.PING) == 1
    assert meter.live(120) == [Kind.POLL]


def test_a_shorter_interval_shortens_the_wait_for_the_next_try() -> None:
    meter = Meter(interval_s=DAY)
    meter.live(3 * DAY, Fault.SILENT)
    meter.schedule.set_interval(60.0, meter.now)
    assert meter.live(120) != []


def test_a_request_that_failed_is_tried_once_more_with_the_next_success() -> None:
    meter = Meter(interval_s=DAY)
    meter.live(60)
    meter.schedule.request((74,))
    job = meter.schedule.next(meter.now)
    assert job == Job(Kind.REQUEST, (74,))
    meter.schedule.failed(job, Fault.PORT, meter.now)
    assert meter.live(60) == [Kind.POLL, Kind.REQUEST]
    meter.schedule.request((74,))
    for _ in range(2):
        while isinstance(job := meter.schedule.next(meter.now), Wake) or job.kind is Kind.POLL:
            if isinstance(job, Wake):
                meter.sleep(job.at - meter.now.monotonic)
            else:
                meter.schedule.done(job, meter.now)
        meter.schedule.failed(job, Fault.UNUSABLE, meter.now)
    assert Kind.REQUEST not in meter.live(HOUR)


def test_a_meter_that_stopped_answering_while_water_flowed_is_spared() -> None:
    meter = Meter(active_interval_s=30.0)
    meter.schedule.flowing = True
    meter.live(60)
    assert len(meter.live(DAY, Fault.SILENT)) < 90


def test_a_restart_keeps_the_pace_of_the_budget() -> None:
    meter = Meter(max_readings_per_day=4)
    for _ in range(16):
        found = meter.live(1.5 * HOUR)
        meter.restart(meter.jobs[-1][1])
        assert len(found) <= 1
    polls = [at for _, at in meter.jobs]
    assert max(b - a for a, b in pairwise(polls)) < 9 * HOUR


def test_a_step_that_fails_is_tried_again() -> None:
    meter = Meter()
    meter.live(60)
    meter.schedule.begin(Kind.BACKFILL)
    found = meter.live(600, Fault.SILENT)
    assert 5 < found.count(Kind.BACKFILL) < 20


def test_a_partial_request_does_not_swallow_a_poll_that_failed() -> None:
    meter = Meter(interval_s=DAY)
    job = meter.schedule.next(meter.now)
    assert isinstance(job, Job)
    meter.schedule.failed(job, Fault.SILENT, meter.now)
    meter.sleep(5)
    meter.schedule.request((80,))
    meter.sleep(1)
    assert sorted(meter.live(30)) == [Kind.POLL, Kind.REQUEST]


def test_a_silent_meter_is_not_hammered_by_whoever_asks() -> None:
    meter = Meter()
    meter.live(60)
    for _ in range(600):
        meter.schedule.request()
        meter.live(1, Fault.SILENT)
    assert len(meter.jobs) < 60


def test_a_clock_set_just_before_a_moment_does_not_leave_it_out() -> None:
    meter = Meter(poll_at="0 12 * * *")
    meter.live(60)
    meter.live(12 * HOUR)
    meter.set(11 * HOUR - 60.4)
    assert meter.live(5) == [Kind.POLL]


def test_a_moment_that_was_polled_does_not_come_again_by_a_clock_set_back_a_little() -> None:
    meter = Meter(poll_at="0 * * * *")
    meter.live(HOUR + 1)
    meter.set(-6)
    assert meter.live(HOUR - 10) == []
    assert meter.live(20) == [Kind.POLL]


def test_a_partial_readout_later_than_the_full_one_is_not_taken_for_it() -> None:
    meter = Meter(NOON + 1800)
    meter.schedule.resume(meter.now, Memory(), NOON + 1200, NOON + 1700)
    assert meter.live(1700) == []
    meter = Meter(NOON + 1800)
    meter.schedule.resume(meter.now, Memory(), NOON - 3 * HOUR, NOON + 1700)
    assert meter.live(60) == [Kind.POLL]
    meter = Meter(NOON + 1800)  # whose clock is behind the latest readout, and is then set
    meter.schedule.resume(meter.now, Memory(), NOON + 1200, NOON + HOUR)
    assert meter.schedule.awaits_clock
    meter.set(HOUR + 1)
    assert meter.live(10) == [Kind.POLL]


@pytest.mark.parametrize(
    "plan",
    [
        {"max_readings_per_day": 24},
        {"max_readings_per_day": 24, "poll_at": "0 * * * *"},
        {"max_readings_per_day": 24, "interval_s": 60.0},
        {"max_readings_per_day": 1, "interval_s": DAY},
    ],
)
def test_a_budget_moves_no_poll_away_from_its_slot(plan: dict[str, Any]) -> None:
    meter = Meter(**plan)
    meter.live(3 * DAY)
    meter.live(HOUR, takes_s=55)
    meter.live(20 * DAY)
    assert {round(at % 60) for _, at in meter.jobs} == {0}
    if "interval_s" not in plan:
        assert {round(at % HOUR) for _, at in meter.jobs} == {0}


@pytest.mark.parametrize(
    ("poll_at", "most", "a_day"), [("0 6-18 * * *", 13, 13), ("*/10 6-8 * * *", 24, 18)]
)
def test_a_budget_for_all_moments_of_a_part_of_the_day_leaves_none_out(
    poll_at: str, most: int, a_day: int
) -> None:
    meter = Meter(poll_at=poll_at, interval_s=16 * HOUR, max_readings_per_day=most)
    meter.live(2 * DAY)
    assert len(meter.live(10 * DAY)) == 10 * a_day


@pytest.mark.parametrize(("interval_s", "most"), [(HOUR, 23), (HOUR, 20), (600.0, 100)])
def test_a_budget_that_is_a_little_too_small_leaves_a_few_out(interval_s: float, most: int) -> None:
    meter = Meter(interval_s=interval_s, max_readings_per_day=most)
    meter.live(2 * DAY)
    assert 10 * (most - 1) <= len(meter.live(10 * DAY)) <= 10 * most
    polls = [at for _, at in meter.jobs]
    assert max(b - a for a, b in pairwise(polls)) <= 2 * interval_s + 60


def test_who_is_killed_amid_a_readout_has_asked_too() -> None:
    meter = Meter(max_readings_per_day=3)
    begun = 0
    for _ in range(30):
        begun += isinstance(meter.schedule.next(meter.now), Job)
        meter.sleep(10)
        meter.restart(None)
    assert begun == 3


def test_a_retry_just_before_a_moment_does_not_take_its_place() -> None:
    meter = Meter(NOON + 11 * HOUR - 60, poll_at="0 0 * * *", interval_s=DAY)
    meter.live(3, Fault.SILENT)
    assert meter.live(30) == [Kind.POLL]
    assert meter.live(60) == [Kind.POLL]
    assert meter.jobs[-1][1] == NOON + 11 * HOUR


def test_what_a_poll_has_read_is_not_read_again_for_a_request_that_failed() -> None:
    meter = Meter()
    meter.live(60)
    meter.schedule.request((60,))
    assert meter.live(3, Fault.PORT) == [Kind.REQUEST]
    assert meter.live(300) == [Kind.POLL]


def test_a_request_gets_its_turn_where_the_polls_take_all_of_a_budget() -> None:
    meter = Meter(max_readings_per_day=24)
    meter.live(2 * DAY)
    meter.schedule.request((99,))
    found = meter.live(3 * HOUR)
    assert found.count(Kind.REQUEST) == 1
    assert Kind.POLL in found


def test_a_clock_that_was_ahead_at_the_start_does_not_double_the_budget() -> None:
    meter = Meter(interval_s=60.0, max_readings_per_day=3)
    for _ in range(3):
        meter.schedule.request()
        meter.live(10)
    meter.set(10 * DAY)
    meter.schedule, memory = (
        Schedule(meter.settings, AMSTERDAM, meter.now), meter.schedule.memory
    )  # fmt: skip
    meter.schedule.resume(meter.now, memory._replace(asked=(NOON, NOON + 10, NOON + 20)), NOON)
    meter.set(-10 * DAY)
    assert meter.live(20 * HOUR) == []


def test_a_daily_poll_finds_a_meter_whose_key_was_pressed() -> None:
    meter = Meter(interval_s=DAY)
    meter.live(DAY / 2, Fault.SILENT)
    polls = len(meter.jobs)
    meter.live(DAY / 2, Fault.SILENT)
    assert 20 <= len(meter.jobs) - polls <= 30


def test_a_clock_set_over_a_slot_ends_the_wait_for_a_retry() -> None:
    meter = Meter(interval_s=DAY)
    meter.live(6 * HOUR, Fault.UNUSABLE)
    meter.set(DAY)
    assert meter.live(2) == [Kind.POLL]


def test_a_restart_does_not_ping_at_once() -> None:
    meter = Meter(interval_s=6 * HOUR, keep_awake=True)
    meter.live(2 * HOUR)
    before = len(meter.jobs)
    for _ in range(5):
        meter.schedule = Schedule(meter.settings, AMSTERDAM, meter.now)
        meter.schedule.resume(meter.now, Memory(), meter.now.wall - 600)
        meter.live(60)
    assert len(meter.jobs) == before


def test_a_clock_set_back_takes_no_moment_further_away_than_two_ever_are() -> None:
    meter = Meter(poll_at="0 0 * * *", interval_s=DAY)
    meter.live(12 * HOUR)
    meter.live(22.5 * HOUR)
    meter.set(-20 * HOUR)
    assert meter.live(2 * HOUR) == [Kind.POLL]
    meter = Meter(poll_at="59 * * * *")
    meter.live(2 * HOUR)
    for _ in range(24):
        meter.live(40 * 60)
        meter.set(-40 * 60)
    assert max(b - a for a, b in pairwise(meter.asked)) <= HOUR + 70


def test_a_request_that_failed_before_is_a_new_one_when_asked_again() -> None:
    meter = Meter()
    meter.live(60)
    meter.schedule.request((99,))
    meter.live(3, Fault.SILENT)
    meter.schedule.request((99,))
    meter.sleep(60)
    for fault in (None, Fault.UNUSABLE):
        job = meter.schedule.next(meter.now)
        assert isinstance(job, Job)
        if fault is None:
            meter.schedule.done(job, meter.now)
        else:
            meter.schedule.failed(job, fault, meter.now)
    assert job == Job(Kind.REQUEST, (99,))
    assert meter.live(60) == [Kind.POLL, Kind.REQUEST]


@pytest.mark.parametrize("most", [62, 66, 70])
def test_a_budget_for_all_pings_leaves_no_long_pause(most: int) -> None:
    meter = Meter(interval_s=2 * HOUR, keep_awake=True, max_readings_per_day=most)
    assert "too few" not in " ".join(warned(meter.settings, meter.schedule))
    meter.live(5 * DAY)
    assert max(b - a for a, b in pairwise(meter.asked)) <= SLEEPY_S + 60
    short = replace(meter.settings, max_readings_per_day=59)
    assert "too few" in " ".join(warned(short, meter.schedule))


def test_only_what_is_new_is_written_down() -> None:
    kept = Memory((NOON, NOON + 60), slept=True)
    assert not Memory((NOON + 60,), slept=True).is_news(kept)
    assert Memory((NOON + 60, NOON + 90), slept=True).is_news(kept)
    assert Memory((NOON, NOON + 60)).is_news(kept)
    assert Memory((NOON,), slept=True).is_news(kept)  # nobody heard the last one
    assert Memory((), slept=True).is_news(Memory((NOON,), slept=True))


def test_a_head_that_is_put_in_place_is_not_waited_for_till_tomorrow() -> None:
    meter = Meter(interval_s=DAY)
    meter.live(60)
    meter.live(DAY + 5 * HOUR, Fault.PORT)
    meter.live(70, Fault.UNUSABLE)
    assert meter.live(30) == [Kind.POLL]


def test_a_request_gets_its_turn_also_while_small_steps_go_on() -> None:
    meter = Meter(max_readings_per_day=24)
    meter.live(2 * DAY)
    meter.schedule.begin(Kind.BACKFILL)
    meter.schedule.request((99,))
    kinds = []
    for _ in range(540):  # three hours
        job = meter.schedule.next(meter.now)
        assert isinstance(job, Job)
        kinds.append(job.kind)
        meter.sleep(20)
        meter.schedule.done(job, meter.now)
    assert kinds.count(Kind.REQUEST) == 1
    assert kinds.count(Kind.POLL) >= 1


@pytest.mark.parametrize(("poll_at", "most"), [("0 6-18 * * *", 12), ("*/10 6-8 * * *", 17)])
def test_a_budget_a_little_too_small_for_a_part_of_the_day(poll_at: str, most: int) -> None:
    meter = Meter(poll_at=poll_at, interval_s=16 * HOUR, max_readings_per_day=most)
    meter.live(2 * DAY)
    assert 10 * (most - 1) <= len(meter.live(10 * DAY)) <= 10 * most
