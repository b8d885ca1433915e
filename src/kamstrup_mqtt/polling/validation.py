"""Totals that cannot be: none goes backwards, and none jumps further than water and heat can.

A checksum of 16 bits lets one damaged telegram in 65,536 through. What looks impossible is asked
for again, and believed only when the meter says it twice. Nothing here asks for anything.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal

from kamstrup_mqtt.catalog import FINE_REGISTERS, REGISTERS, register_name
from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.readout import Reading, Readout

# More than any house takes; a meter that counts faster is asked twice, and then known to.
_KW = Decimal(150)
_M3_H = Decimal(6)
_A_HOUR = {
    "Wh": _KW * 1000,
    "kWh": _KW,
    "MWh": _KW / 1000,
    "GWh": _KW / 10**6,
    "MJ": _KW * Decimal("3.6"),
    "GJ": _KW * Decimal("0.0036"),
    "Gcal": _KW / 1163,
    "m³": _M3_H,
    "l": _M3_H * 1000,
    "h": Decimal(1),
}
_JUMPED = "jumped"
_TESTS = ("energy_test_high_res", "volume_test_high_res")  # wrap, or start over


@dataclass(slots=True)
class _Totals:
    """The last totals of a meter, by register and with their time, and how fast it may count."""

    last: dict[int, tuple[Reading, float]] = field(default_factory=dict)
    pace: dict[int, int] = field(default_factory=dict)  # times what a house takes


class Plausibility:
    """What the totals of the meters on one line were, and so what they can be now."""

    def __init__(self) -> None:
        self._all: dict[str | None, _Totals] = {}  # by serial number
        self._serial: str | None = None  # of the last one that was believed

    def _totals(self, readout: Readout) -> "_Totals":
        """Those of the meter of `readout`; where it does not say who it is, of the last one."""
        return self._all.get(readout.meter.serial or self._serial) or _Totals()

    def doubtful(self, readout: Readout, clock: float) -> dict[int, str]:
        """The registers whose totals cannot be, each with the reason.

        Args:
            readout: what was read.
            clock: when, in seconds of a monotonic clock.

        """
        totals, found = self._totals(readout), {}
        for reading in readout:
            reason = _reason(totals, reading, clock)
            if reason:
                found[reading.register] = reason
        return found

    def settle(
        self, readout: Readout, repeated: Readout, doubtful: Collection[int], clock: float
    ) -> Readout:
        """`readout` without the `doubtful` totals that the meter did not say twice.

        Args:
            readout: what was read.
            repeated: the answer to asking for the doubtful ones again.
            doubtful: their registers.
            clock: when that came, in seconds of a monotonic clock.

        """
        readings, missing = dict(readout.readings), dict(readout.missing)
        still = self.doubtful(repeated, clock)
        for register in doubtful:
            first, second = readings[register], repeated.readings.get(register)
            if second is not None and (register not in still or _agree(first, second)):
                readings[register] = second
                if still.get(register, "").startswith(_JUMPED):  # it does count as fast as that
                    pace = self._all.setdefault(readout.meter.serial, _Totals()).pace
                    pace[register] = 4 * pace.get(register, 1)
            else:
                del readings[register]
                missing[register_name(register)] = "implausible, and not confirmed"
        return Readout(readout.meter, readout.time, readings, missing)

    def accept(self, readout: Readout, clock: float) -> None:
        """Take the totals of `readout` as true."""
        self._serial = readout.meter.serial
        totals = self._all.setdefault(self._serial, _Totals())
        for reading in readout:
            if _is_total(reading):
                totals.last[reading.register] = (reading, clock)


def _reason(totals: _Totals, reading: Reading, clock: float) -> str:
    if not _is_total(reading) or reading.register not in totals.last:
        return ""
    before, read_at = totals.last[reading.register]
    if before.unit != reading.unit:
        return f"its unit was {before.unit} and is {reading.unit}"
    if not isinstance(before.value, Decimal) or not isinstance(reading.value, Decimal):
        return ""
    if reading.value < before.value:
        return f"went back from {before.text} to {reading.text} {reading.unit}"
    a_hour = _A_HOUR.get(reading.unit)
    if a_hour is None:
        return ""
    hours = Decimal(max(clock - read_at, 60.0)) / 3600
    digits = 2 * Decimal(1).scaleb(int(reading.value.as_tuple().exponent))
    most = a_hour * hours * totals.pace.get(reading.register, 1) + digits
    if reading.unit == "h":
        most += 1
    if EXACT.subtract(reading.value, before.value) > most:
        return f"{_JUMPED} from {before.text} to {reading.text} {reading.unit}"
    return ""


def _agree(first: Reading, second: Reading) -> bool:
    """Whether a total was said twice, but for what was counted meanwhile."""
    if not isinstance(first.value, Decimal) or not isinstance(second.value, Decimal):
        return False
    digit = Decimal(1).scaleb(int(second.value.as_tuple().exponent))
    return first.unit == second.unit and 0 <= second.value - first.value <= 2 * digit


def _is_total(reading: Reading) -> bool:
    register = REGISTERS.get(reading.register)
    return (
        register is not None
        and register.kind == "total"
        and register.name not in _TESTS
        and reading.register not in FINE_REGISTERS
    )
