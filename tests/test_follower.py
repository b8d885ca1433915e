"""What is delivered next: each readout once, whatever the broker, the disk and the power do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from kamstrup_mqtt import MeterIdentity, Readout
from kamstrup_mqtt.outputs.follower import Deliver, Follower, Note, Read, Resume, Wait
from kamstrup_mqtt.store import Position, Stored

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def stored(number: int, meter: str) -> Stored:
    readout = Readout(MeterIdentity(meter), BEGIN + timedelta(minutes=number), {}, {})
    return Stored(number, meter, readout)


def test_the_newest_of_each_meter_is_live_and_the_rest_late_and_in_order() -> None:
    follower = Follower(["a", "b"])
    follower.resume(Position(2))
    rows = [stored(number, "ab"[number % 2]) for number in range(1, 8)]
    for one in rows:
        follower.offer(one)
    found = []
    while not isinstance(step := follower.next(), Wait):
        match step:
            case Deliver(one, is_live):
                found.append((one.sequence, is_live))
                follower.delivered(one)
            case Note(position):
                follower.noted(position)
            case Read(sequence):
                follower.found([one for one in rows if one.sequence > sequence][:2])
    assert sorted(found[:2]) == [(6, True), (7, True)]
    assert found[2:] == [(3, False), (4, False), (5, False)]
    assert follower.position == Position(7)
    follower.repeat()
    assert isinstance(follower.next(), Deliver)


def test_what_was_delivered_before_it_had_a_number_is_not_delivered_again() -> None:
    follower = Follower(["a"])
    early = replace(stored(1, "a"), sequence=0)
    follower.offer(early)
    assert follower.next() == Deliver(early, is_live=True)
    follower.delivered(early)
    assert follower.next() == Resume()
    follower.failed(Resume())  # the disk was never there
    assert follower.next() == Wait()
    follower.resume(Position())
    assert follower.next() == Read(0)
    follower.found([stored(1, "a")])
    assert follower.next() == Note(Position(1))


def test_what_was_given_up_stops_nothing_behind_it() -> None:
    follower = Follower(["a", "b"])
    follower.resume(Position())
    rows = [stored(number, "ab"[number % 2]) for number in (1, 2, 3, 4, 8, 9)]
    for one in rows:
        follower.offer(one)
    follower.put_off(rows[2])
    given_up = []
    while not isinstance(step := follower.next(), Wait):
        match step:
            case Deliver(one, _):
                assert one is not rows[2]
                follower.delivered(one)
                given_up += follower.give_up()
            case Note(position):
                follower.noted(position)
            case Read(sequence):
                follower.found([one for one in rows if one.sequence > sequence][:2])
    assert given_up == [rows[2]]
    assert follower.position == Position(9)


class FollowerMachine(RuleBasedStateMachine):
    """A store, a broker and their bad days, with every delivery counted."""

    def __init__(self) -> None:
        super().__init__()
        self.names = ["a", "b"]
        self.rows: list[Stored] = []  # in the store, the last ones perhaps in its memory only
        self.written = 0  # how many of them are on disk
        self.kept = Position()  # on disk
        self.has_disk = True
        self.is_connected = False
        self.heard: set[str] = set()  # meters, since the start
        self.got: list[int] = []
        self.repeatable: set[int] = set()
        self.last_late = 0
        self.follower = self.begun()

    def begun(self) -> Follower:
        self.is_open = self.has_disk  # whether the numbers are known
        follower = Follower(self.names)
        if self.is_open:
            self.resume(follower)
        return follower

    def resume(self, follower: Follower) -> None:
        follower.resume(self.kept)
        for name in {*self.names} - self.heard:
            for one in [one for one in self.rows if one.meter == name][-1:]:
                follower.offer(one)

    def newest(self, name: str) -> int:
        return max(one.sequence for one in self.rows if one.meter == name)

    @rule(which=integers(0, 1))
    def append(self, which: int) -> None:
        name = self.names[which]
        last = self.rows[-1].sequence if self.rows else 0
        self.rows.append(stored(last + 1, name))
        if self.has_disk:
            self.written = len(self.rows)
        if name not in self.heard:
            self.heard.add(name)
            meter = name[0]  # which had other names before
            self.rows = [
                replace(one, meter=name) if one.meter[0] == meter else one for one in self.rows
            ]
            self.last_late = 0
            self.follower.named(is_settled=self.heard == set(self.names))
        one = self.rows[-1]
        self.follower.offer(one if self.is_open else replace(one, sequence=0))

    @rule(has_disk=booleans())
    def disk(self, *, has_disk: bool) -> None:
        self.has_disk = has_disk
        if has_disk:
            self.written = len(self.rows)
            self.is_open = True
            self.follower.retry()

    @rule(is_connected=booleans())
    def broker(self, *, is_connected: bool) -> None:
        self.is_connected = is_connected
        if is_connected:
            self.follower.retry()
            self.last_late = 0

    @rule(renamed=sampled_from([None, 0, 1]), has_disk=booleans())
    def crash(self, renamed: int | None, *, has_disk: bool) -> None:
        """What was not on disk is lost, and what was delivered and not noted may come again."""
        self.rows = self.rows[: self.written]
        there = {one.sequence for one in self.rows}
        self.got = [one for one in self.got if one in there]
        self.repeatable |= {
            one for one in self.got if one > self.kept.cursor and one not in self.kept.ahead
        }
        if renamed is not None:
            self.names[renamed] += "'"
        self.is_connected, self.heard, self.last_late = False, set(), 0
        self.has_disk = has_disk
        self.follower = self.begun()

    @precondition(lambda self: self.is_connected)
    @rule(count=integers(1, 5))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.do(self.follower.next())

    def do(self, step: Deliver | Resume | Read | Note | Wait) -> None:
        match step:
            case Deliver(one, is_live):
                number = (one.readout.time - BEGIN) // timedelta(minutes=1)
                assert one.meter in self.names
                assert is_live == (number == self.newest(one.meter))
                if not is_live:
                    assert number > self.last_late
                    self.last_late = number
                assert number not in self.got or number in self.repeatable
                self.repeatable.discard(number)
                self.got.append(number)
                self.follower.delivered(one)
            case Note(position):
                if self.has_disk:
                    self.kept = position
                    self.follower.noted(position)
                else:
                    self.follower.failed(step)
            case Read(sequence):
                there = self.rows[: self.written] if self.has_disk else []
                on_disk = self.rows[self.written - 1].sequence if self.written else 0
                if not self.has_disk and sequence >= on_disk:
                    there = self.rows
                elif not self.has_disk:
                    self.follower.failed(step)
                    return
                self.follower.found([one for one in there if one.sequence > sequence][:3])
            case Resume():
                if self.has_disk:
                    self.resume(self.follower)
                else:
                    self.follower.failed(step)

    @invariant()
    def nothing_is_noted_that_was_not_delivered(self) -> None:
        wanted = {one.sequence for one in self.rows[: self.written]}
        noted = {one for one in wanted if one <= self.kept.cursor} | self.kept.ahead
        assert noted <= set(self.got) | (noted - wanted)

    def teardown(self) -> None:
        self.disk(has_disk=True)
        for which in range(len(self.names)):
            self.append(which)
        self.broker(is_connected=True)
        for _ in range(20 * len(self.rows) + 50):
            self.do(self.follower.next())
        assert sorted(set(self.got)) == [one.sequence for one in self.rows]
        assert self.follower.is_at_rest
        assert self.kept == Position(self.rows[-1].sequence)


TestFollower = FollowerMachine.TestCase
TestFollower.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
