"""The one place where readouts are appended, and from which every output follows.

For the moment it lives in memory and holds the latest readout of each meter, which is all that a
live topic needs; an output that was away goes on from its own cursor. It knows no output.
"""

import asyncio
from dataclasses import dataclass

from kamstrup_mqtt.readout import Readout


@dataclass(frozen=True, slots=True)
class Entry:
    """A readout in the history: its place in the order, the configured meter, and itself."""

    sequence: int
    meter: str
    readout: Readout


class History:
    """Readouts in the order they were taken."""

    def __init__(self) -> None:
        self._latest: dict[str, Entry] = {}
        self._sequence = 0
        self._news = asyncio.Event()

    def append(self, meter: str, readout: Readout) -> None:
        """Add a readout of the meter with this configured name, and wake every follower."""
        self._sequence += 1
        self._latest[meter] = Entry(self._sequence, meter, readout)
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, cursor: int) -> list[Entry]:
        """The entries behind `cursor`, a sequence number, oldest first; waits until there is one.

        0 is the cursor before everything.
        """
        while self._sequence <= cursor:
            await self._news.wait()
        behind = [entry for entry in self._latest.values() if entry.sequence > cursor]
        return sorted(behind, key=lambda entry: entry.sequence)
