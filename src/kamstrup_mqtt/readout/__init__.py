"""What a meter told: readings and readouts, how its line is doing, what was said on it."""

from kamstrup_mqtt.readout.now import Clock, Now
from kamstrup_mqtt.readout.reading import NOT_IN_METER, Lacking, MeterIdentity, Reading, Readout

__all__ = ["NOT_IN_METER", "Clock", "Lacking", "MeterIdentity", "Now", "Reading", "Readout"]
