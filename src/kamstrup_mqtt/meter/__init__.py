"""The line to a meter and the session on it; imports nothing above `kmp` and the catalog."""

from kamstrup_mqtt.meter.identification import HOLDS_S
from kamstrup_mqtt.meter.link import Tap
from kamstrup_mqtt.meter.port import Port, check_port, list_ports
from kamstrup_mqtt.meter.session import MeterSession, open_meter

__all__ = [
    "HOLDS_S",
    "MeterSession",
    "Port",
    "Tap",
    "check_port",
    "list_ports",
    "open_meter",
]
