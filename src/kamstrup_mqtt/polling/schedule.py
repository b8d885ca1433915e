"""When a meter is asked, and what for: a state machine that has no clock and asks nobody.

    schedule.next(now)                a Job to do now, or a Wake: nothing to do before
    schedule.done(job, now)           it brought an answer
    schedule.failed(job, fault, now)  it did not

`now` carries the wall clock, on whose grid the polls fall, and the monotonic one, on which all
waiting is done. That the wall clock was set is seen when the two have moved apart. There is one job
at a time, and nothing else ever talks to the line.
"""

import math
from datetime import tzinfo
from typing import NamedTuple

from kamstrup_mqtt.polling.backoff import retry_delay
from kamstrup_mqtt.polling.budget import Budget
from kamstrup_mqtt.polling.job import STEPS, Fault, Job, Kind, Wake
from kamstrup_mqtt.polling.memory import Memory
from kamstrup_mqtt.polling.moments import DAY_S
from kamstrup_mqtt.polling.requests import Requests
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.polling.steps import Steps
from kamstrup_mqtt.polling.timetable import Timetable
from kamstrup_mqtt.readout import Now

SLEEPY_S = 25 * 60.0  # meters sleep when nobody asks for 30 minutes (kmp.md, 1), some earlier
CLOCK_S = 120.0  # for the time to come from the network, on a machine that keeps none
_SET_S = 1.0  # a wall clock that moves more against the monotonic one was set
_EARLY_S = 1.0  # a wait may end a little before the wall clock gets there
_SLACK_S = 60.0  # so soon after its slot a poll counts as at it, and no slot moves by it
_MANY = 3000  # polls a day, of which each is looked at
_BEFORE_POLL_S = 30.0  # so soon before a poll nobody is kept awake for it
_PORT_RETRY_S = 60.0  # looking for a port costs the meter's battery nothing
_SPARING_S = 20.0  # a meter that does not answer well is asked no more often, in the long run


class Slot(NamedTuple):
    """When a poll is due: on the wall clock, on whose grid it falls, and on the monotonic one."""

    wall: float
    at: float


