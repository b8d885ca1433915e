"""Live readouts in their order, numbered as they come; those that are not on disk yet wait here.

A readout has its numbers from the beginning, so that it is the same one whether the disk works or
not. Pure: nothing here touches a disk.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.store.rows import Stored

MOST_WAITING = 5000  # readouts in memory while the disk fails

# A meter: its serial number, or the configured name of one that does not tell it.
Key = tuple[str, str]


class Queue:
    """The live readouts that are not on disk, and the numbers of the next ones."""

    def __init__(self) -> None:
        self.lost = 0  # readouts that there was no room for
        self.last = 0  # the number of the last one
        self.is_numbering = False  # whether the numbers of the file are known
        self._numbers: dict[Key, int] = {}  # of the last one of each meter
        self._waiting: deque[Stored] = deque()

    @property
    def written_to(self) -> int:
        """The number up to which all are on disk."""
        return self._waiting[0].sequence - 1 if self._waiting else self.last

    @property
    def waiting(self) -> list[Stored]:
        """What is not on disk yet, oldest first."""
        return list(self._waiting)

    def resume(
        self, last: int, numbers: Mapping[Key, int], written: Collection[int] = (),
        *, is_strange: bool = False,
    ) -> None:  # fmt: skip
        """Go on behind the numbers of a file; those that were given already stay.

        Args:
            last: the number of its last readout.
            numbers: that of the last one of each meter.
            written: those of what waits that are in it already.
            is_strange: whether that is another history, in which our numbers mean nothing.

        """
        for key, number in numbers.items():
            self._numbers[key] = max(number, self._numbers.get(key, 0))
        self.is_numbering = True
        waiting = [stored for stored in self._waiting if stored.sequence not in written]
        self.last = max(self.last, last)
        self._waiting = deque(
            self._numbered(replace(stored, meter_sequence=None))
            if is_strange or not stored.sequence
            else stored
            for stored in waiting
        )

    def add(self, meter: str, readout: Readout) -> Stored:
        """Take a readout of the meter with this configured name in, behind the last."""
        stored = Stored(0, meter, readout)
        if self.is_numbering:
            stored = self._numbered(stored)
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(stored)
        return stored

    def put_back(self, stored: Iterable[Stored]) -> None:
        """Have readouts wait again that were on a disk which lost them, before all others."""
        before = list(stored)
        room = max(MOST_WAITING - len(self._waiting), 0)
        self.lost += max(len(before) - room, 0)
        self._waiting.extendleft(before[::-1][:room])

    def written(self, last: int) -> None:
        """Take it that all up to that number are on disk."""
        while self._waiting and self._waiting[0].sequence <= last:
            self._waiting.popleft()

    def behind(self, sequence: int, most: int) -> list[Stored]:
        """At most `most` of what waits behind a number, in order."""
        return [stored for stored in self._waiting if stored.sequence > sequence][:most]

    def _numbered(self, stored: Stored) -> Stored:
        self.last += 1
        number = stored.meter_sequence
        if number is None:
            key = key_of(stored.meter, stored.readout.meter)
            number = self._numbers[key] = self._numbers.get(key, 0) + 1
        return replace(stored, sequence=self.last, meter_sequence=number)


def key_of(name: str, who: MeterIdentity) -> Key:
    """Whose numbers those of a readout are."""
    return (who.serial, "") if who.serial else ("", name)
