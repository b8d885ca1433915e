"""How well a head sits, from one question to the next, and where to move it.

Only counts and words; who asks and who draws is elsewhere.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kamstrup_mqtt.errors import PortError
from kamstrup_mqtt.meter.link import Link, Tap
from kamstrup_mqtt.meter.probe import Probe, Seen

ENOUGH = 20  # good answers in a row
LONGEST_S = 300.0
_WINDOW_S = 10.0
_RECENT_S = 3.0
_PACE_S = 0.5  # between two questions; no hand moves faster, and each costs the battery
_HINT_S = 12.0  # before the next one is tried
_BETTER = 0.1  # a change of strength that is no chance

# How near to an answer it is: what a hand must feel.
_STRENGTH = {
    Seen.NOTHING: 0.0,
    Seen.ECHO: 0.0,
    Seen.NOISE: 0.3,
    Seen.BAD_CRC: 0.6,
    Seen.GOOD: 1.0,
}
_SILENT = (
    "press a key on the meter: it may be asleep",
    "slide the head slowly lower, a millimetre at a time; most sit too high",
    "turn the head half a turn: cable down, or cable up",
    "lay it flat on the meter, closer, so that the magnet holds it",
    "turn the magnet, if the head has a loose one: its poles matter",
    "see whether this is the right port: `kamstrup-mqtt ports`",
    "look at the meter's display: a 403 shows when its eye is switched off (see docs/hardware.md)",
)
_HINTS = {
    Seen.NOTHING: _SILENT,
    Seen.ECHO: _SILENT,
    Seen.NOISE: (
        "nearly: move it a millimetre up or down",
        "shade it from strong light",
        "hold it a few millimetres off the meter: too close can be too bright",
        "stop other programs that read this meter",
    ),
    Seen.BAD_CRC: (
        "very near: move it less than a millimetre",
        "hold it a few millimetres off the meter: too close can be too bright",
        "shade it from strong light",
    ),
    Seen.GOOD: ("good: keep it still, then fix it so that it cannot slip",),
}


@dataclass(frozen=True, slots=True)
class View:
    """What a person is shown after a question.

    Args:
        seen: what came back.
        quality: percent of good answers over the last seconds.
        best: the highest quality so far.
        trend: 1 for better than a moment ago, -1 for worse, 0 for neither.
        in_a_row: good answers since the last other one.
        asked: questions so far.
        hint: the next move.

    """

    seen: Seen
    quality: int
    best: int
    trend: int
    in_a_row: int
    asked: int
    hint: str

    @property
    def done(self) -> bool:
        """Whether the head sits well."""
        return self.in_a_row >= ENOUGH


class Alignment:
    """Gathers what was seen; `add` gives what to show."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Seen]] = deque()
        self._best = 0
        self._in_a_row = 0
        self._asked = 0
        self._hinted: tuple[Seen, float] = (Seen.GOOD, 0.0)

    def add(self, seen: Seen, now: float) -> View:
        """Note what came back at `now`, in seconds of a monotonic clock."""
        self._seen.append((now, seen))
        while self._seen[0][0] <= now - _WINDOW_S:
            self._seen.popleft()
        self._asked += 1
        self._in_a_row = self._in_a_row + 1 if seen is Seen.GOOD else 0
        good = sum(one is Seen.GOOD for _, one in self._seen)
        quality = 100 * good // len(self._seen)
        self._best = max(self._best, quality)
        return View(
            seen, quality, self._best, self._trend(now), self._in_a_row, self._asked,
            self._hint(seen, now),
        )  # fmt: skip

    def _trend(self, now: float) -> int:
        recent = [_STRENGTH[one] for at, one in self._seen if at > now - _RECENT_S]
        before = [_STRENGTH[one] for at, one in self._seen if at <= now - _RECENT_S]
        if not before:
            return 0
        change = sum(recent) / len(recent) - sum(before) / len(before)
        return (change > _BETTER) - (change < -_BETTER)

    def _hint(self, seen: Seen, now: float) -> str:
        hints = _HINTS[seen]
        if _HINTS[self._hinted[0]] is not hints:
            self._hinted = (seen, now)
        return hints[int((now - self._hinted[1]) / _HINT_S) % len(hints)]


async def align(
    line: str | Link, longest_s: float = LONGEST_S, tap: Tap | None = None
) -> AsyncIterator[View]:
    """Ask over and over while a head is moved, until it sits well or `longest_s` have passed.

    The line is given by its port or as it is.

    Raises:
        PortError: the port cannot be opened. One that is lost later is waited for.

    """
    loop = asyncio.get_running_loop()
    end = loop.time() + longest_s
    alignment = Alignment()
    async with Probe(line, tap) as probe:
        while (begun := loop.time()) < end:
            try:
                seen = await probe.ask()
            except PortError:
                seen = Seen.NOTHING
            view = alignment.add(seen, loop.time())
            yield view
            if view.done:
                return
            await asyncio.sleep(begun + _PACE_S - loop.time())
