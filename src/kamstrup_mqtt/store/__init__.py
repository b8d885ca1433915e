"""Where readouts and the state of meters are kept for the outputs to follow."""

from kamstrup_mqtt.store.archive import Archive, Sample
from kamstrup_mqtt.store.board import Board, Entry
from kamstrup_mqtt.store.consumption import BYS, GJ, By, Consumption, Gap, Period, local_zone
from kamstrup_mqtt.store.file import check_history, history_names
from kamstrup_mqtt.store.history import MAX_BYTES, History, last_taken
from kamstrup_mqtt.store.rows import Stored

__all__ = [
    "BYS",
    "GJ",
    "MAX_BYTES",
    "Archive",
    "Board",
    "By",
    "Consumption",
    "Entry",
    "Gap",
    "History",
    "Period",
    "Sample",
    "Stored",
    "check_history",
    "history_names",
    "last_taken",
    "local_zone",
]
