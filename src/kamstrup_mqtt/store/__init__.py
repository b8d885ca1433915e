"""Where readouts are kept for the outputs to follow."""

from kamstrup_mqtt.store.history import Entry, History

__all__ = ["Entry", "History"]
