"""Read each register as often as it can change: which are due, and what is known of the others.

Live values and counters change all the time; peaks, averages and their dates are worth an hour;
what the meter was configured to be is asked once a connection.
"""

from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.readout import Reading, Readout

HOUR_S = 3600.0
_EARLY_S = 30.0  # a reading that is due with the hour may begin a little before it
_HOURLY = ("peak", "average", "date")
_ONCE = ("config", "identity")


class Freshness:
    """The registers of one meter.

    Args:
        registers: those that a full readout has, in order.

    """

    def __init__(self, registers: tuple[int, ...]) -> None:
        self._registers = registers
        self._known: dict[int, tuple[Reading, float]] = {}  # and when it was read

    def forget(self) -> None:
        """Begin anew: another connection, perhaps another meter."""
        self._known.clear()

    def due(self, clock: float) -> tuple[int, ...]:
        """The registers to ask for at `clock` seconds of a monotonic clock."""
        return tuple(r for r in self._registers if clock >= self._fresh_until(r))

    def complete(self, readout: Readout, clock: float) -> Readout:
        """`readout` together with what is still fresh of earlier ones."""
        fresh = {r for r in self._registers if clock < self._fresh_until(r)}
        self._known |= {r: (reading, clock) for r, reading in readout.readings.items()}
        readings = {
            r: readout.readings[r] if r in readout.readings else self._known[r][0]
            for r in self._registers
            if r in readout.readings or r in fresh
        }
        return Readout(readout.meter, readout.time, readings, readout.missing)

    def _fresh_until(self, register: int) -> float:
        if register not in self._known:
            return 0.0
        kind = REGISTERS[register].kind if register in REGISTERS else ""
        read_at = self._known[register][1]
        if kind in _ONCE:
            return float("inf")
        return read_at + HOUR_S - _EARLY_S if kind in _HOURLY else 0.0
