"""Where readouts and the state of meters are kept for the outputs to follow."""

from kamstrup_mqtt.store.board import Board, Entry

__all__ = ["Board", "Entry"]
