"""What heat costs: the section `prices` of the configuration, and the cost of what was used."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal, localcontext
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kamstrup_mqtt.catalog import GJ
from kamstrup_mqtt.consumption.periods import Consumption
from kamstrup_mqtt.kmp import EXACT

CURRENCY = "EUR"
_CENT = Decimal("0.01")


class Price(BaseModel):
    """What heat costs from a day on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: date = Field(description="a day such as 2026-01-01")
    price: Decimal = Field(
        ge=0, le=10**9, allow_inf_nan=False, description="a number from 0 to 1000000000"
    )
    per: Literal["GJ", "MWh", "kWh"] = Field(description="GJ, MWh or kWh")


def costs(total: Consumption, unit: str, prices: Sequence[Price]) -> dict[int, Decimal]:
    """What periods cost, by their place, at the price of the day on which they begin."""
    found = {}
    ordered = sorted(prices, key=lambda price: price.since)
    for index, period in enumerate(total.periods):
        valid = [price for price in ordered if price.since <= period.begin.date()]
        if valid and period.used is not None and unit in GJ:
            with localcontext(EXACT):
                amount = period.used * GJ[unit] / GJ[valid[-1].per]
                found[index] = (amount * valid[-1].price).quantize(_CENT)
    return found
