"""Where readouts and the state of meters are kept for the outputs to follow."""

from kamstrup_mqtt.store.board import Board, Entry
from kamstrup_mqtt.store.file import check_history, history_names
from kamstrup_mqtt.store.history import MAX_BYTES, History, HistoryAwayError, last_taken
from kamstrup_mqtt.store.positions import Position
from kamstrup_mqtt.store.queue import MOST_WAITING
from kamstrup_mqtt.store.rows import Stored

__all__ = [
    "MAX_BYTES",
    "MOST_WAITING",
    "Board",
    "Entry",
    "History",
    "HistoryAwayError",
    "Position",
    "Stored",
    "check_history",
    "history_names",
    "last_taken",
]
