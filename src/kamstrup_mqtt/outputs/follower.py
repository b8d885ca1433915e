"""What an output delivers next, decided without a clock, a connection or a disk.

Each readout is delivered once: the newest of each meter live, as soon as may be, and all that was
missed late, oldest first. How far that has got is a position, which is noted for good.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from kamstrup_mqtt.store import MOST_WAITING, Position, Stored


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver this readout, and tell `delivered`."""

    stored: Stored
    is_live: bool


@dataclass(frozen=True, slots=True)
class Resume:
    """Ask the history for the position that was noted last, and tell `resume`."""


@dataclass(frozen=True, slots=True)
class Read:
    """Ask the history for what is behind that sequence number, and tell `found`."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Note:
    """Note the position for good, and tell `noted`."""

    position: Position


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done until there is news."""


Step = Deliver | Resume | Read | Note | Wait


class Follower:
    """The delivery of all readouts to one output.

    Args:
        meters: the configured names of the meters that the output gets; of others it gets nothing.

    """

    def __init__(self, meters: Collection[str]) -> None:
        self._meters = meters
        self._newest: dict[str, Stored] = {}  # by meter
        self._repeat: set[str] = set()  # meters whose newest is delivered again
        self._cursor: int | None = None  # up to it all is delivered; None while it is not known
        self._ahead: set[int] = set()  # what is delivered behind it
        # What was delivered before it had a number, or under one of another file, oldest first.
        self._unnumbered: dict[tuple[str, datetime], None] = {}
        self._put_off: dict[int, Stored] = {}  # what cannot be delivered, by number
        self._noted: Position | None = None
        self._window: deque[Stored] = deque()  # behind the cursor, in order
        self._read_to = 0  # the last one that was taken into the window
        self._has_more = True  # whether the history may have something behind that
        self._last = 0  # the highest number that is known of
        self._failed: set[type[Step]] = set()  # what the disk did not do lately
        self._is_held = False  # whether something behind the cursor waits for a name
        self._is_settled = False  # whether all meters have the names that they are going to have

    @property
    def position(self) -> Position | None:
        """What is delivered; None while it is not known what an earlier run delivered."""
        return None if self._cursor is None else Position(self._cursor, frozenset(self._ahead))

    @property
    def needs_disk(self) -> bool:
        """Whether it waits for a disk that failed."""
        return bool(self._failed) or self._cursor is None

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left to deliver, as far as the history can be read."""
        is_read = not (self.needs_disk or self._window or self._has_more)
        return is_read and all(map(self._is_done, self._newest.values()))

    @property
    def is_noted(self) -> bool:
        """Whether the position is kept."""
        return self.position in (None, self._noted)

    def resume(self, position: Position) -> None:
        """Go on from a position that was noted; perhaps in another history than before."""
        for stored in self._newest.values():
            if self._is_done(stored):
                self._remember(stored)
        if self._cursor is not None:  # in which its numbers mean something else
            self._ahead.clear()
        self._noted = position
        self._cursor = self._read_to = position.cursor
        self._ahead |= position.ahead
        self._window.clear()
        self._put_off.clear()
        self._is_held, self._has_more = False, True

    def offer(self, stored: Stored) -> None:
        """Take note of a readout, perhaps the newest of its meter."""
        newest = self._newest.get(stored.meter)
        if newest is None or not 0 < stored.sequence < newest.sequence:
            self._newest[stored.meter] = stored
        self._has_more = True
        self._last = max(self._last, stored.sequence)

    def repeat(self) -> None:
        """Deliver the newest of each meter again, to a receiver that may have lost it."""
        self._repeat = set(self._newest)

    def retry(self) -> None:
        """Try again what the disk did not do, and what could not be delivered."""
        self._failed.clear()
        if self._put_off:
            self._put_off.clear()
            self.named()

    def next(self) -> Step:
        """What to do now."""
        for meter, stored in self._newest.items():
            is_due = meter in self._repeat or not self._is_done(stored)
            if meter in self._meters and is_due and stored.sequence not in self._put_off:
                return Deliver(stored, is_live=True)
        position = self.position
        if position is None:
            return Wait() if Resume in self._failed else Resume()
        if position != self._noted and Note not in self._failed:
            return Note(position)
        if self._window:
            return Deliver(self._window[0], is_live=False)
        return Read(self._read_to) if self._has_more and Read not in self._failed else Wait()

    def delivered(self, stored: Stored) -> None:
        """Take it that the receiver has that readout."""
        newest = self._newest.get(stored.meter)
        if newest is not None and newest.readout.time == stored.readout.time:
            self._repeat.discard(stored.meter)
        if not stored.sequence:
            self._remember(stored)
        elif self._cursor is None or stored.sequence > self._cursor:
            self._ahead.add(stored.sequence)
        self._advance()

    def postpone(self, stored: Stored) -> None:
        """Have the other meters come first next time."""
        if stored.meter in self._newest:
            self._newest[stored.meter] = self._newest.pop(stored.meter)

    def put_off(self, stored: Stored) -> None:
        """Leave a readout aside that cannot be delivered, until it is tried again or given up."""
        self._put_off[stored.sequence] = stored
        self._repeat.discard(stored.meter)
        self._advance()

    def give_up(self) -> list[Stored]:
        """Take what was put off for delivered, since other readouts are; gives what that is."""
        given_up = list(self._put_off.values())
        self._put_off.clear()
        for stored in given_up:
            self.delivered(stored)
        if given_up:
            self.named()
        return given_up

    def found(self, behind: Iterable[Stored]) -> None:
        """Take what the history has behind what was asked for, in order."""
        self._has_more = False
        for stored in behind:
            self._has_more = True
            self._last = max(self._last, stored.sequence)
            if stored.sequence > self._read_to:
                self._read_to = stored.sequence
                self._window.append(stored)
            newest = self._newest.get(stored.meter)
            if newest is not None and (
                stored.sequence > newest.sequence > 0 or newest.readout.time == stored.readout.time
            ):  # that is newer, or the same with its number
                self._newest[stored.meter] = stored
        self._advance()

    def noted(self, position: Position) -> None:
        """Take it that the position is kept."""
        self._noted = position

    def named(self, *, is_settled: bool = False) -> None:
        """Look again at what had a name that nobody wants: a meter may have got its new one.

        Args:
            is_settled: whether no other ones are to come, so that what is left is not wanted.

        """
        self._is_settled = self._is_settled or is_settled
        if self._cursor is not None:
            self._is_held, self._has_more = False, True
            self._read_to = self._cursor
            self._window.clear()

    def failed(self, step: Step) -> None:
        """Take it that the disk did not do that; `retry` when it may work again."""
        self._failed.add(type(step))

    def _is_done(self, stored: Stored) -> bool:
        return (
            stored.sequence in self._ahead
            or 0 < stored.sequence <= (self._cursor or 0)
            or (stored.meter, stored.readout.time) in self._unnumbered
        )

    def _remember(self, stored: Stored) -> None:
        self._unnumbered[stored.meter, stored.readout.time] = None
        if len(self._unnumbered) > MOST_WAITING:
            del self._unnumbered[next(iter(self._unnumbered))]

    def _advance(self) -> None:
        """Leave behind what is delivered, or not wanted."""
        while self._window:
            first = self._window[0]
            is_wanted = first.meter in self._meters
            is_put_off = first.sequence in self._put_off
            if is_wanted and not is_put_off and not self._is_done(first):
                break
            self._window.popleft()
            if is_put_off or not (is_wanted or self._is_settled):
                self._is_held = True
            elif self._is_held:
                self._ahead.add(first.sequence)
            else:
                self._cursor = first.sequence
        if self._cursor is None:
            return
        while self._cursor + 1 in self._ahead:  # nothing is between two numbers
            self._cursor += 1
        if any(number <= self._cursor for number in self._ahead):
            self._ahead = {number for number in self._ahead if number > self._cursor}
        self._read_to = max(self._read_to, self._cursor)
        if self._cursor >= self._last > 0:
            self._has_more = False
