"""What goes wrong in one part of an output and costs that part alone: told once, while it lasts."""

import logging
from collections.abc import Hashable


class Trouble:
    """What is wrong now, by the part that it concerns.

    Args:
        log: where it is told.
        level: how bad it is.
        advice: what to do.

    """

    def __init__(self, log: logging.Logger, level: int, advice: str) -> None:
        self._log = log
        self._level = level
        self._advice = advice
        self._said: dict[Hashable, str] = {}

    @property
    def lines(self) -> list[str]:
        """What is wrong, one line each."""
        return list(self._said.values())

    def note(self, part: Hashable, what: str, error: Exception) -> None:
        """Note that a part fails, and log it if that is news."""
        said = f"{what}: {error!r}"
        if self.is_news(part, said):
            shown = error if self._log.isEnabledFor(logging.DEBUG) else None
            self._log.log(self._level, "%s. All else goes on; %s", said, self._advice,
                          exc_info=shown)  # fmt: skip

    def is_news(self, part: Hashable, said: str) -> bool:
        """Note what is wrong with a part, in words; whether that was not known."""
        is_known = self._said.get(part) == said
        self._said[part] = said
        return not is_known

    def clear(self, part: Hashable) -> None:
        """Note that a part is well again."""
        self._said.pop(part, None)
