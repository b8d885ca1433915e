"""One counter from two registers: the fine one wraps early, the coarse one says where it stands.

A high resolution register holds only the low digits of a total, and starts over at a point that
differs from meter to meter (users.md, M1). Pure: readings in, a reading out.
"""

from decimal import Decimal

from kamstrup_mqtt.readout import Reading

# What each unit is worth, of those that measure the same.
_ENERGY = {
    "Wh": Decimal(1),
    "kWh": Decimal(10) ** 3,
    "MWh": Decimal(10) ** 6,
    "GWh": Decimal(10) ** 9,
    "kJ": Decimal(10) / 36,
    "MJ": Decimal(10) ** 4 / 36,
    "GJ": Decimal(10) ** 7 / 36,
    "Gcal": Decimal(1_163_000),
}
_VOLUME = {"l": Decimal(1), "m³": Decimal(1000)}


class FusedCounter:
    """A total with the digits of its fine register that never drops, for one meter."""

    def __init__(self) -> None:
        self._offset: Decimal | None = None  # from the fine register to the total
        self._last = Decimal(0)

    def update(self, coarse: Reading, fine: Reading) -> Reading | None:
        """The total in the unit and with the digits of `fine`; None when they say no number.

        Args:
            coarse: the main register, whose total is right to its last digit.
            fine: the register that wraps.

        """
        worth = _ENERGY if fine.unit in _ENERGY else _VOLUME
        if coarse.unit not in worth or fine.unit not in worth:
            return None
        if not isinstance(coarse.value, Decimal) or not isinstance(fine.value, Decimal):
            return None
        scale = worth[coarse.unit] / worth[fine.unit]
        total = self._fuse(coarse.value * scale, _step(coarse.value) * scale, fine.value)
        return Reading(fine.register, fine.name, total, fine.unit)

    def _fuse(self, total: Decimal, step: Decimal, fine: Decimal) -> Decimal:
        slack = 2 * step  # the last digit, and what the meter counted between the two readings
        if self._offset is None or abs(fine + self._offset - total) > slack:
            # Counters wrap at a power of ten, so the offset is a round number; where it is not,
            # the main register alone decides.
            gap = total - fine
            grid = Decimal(10) ** (4 * slack).adjusted() * 10
            round_gap = (gap / grid).quantize(Decimal(1)) * grid
            self._offset = round_gap if abs(round_gap - gap) <= slack else gap
        fused = fine + self._offset
        self._last = max(self._last, fused)
        return self._last.quantize(_step(fine))


def _step(value: Decimal) -> Decimal:
    """What the last digit of `value` is worth."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))
