"""Names what is wrong with the line to a meter, from what became of its readouts.

One noisy readout does not make a bad line: a state other than `ok` or `port_missing` is believed
when two readouts in a row say so.
"""

from datetime import datetime

from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError
from kamstrup_mqtt.readout.status import LinkState

# Meters sleep when nobody asks for 30 minutes (kmp.md, 1), some a little earlier.
SLEEPY_S = 25 * 60
_BELIEVED = 2  # readouts in a row that say the same


class LinkMonitor:
    """The state of one line, from one readout to the next."""

    def __init__(self) -> None:
        self.state: LinkState | None = None  # None before the first readout
        self.since: datetime | None = None
        self._suspected: LinkState | None = None
        self._times = 0
        self._heard_at: float | None = None  # the last answer
        self._pause_s = 0.0  # from the last answer to the first question without one

    def heard(self, moment: datetime, clock: float) -> None:
        """The meter answered, at `moment`, or `clock` seconds of a monotonic clock."""
        self._heard_at = clock
        self._suspected = None
        self._become(LinkState.OK, moment)

    def failed(self, fault: KamstrupError, moment: datetime, clock: float) -> None:
        """A readout failed with `fault`."""
        if self._suspected is None and self._heard_at is not None:
            self._pause_s = clock - self._heard_at
        state = self._name(fault)
        self._times = self._times + 1 if state is self._suspected else 1
        self._suspected = state
        at_once = self.state is None or state is LinkState.PORT_MISSING
        if at_once or self._times >= _BELIEVED:
            self._become(state, moment)

    def _name(self, fault: KamstrupError) -> LinkState:
        if isinstance(fault, PortError):
            return LinkState.PORT_MISSING
        if not isinstance(fault, NoAnswerError):
            return LinkState.GARBLED
        return LinkState.ASLEEP if self._pause_s >= SLEEPY_S else LinkState.SILENT

    def _become(self, state: LinkState, moment: datetime) -> None:
        if state is not self.state:
            self.state, self.since = state, moment
