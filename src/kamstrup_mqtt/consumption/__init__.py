"""What can be told from the history: what was used in a period, series, export and import."""

from kamstrup_mqtt.consumption.archive import Archive, Sample
from kamstrup_mqtt.consumption.periods import BYS, By, Consumption, Gap, Period, local_zone
from kamstrup_mqtt.consumption.prices import CURRENCY, Price, costs

__all__ = [
    "BYS",
    "CURRENCY",
    "Archive",
    "By",
    "Consumption",
    "Gap",
    "Period",
    "Price",
    "Sample",
    "costs",
    "local_zone",
]
