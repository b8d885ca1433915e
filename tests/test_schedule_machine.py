"""The schedule, whatever the clock does: it always has something ahead, and loses nothing."""

from collections import deque
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kamstrup_mqtt.polling.job import STEPS, Fault, Job, Kind, Wake
from kamstrup_mqtt.polling.schedule import Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.readout import Now

DAY = 86400.0
ZONE = ZoneInfo("Europe/Amsterdam")  # with summer time
BEGIN = 1_795_435_200.0  # 2026-11-23 12:00 UTC

intervals = st.sampled_from([1.0, 60.0, 600.0, 1680.0, 3600.0, 6 * 3600.0, DAY, 7 * DAY])
plans = st.builds(
    MeterConfig,
    name=st.just("meter"),
    port=st.just("port"),
    topic=st.just("t"),
    registers=st.just((60, 68)),
    interval_s=intervals,
    poll_at=st.sampled_from(
        [None, None, "0 0 * * *", "59 * * * *", "*/10 * * * *", "0 * * 1-4,10 *"]
    ),
    active_interval_s=st.sampled_from([None, 30.0]),
    max_readings_per_day=st.one_of(st.none(), st.integers(1, 60)),
    keep_awake=st.sampled_from([None, True, False]),
)


ASKS = (Kind.POLL, Kind.REQUEST, Kind.PING)


class ScheduleMachine(RuleBasedStateMachine):
    """What a meter sees of its schedule, in a world in which everything happens."""

    @initialize(plan=plans, wall=st.floats(BEGIN, BEGIN + 365 * DAY))
    def start(self, plan: MeterConfig, wall: float) -> None:
        self.plan = plan
        self.now = Now(wall, 1000.0)
        self.schedule = Schedule(plan, ZONE, self.now)
        self.spent: deque[float] = deque()  # on the monotonic clock
        self.last: float | None = None  # full readout, on the wall clock
        self.wishes: set[int] = set()
        self.set_at = -2 * DAY
        self.handed: Job | None = None

    def step(self, seconds: float) -> None:
        self.now = Now(self.now.wall + seconds, self.now.monotonic + seconds)

    def ask(self) -> Job | Wake:
        """What is to be done; what was wished for before is taken up by a job that covers it."""
        found = self.schedule.next(self.now)
        if isinstance(found, Job) and self.handed is None:
            self.handed = found
            covered = self.plan.registers if found.is_full else found.registers
            self.wishes -= set(covered)
            if found.kind in ASKS:
                self.count()
        if isinstance(found, Wake):
            assert found.at > self.now.monotonic
            assert self.handed is None
        else:
            assert found is self.handed  # one at a time
        return found

    def count(self) -> None:
        """A question is asked. A poll that is a little late counts as on time."""
        self.spent.append(self.now.monotonic)
        while self.spent[0] <= self.now.monotonic - DAY + 60.001:
            self.spent.popleft()
        most = self.plan.max_readings_per_day
        assert most is None or len(self.spent) <= most

    def act(self, outcome: Fault | None) -> Job | Wake:
        found = self.ask()
        if isinstance(found, Wake):
            return found
        self.handed = None
        self.step(0.5)
        if found.kind in ASKS and outcome in (Fault.SILENT, Fault.PORT) and self.spent:
            self.spent.pop()
        if outcome is None:
            if found.is_full:
                self.last = self.now.wall
            self.schedule.done(found, self.now)
        else:
            self.schedule.failed(found, outcome, self.now)
        return found

    def run(self, outcome: Fault | None, count: int) -> None:
        for _ in range(count):
            found = self.act(outcome)
            if isinstance(found, Wake):
                self.step(found.at - self.now.monotonic)

    @rule(count=st.integers(1, 12))
    def succeed(self, count: int) -> None:
        self.run(None, count)

    @rule(outcome=st.sampled_from(list(Fault)), count=st.integers(1, 4))
    def fail(self, outcome: Fault, count: int) -> None:
        self.run(outcome, count)

    @rule(seconds=st.floats(0, 2 * DAY))
    def look_in_between(self, seconds: float) -> None:
        found = self.ask()
        if isinstance(found, Wake):
            self.step(min(seconds, found.at - self.now.monotonic))

    @rule(by=st.one_of(st.floats(-400 * DAY, 400 * DAY), st.floats(-7200, 7200)))
    def set_the_clock(self, by: float) -> None:
        self.now = Now(self.now.wall + by, self.now.monotonic)
        self.set_at = self.now.monotonic

    @rule()
    def cross_summer_time(self) -> None:
        """Stand a while before the next change of the zone's offset."""
        moment = datetime.fromtimestamp(self.now.wall, UTC)
        offset = moment.astimezone(ZONE).utcoffset()
        while moment.astimezone(ZONE).utcoffset() == offset:
            moment += timedelta(days=1)
        self.set_the_clock((moment - timedelta(days=1)).timestamp() - self.now.wall)

    @rule(which=st.sampled_from([(), (60,), (99,), (60, 99)]))
    def request(self, which: tuple[int, ...]) -> None:
        self.schedule.request(which)
        self.wishes |= set(which)

    @rule(seconds=st.floats(1, DAY))
    def boost(self, seconds: float) -> None:
        self.schedule.boost(seconds, self.now)

    @rule(flowing=st.booleans(), slept=st.booleans())
    def be_told(self, flowing: bool, slept: bool) -> None:
        self.schedule.flowing = flowing
        self.schedule.slept |= slept

    @rule(seconds=st.one_of(st.none(), intervals))
    def set_interval(self, seconds: float | None) -> None:
        self.schedule.set_interval(seconds, self.now)

    @rule(kind=st.sampled_from(STEPS), goes_on=st.booleans())
    def small_steps(self, kind: Kind, goes_on: bool) -> None:
        (self.schedule.begin if goes_on else self.schedule.stop)(kind)

    @rule(gap=st.floats(0, DAY))
    def restart(self, gap: float) -> None:
        memory = self.schedule.memory
        self.step(gap)
        if self.set_at > self.now.monotonic - 2 * DAY:  # nobody can tell when they were
            self.spent.clear()
        self.schedule = Schedule(self.plan, ZONE, self.now)
        self.schedule.resume(self.now, memory, self.last)
        self.wishes.clear()
        self.handed = None

    @invariant()
    def something_is_ahead_and_not_too_far(self) -> None:
        if not hasattr(self, "schedule"):
            return
        found = self.ask()
        if isinstance(found, Wake):
            most = self.plan.max_readings_per_day
            gap = (
                154 * DAY if self.schedule.timetable.is_cron else self.schedule.timetable.interval_s
            )
            longest = max(gap, 120.0) if most is None else DAY + gap
            assert found.at - self.now.monotonic <= longest + 3602
            # A request waits for the budget, or a little for a meter that does not answer.
            wait = found.at - self.now.monotonic
            assert not self.wishes or most is not None or wait <= 20.001


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
