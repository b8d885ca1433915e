"""Where outputs find what is new: the latest of each meter, in the order it came.

An output that was away goes on from its own cursor. It lives in memory and knows no output.
"""

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """Something on a board: its place in the order, the configured meter, and itself."""

    sequence: int
    meter: str
    content: T


class Board(Generic[T]):
    """The latest readout, or status, of each meter."""

    def __init__(self) -> None:
        self._latest: dict[str, Entry[T]] = {}
        self._sequence = 0
        self._news = asyncio.Event()

    def put(self, meter: str, content: T) -> None:
        """Put up what is new of the meter with this configured name, and wake every follower."""
        self._sequence += 1
        self._latest[meter] = Entry(self._sequence, meter, content)
        self._news.set()
        self._news = asyncio.Event()

    def latest(self, meter: str) -> T | None:
        """What was put up last of this meter."""
        entry = self._latest.get(meter)
        return entry.content if entry else None

    async def after(self, cursor: int) -> list[Entry[T]]:
        """The entries behind `cursor`, a sequence number, oldest first; waits until there is one.

        0 is the cursor before everything.
        """
        while self._sequence <= cursor:
            await self._news.wait()
        return self.behind(cursor)

    def behind(self, cursor: int) -> list[Entry[T]]:
        """The entries behind `cursor`, oldest first, without waiting for one."""
        behind = [entry for entry in self._latest.values() if entry.sequence > cursor]
        return sorted(behind, key=lambda entry: entry.sequence)
