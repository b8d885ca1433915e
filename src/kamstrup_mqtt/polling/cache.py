"""Read each register as often as it can change: which are due, and what is known of the others.

How long a value holds is a column of `registers.csv`. Nothing here looks at a clock.
"""

from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.polling.moments import DAY_S, HOUR_S
from kamstrup_mqtt.readout import Now, Reading, Readout

_AROUND_MIDNIGHT_S = 900.0  # in which a meter whose clock is not quite right ends its day too

Key = tuple[int, str | None]  # connection and serial number


class Cache:
    """The latest values of one meter.

    Args:
        registers: those that a full readout has, in order.
        zone: whose hours and days end.

    """

    def __init__(self, registers: tuple[int, ...], zone: tzinfo) -> None:
        self._registers = registers
        self._zone = zone
        self._known: dict[int, tuple[Reading, Now]] = {}  # and when it was read
        self._key: Key | None = None  # whose they are

    def forget(self) -> None:
        """Begin anew."""
        self._known.clear()

    def is_of(self, key: Key) -> bool:
        """Whether what is known, if anything, is of this connection and meter."""
        return not self._known or key == self._key

    def due(self, now: Now) -> tuple[int, ...]:
        """The registers to ask for."""
        return tuple(register for register in self._registers if not self._holds(register, now))

    def complete(self, readout: Readout, key: Key, now: Now) -> Readout:
        """`readout`, of this connection and meter, together with what still holds of earlier ones.

        Nothing of another connection or meter does.
        """
        if not self.is_of(key):
            self.forget()
        self._key = key
        held = {r: self._known[r][0] for r in self._registers if self._holds(r, now)}
        self._known |= {r: (reading, now) for r, reading in readout.readings.items()}
        found = held | dict(readout.readings)
        readings = {r: found[r] for r in self._registers if r in found}
        return Readout(readout.meter, readout.time, readings, readout.missing)

    def _holds(self, register: int, now: Now) -> bool:
        if register not in self._known or register not in REGISTERS:
            return False
        reading, read = self._known[register]
        match REGISTERS[register].holds:
            case "connection":
                return True
            case "hour":
                return self._is_same_hour(read, now)
            case "period":
                return self._is_same_hour(read, now) and self._is_same_day(read, now)
        return self._is_unused(reading) and self._is_same_hour(read, now)

    def _is_same_hour(self, one: Now, other: Now) -> bool:
        same = self._hour(one) == self._hour(other)
        return same and other.monotonic - one.monotonic < HOUR_S

    def _hour(self, now: Now) -> tuple[float, timedelta]:
        """The hour on the clock of the zone; the one that comes twice is two."""
        offset = self._local(now).utcoffset() or timedelta()
        return (now.wall + offset.total_seconds()) // HOUR_S, offset

    def _is_same_day(self, one: Now, other: Now) -> bool:
        """Whether both are surely of one day of the meter, which may know no summer time."""
        for has_summer_time in (True, False):
            shown = (self._shown(now, has_summer_time) for now in (one, other))
            seconds = [second + _AROUND_MIDNIGHT_S for second in shown]
            (day, first), (other_day, second) = (divmod(one, DAY_S) for one in seconds)
            if day != other_day or min(first, second) < 2 * _AROUND_MIDNIGHT_S:
                return False
        return True

    def _shown(self, now: Now, has_summer_time: bool) -> float:  # noqa: FBT001
        """What a clock on the wall shows, in seconds."""
        local = self._local(now)
        offset = local.utcoffset() or timedelta()
        if not has_summer_time:
            offset -= local.dst() or timedelta()
        return now.wall + offset.total_seconds()

    def _local(self, now: Now) -> datetime:
        return datetime.fromtimestamp(now.wall, self._zone)

    def _is_unused(self, reading: Reading) -> bool:
        """Whether that is a total of something that this meter does not count.

        A meter that counts anything at all has such totals at 0 for good. One that does begin to
        count is seen within the hour.
        """
        return (
            _is_total(reading)
            and reading.value == 0
            and any(_is_total(known) and known.value != 0 for known, _ in self._known.values())
        )


def _is_total(reading: Reading) -> bool:
    register = REGISTERS.get(reading.register)
    return register is not None and register.kind == "total" and isinstance(reading.value, Decimal)
