"""What the schedule of a meter remembers over a restart, and how it is written down."""

import contextlib
import json
import math
from typing import NamedTuple


class Memory(NamedTuple):
    """What is not to be forgotten.

    Args:
        asked: when the meter was asked in the last 24 hours, as unix time, where that is limited.
        slept: whether it was found asleep once.

    """

    asked: tuple[float, ...] = ()
    slept: bool = False

    def is_news(self, kept: "Memory") -> bool:
        """Whether it says more than what is `kept`, from which some may have grown too old."""
        if kept.slept != self.slept:
            return True
        is_refunded = bool(kept.asked) and max(kept.asked) not in self.asked
        return is_refunded or not set(self.asked) <= set(kept.asked)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str | None) -> "Memory":
        """What `to_json` wrote; nothing is remembered of what is damaged."""
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
            found = json.loads(text or "{}")
            asked = tuple(float(moment) for moment in found["asked"])
            if all(map(math.isfinite, asked)):
                return cls(asked, found["slept"] is True)
        return cls()
