"""One counter from two registers: the fine one wraps early, the coarse one says where it stands.

A high resolution register holds only the low digits of a total, and starts over at a point that
differs from meter to meter (users.md, M1). Pure: readings in, a reading out.
"""

from decimal import Decimal, localcontext

from kamstrup_mqtt.kmp import within_max_digits
from kamstrup_mqtt.readout import Reading

# What each unit is worth, of those that measure the same: joules, and litres.
_ENERGY = {
    "Wh": Decimal(3600),
    "kWh": Decimal(3_600_000),
    "MWh": Decimal(3_600_000_000),
    "GWh": Decimal(3_600_000_000_000),
    "kJ": Decimal(1000),
    "MJ": Decimal(1_000_000),
    "GJ": Decimal(1_000_000_000),
    "Gcal": Decimal(4_186_800_000),
}
_VOLUME = {"l": Decimal(1), "m³": Decimal(1000)}
# Of the longest total, in the smallest unit, beside the longest decimals there are 62.
_DIGITS = 100


class FusedCounter:
    """A total with the digits of its fine register, for one meter.

    It drops only when the main register goes back, which is asked for twice before it is believed.
    """

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
        with localcontext(prec=_DIGITS):
            total = coarse.value * worth[coarse.unit] / worth[fine.unit]
            step = _step(coarse.value) * worth[coarse.unit] / worth[fine.unit]
            fused = self._fuse(total, step, fine.value).quantize(_step(fine.value))
        # Both are numbers that a meter may have, and still have too many digits together.
        return (
            Reading(fine.register, fine.name, fused, fine.unit)
            if within_max_digits(fused)
            else None
        )

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
        if not self._last - 2 * slack <= fused < self._last:  # else the last digit of the total
            self._last = fused
        return self._last


def _step(value: Decimal) -> Decimal:
    """What the last digit of `value` is worth."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))
