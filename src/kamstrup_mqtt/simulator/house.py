"""The house behind the simulated meter: its heat, water, temperatures and time.

A plausible winter: heating that follows the hour, showers in the morning and the evening, warm
water in from the district and cooler water back. It knows no registers and no protocol; time comes
in as an argument, so the same seconds always give the same house.
"""

import math
import random
from datetime import datetime, timedelta

KWH_PER_L_K = 1.163 / 1000  # heat in a litre of water, for each kelvin
_STEP_S = 10.0
_MAX_STEPS = 5000  # a long pause is crossed in wider steps instead of more of them
_DRAW_KW = 18.0
_DRAW_S = 240


class House:
    """A house at a moment of its own time.

    Args:
        now: the local time at which it starts.
        speed: seconds that pass in the house for each second outside.

    """

    def __init__(self, now: datetime, speed: float = 1.0) -> None:
        self.now = now
        self.speed = speed
        self.energy_kwh = 63179.2  # what the meter has counted since it was mounted
        self.volume_l = 2131935.0
        self.supply_l_k = 150_230_000.0  # volume times supply temperature, E8
        self.return_l_k = 74_410_000.0
        self.hours = 31622.0
        self.max_power_kw = 21.4
        self.max_flow_l_h = 1007.0
        self._outside: float | None = None  # the time outside, from the first `advance` on
        self._feel()

    def advance(self, outside: float) -> None:
        """Let the house live until `outside`, a monotonic time in seconds."""
        if self._outside is not None:
            remaining = max(0.0, (outside - self._outside) * self.speed)
            step = max(_STEP_S, remaining / _MAX_STEPS)
            while remaining > 0:
                self._live(min(step, remaining))
                remaining -= step
        self._outside = outside

    def live_through(self, seconds: float, step: float) -> None:
        """Live `seconds` of the house's own time at once, in steps of so many seconds."""
        while seconds > 0:
            self._live(min(step, seconds))
            seconds -= step

    def _live(self, seconds: float) -> None:
        hours = seconds / 3600
        litres = self.flow_l_h * hours
        self.energy_kwh += self.power_kw * hours
        self.volume_l += litres
        self.supply_l_k += litres * self.supply_c
        self.return_l_k += litres * self.return_c
        self.hours += hours
        self.now += timedelta(seconds=seconds)
        self._feel()
        self.max_power_kw = max(self.max_power_kw, self.power_kw)
        self.max_flow_l_h = max(self.max_flow_l_h, self.flow_l_h)

    def _feel(self) -> None:
        """Temperatures, power and flow of this moment."""
        second = self.now.hour * 3600 + self.now.minute * 60 + self.now.second
        day = math.tau * second / 86400
        slot = second // 600
        chance = random.Random(self.now.toordinal() * 144 + slot).random()
        busy = 6 <= self.now.hour < 9 or 17 <= self.now.hour < 23
        shower = chance < (0.4 if busy else 0.05) and second % 600 < _DRAW_S
        self.power_kw = 3.2 + 1.6 * math.cos(day - 1.3) + 0.1 * math.sin(second / 53)
        self.power_kw += _DRAW_KW * shower
        self.supply_c = 67.5 + 4 * math.cos(day - 1.6) + 0.6 * math.sin(second / 97)
        self.return_c = 33.0 + 0.3 * self.power_kw + 0.4 * math.sin(second / 61)
        self.flow_l_h = self.power_kw / (KWH_PER_L_K * (self.supply_c - self.return_c))
