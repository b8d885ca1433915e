"""What can be told from the history: what was used in a period, series, export and import."""

from kamstrup_mqtt.consumption.archive import Archive, Sample
from kamstrup_mqtt.consumption.periods import BYS, By, Consumption, Gap, Period, local_zone

__all__ = [
    "BYS",
    "Archive",
    "By",
    "Consumption",
    "Gap",
    "Period",
    "Sample",
    "local_zone",
]