class Schedule:
    """The schedule of one meter.

    Args:
        settings: when it is to be polled.
        zone: of the moments.
        now: when the program begins; the first poll is due then, unless `resume` knows better.

    """

    def __init__(self, settings: MeterConfig, zone: tzinfo, now: Now) -> None:
        self.flowing = False  # whether water flows, so that polls are to be faster
        self.slept = False  # whether the meter was found asleep once
        self._settings = settings
        self.timetable = Timetable(settings, zone)
        self._offset = now.wall - now.monotonic
        self._job: Job | None = None  # under way
        self._slot = Slot(now.wall, now.monotonic)  # of the next poll
        self._retry_at: float | None = None  # sooner, as the last one failed
        self._fault: Fault | None = None  # of the failures in a row
        self._failures = 0
        self._requests = Requests(settings.registers)
        self._steps = Steps()
        self._budget = Budget(settings.max_readings_per_day, now.monotonic)
        self._boost_until = -math.inf
        self._asked_at = -math.inf
        self._failed_at = -math.inf
        self._polled_at = -math.inf
        self._polled_slot = -math.inf  # on the wall clock
        self._left_out = 0.0  # part of a slot that the budget will not have room for
        self._last: float | None = None  # full readout of an earlier run, as unix time
        self._awaited = -math.inf  # what the wall clock said then, and may soon say again

    @property
    def keeps_awake(self) -> bool:
        """Whether the meter is to be kept from falling asleep between two polls."""
        wanted = self._settings.keep_awake
        if wanted is False or self.timetable.interval_s <= SLEEPY_S:
            return False
        return wanted is True or self.slept

    @property
    def awaits_clock(self) -> bool:
        """Whether the wall clock is behind the last readout, and may soon be set."""
        return self._awaited > -math.inf

    @property
    def memory(self) -> Memory:
        """What the next run is to know."""
        return Memory(self._budget.stamps(self._offset), self.slept)

    def resume(
        self, now: Now, memory: Memory, last: float | None, latest: float | None = None
    ) -> None:
        """Go on where an earlier run ended: what was read a moment ago is not read again.

        Args:
            now: this moment, before the first job.
            memory: what that run left.
            last: when the last full readout was taken, as unix time.
            latest: when any was. Where the wall clock says less, it is given `CLOCK_S` to be set.

        """
        self._offset = now.wall - now.monotonic
        self.slept = memory.slept
        self._budget.resume(memory.asked, now)
        self._last = last
        self._awaited = max(last or -math.inf, latest or -math.inf)
        if self._awaited <= now.wall:
            self._asked_at = self._awaited - self._offset
        self._go_on(now)

    def recall(self, memory: Memory, now: Now) -> None:
        """Take over what another schedule of the same meter remembered."""
        self.slept = self.slept or memory.slept
        self._budget.resume(memory.asked, now)

    def next(self, now: Now) -> Job | Wake:
        """What to do now, or until when there is nothing to do."""
        self._notice_set(now)
        if self._job is None:
            found = self._decide(now)
            if isinstance(found, Wake):
                return found
            self._job = found
            self._requests.taken_up(found)
            self._spend(found, now.monotonic)
            if found.kind is Kind.POLL:
                self._awaited = -math.inf
        return self._job

    def done(self, job: Job, now: Now) -> None:
        """`job` brought an answer."""
        self._notice_set(now)
        self._job = None
        self._asked_at = now.monotonic
        if job.kind in STEPS:
            self._steps.done(job.kind)
            return
        self._failures = 0
        if self._retry_at is not None:  # it answers again: the poll that failed is made up for
            self._retry_at = None if job.is_full else now.monotonic
        self._requests.done(job)
        if job.is_full:
            self._polled_at = min(self._slot.at, now.monotonic)
        if job.kind is Kind.POLL:
            self._plan_after_poll(now)
        elif job.is_full:
            self._plan_anew(now)

    def failed(self, job: Job, fault: Fault, now: Now) -> None:
        """`job` brought nothing; a poll is tried again, sooner than the next one is due."""
        self._notice_set(now)
        self._job = None
        clock = now.monotonic
        self._asked_at = clock
        if job.kind in STEPS:
            self._steps.failed(clock)
            return
        self._failed_at = clock
        if fault is not Fault.UNUSABLE:
            self._budget.refund()
        elif job.is_full:
            self._polled_at = clock
        if job.kind is Kind.PING and fault is not Fault.PORT:
            return
        self._requests.failed(job)
        if fault is not self._fault:  # another kind of trouble, as when a head is put in place
            self._fault, self._failures = fault, 0
        self._failures += 1
        if job.kind is Kind.POLL and self._slot.at <= clock:
            self._plan_after_poll(now)
        if not self.awaits_clock:
            self._retry_at = self._retry(fault, clock)

    def request(self, registers: tuple[int, ...] = ()) -> None:
        """Have these registers read as soon as may be; without any, all that are configured.

        What is asked for while a job is under way is read after it.
        """
        self._requests.add(registers)

    def boost(self, seconds: float, now: Now) -> None:
        """Poll at the active interval for so long."""
        self._boost_until = now.monotonic + seconds
        self._plan_anew(now)

    def set_interval(self, seconds: float | None, now: Now) -> bool:
        """Poll at another interval, or with None as configured; whether that is news."""
        is_news = self.timetable.set_interval(seconds)
        if is_news:
            self._left_out = 0.0
            self._plan_anew(now)
        return is_news

    def begin(self, kind: Kind) -> None:
        """Have jobs of this kind, one of `STEPS`, whenever nothing else is due."""
        self._steps.begin(kind)

    def stop(self, kind: Kind) -> None:
        """Have no more jobs of this kind."""
        self._steps.stop(kind)

    def next_poll_s(self, now: Now) -> float:
        """Seconds until the next poll, or the next try of one."""
        return max(0.0, max(self._poll_at, self.free_at(now)) - now.monotonic)

    def free_at(self, now: Now) -> float:
        """From when on the budget lets the meter be asked, on the monotonic clock."""
        return self._budget.free_at(now.monotonic)

    def spare_at(self, now: Now) -> float:
        """From when on it lets the meter be asked more often than the timetable does."""
        clock, polls = now.monotonic, math.ceil(self.timetable.polls_a_day)
        if self._settings.max_readings_per_day is None:
            return clock
        if polls > _MANY:
            return self._budget.free_at(clock, polls)
        if self._lasts(now, more=1):
            return self.free_at(now)
        return self._budget.more_at(clock)

    @property
    def _poll_at(self) -> float:
        """When the next poll, or the next try of one, is due, on the monotonic clock."""
        return self._slot.at if self._retry_at is None else self._retry_at

    def _decide(self, now: Now) -> Job | Wake:
        clock = now.monotonic
        free = self._budget.free_at(clock)
        poll = max(self._poll_at, free)
        request = free if self._requests else math.inf
        if self._failures:  # a meter that does not answer is not hammered by whoever asks
            request = max(request, self._failed_at + retry_delay(self._failures, _SPARING_S))
        ping = self._ping_at()
        if ping < math.inf:
            ping = max(ping, self.spare_at(now))
        if poll <= clock and not (request <= clock and self._requests.passed_over):
            return Job(Kind.POLL)
        if request <= clock:
            return self._requests.job()
        if ping <= clock:
            return Job(Kind.PING)
        if self._steps.at <= clock:
            return Job(self._steps.next)
        at = min(poll, request, ping, self._steps.at)
        return Wake(max(at, math.nextafter(clock, math.inf)))

    def _go_on(self, now: Now) -> None:
        """Find the first slot after the last readout of an earlier run."""
        self._slot = Slot(now.wall, now.monotonic)
        if self._awaited > now.wall:
            self._slot = Slot(self._awaited, now.monotonic + CLOCK_S)
            return
        self._awaited = -math.inf
        if self._last is not None:
            self._polled_at = self._last - self._offset
            if self._after_last(now) > now.wall:
                self._plan(now)

    def _notice_set(self, now: Now) -> None:
        """See whether the wall clock was set: moments move with it, and nothing takes longer."""
        moved = now.wall - now.monotonic - self._offset
        if abs(moved) <= _SET_S:
            return
        self._offset += moved
        self._budget.clock_set(now)
        before = self._slot
        if self.awaits_clock:
            if self._awaited <= now.wall:
                self._go_on(now)
        elif now.wall >= before.wall:  # the clock jumped over it
            self._slot = before._replace(at=min(before.at, now.monotonic))
            if self._retry_at is not None:
                self._retry_at = min(self._retry_at, now.monotonic)
        elif before.at > now.monotonic:
            self._plan(now)
            latest = before.at
            if self.timetable.is_cron:  # its moments move with the clock, but not too far away
                latest = max(latest, self._polled_at + self.timetable.interval_s + _SLACK_S)
            if self._slot.at > latest:
                self._slot = Slot(latest + self._offset, latest)

    def _plan_anew(self, now: Now) -> None:
        """Find the next slot by what was just changed, unless a poll is due already."""
        self._notice_set(now)
        if self._slot.at > now.monotonic and not self.awaits_clock:
            self._plan(now)
            if self._retry_at is not None:
                soon = max(self._slot.at, now.monotonic + _SPARING_S)
                self._retry_at = min(self._retry_at, soon)

    def _plan_after_poll(self, now: Now) -> None:
        if self._slot.at <= now.monotonic:  # and not a retry before it
            self._polled_slot = self._slot.wall
        self._left_out = max(0.0, self._stride(now)) % 1
        self._plan(now)

    def _plan(self, now: Now) -> None:
        """Find the next slot, not sooner than the budget has room for it.

        One that was polled is not found again, when the wait for it ended a little early or the
        clock was set back behind it since; but no interval is ever stretched by that.
        """
        clock = now.monotonic
        near = _SLACK_S if self.timetable.is_cron else _EARLY_S
        is_near = now.wall < self._polled_slot <= now.wall + near
        begin = self._polled_slot if is_near else now.wall
        slot = max(self.timetable.after(begin), self._after_last(now))
        flowing = self.flowing and self._settings.active_interval_s and not self._failures
        if flowing or clock < self._boost_until:
            spare = self.spare_at(now)
            from_then = max(begin, spare + self._offset) if spare > clock else begin
            slot = min(slot, self.timetable.active_after(from_then))
        self._slot = Slot(slot, slot - self._offset)

    def _after_last(self, now: Now) -> float:
        """The first slot after the last full readout that the budget has room for."""
        if self._polled_at == -math.inf:
            return now.wall
        leave_out = max(0, int(self._stride(now)))
        return self.timetable.after(self._polled_at + self._offset, leave_out)

    def _stride(self, now: Now) -> float:
        """How many slots are to be left out, so that the budget lasts; parts of one add up."""
        polls, most = self.timetable.polls_a_day, self._settings.max_readings_per_day
        if most is None:
            return 0.0
        # All of them may lie in a part of the day only, which no pace is fit for.
        if polls <= min(most, _MANY) and self._lasts(now):
            return 0.0
        if self.timetable.interval_s > 2 * DAY_S / polls:  # most of the day has none
            return self._left_out + max(0.0, polls / most - 1)
        return self._left_out + self._budget.pace_s(now.monotonic) * polls / DAY_S - 1

    def _lasts(self, now: Now, more: int = 0) -> bool:
        """Whether the budget has room for all slots of the next 24 hours."""
        day = self.timetable.day_after(now.wall)
        return self._budget.lasts((moment - self._offset for moment in day), more)

    def _spend(self, job: Job, clock: float) -> None:
        if job.kind in STEPS:
            return
        is_on_time = job.kind is Kind.POLL and clock <= self._slot.at + _SLACK_S
        self._budget.spend(min(clock, self._slot.at) if is_on_time else clock)

    def _ping_at(self) -> float:
        """When the meter is to be kept awake; infinity when it is not, or is asked soon enough."""
        if not self.keeps_awake or self._failures or self._polled_at == -math.inf:
            return math.inf
        at = max(self._asked_at, self._polled_at) + SLEEPY_S - _BEFORE_POLL_S
        return at if self._poll_at - at > _BEFORE_POLL_S else math.inf

    def _retry(self, fault: Fault, clock: float) -> float:
        """When to try again: after 5, 10, 20 s and so on, but the meter is spared in the end."""
        if fault is Fault.PORT:
            return min(self._slot.at, clock + retry_delay(self._failures, _PORT_RETRY_S))
        longest_s = max(self.timetable.interval_s, _SPARING_S)
        if fault is Fault.SILENT:  # somebody may press its key, and it stays awake for a while
            longest_s = min(longest_s, SLEEPY_S)
        slot = max(self._slot.at, clock + _SPARING_S)
        again = min(slot, clock + retry_delay(self._failures, longest_s))
        spare = min(slot, self._budget.retry_at(clock))
        return max(again, spare) if fault is Fault.UNUSABLE else again
