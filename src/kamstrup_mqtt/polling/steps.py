"""The jobs that go on in small steps between all else, and take turns. Nothing here has a clock."""

import math

from kamstrup_mqtt.polling.backoff import retry_delay
from kamstrup_mqtt.polling.job import Kind

_RETRY_S = 60.0


class Steps:
    """The jobs under way, of the kinds in `STEPS`."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, None] = {}  # the next one first
        self._failures = 0
        self._from = -math.inf

    def begin(self, kind: Kind) -> None:
        """Have steps of this kind."""
        self._kinds[kind] = None

    def stop(self, kind: Kind) -> None:
        """Have no more of them."""
        self._kinds.pop(kind, None)

    @property
    def at(self) -> float:
        """From when on the next step may be done; infinity without any."""
        return self._from if self._kinds else math.inf

    @property
    def next(self) -> Kind:
        """The kind of the next step."""
        return next(iter(self._kinds))

    def done(self, kind: Kind) -> None:
        """A step brought an answer."""
        self._failures = 0
        if kind in self._kinds:  # to the end of the queue
            self._kinds[kind] = self._kinds.pop(kind)

    def failed(self, now: float) -> None:
        """A step brought nothing, and is tried again later."""
        self._failures += 1
        self._from = now + retry_delay(self._failures, _RETRY_S)
