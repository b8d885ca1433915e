"""Where readouts and the state of meters are kept for the outputs to follow."""

from kamstrup_mqtt.store.board import Board, Entry
from kamstrup_mqtt.store.history import History, Stored

__all__ = ["Board", "Entry", "History", "Stored"]
