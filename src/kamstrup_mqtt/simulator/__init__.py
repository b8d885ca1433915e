"""A simulated meter for demos, tests and software of other people: see `SimulatedMeter`."""

from kamstrup_mqtt.simulator.control import fault_rate, serve_control
from kamstrup_mqtt.simulator.conversation import Line, Meter, Sink, Source, converse
from kamstrup_mqtt.simulator.faults import Fault, Reaction
from kamstrup_mqtt.simulator.meter import DEFAULT_SERIAL, MODELS, SimulatedMeter
from kamstrup_mqtt.simulator.past import past
from kamstrup_mqtt.simulator.replay import ReplayedMeter
from kamstrup_mqtt.simulator.server import serve_pty, serve_tcp

__all__ = [
    "DEFAULT_SERIAL",
    "MODELS",
    "Fault",
    "Line",
    "Meter",
    "Reaction",
    "ReplayedMeter",
    "SimulatedMeter",
    "Sink",
    "Source",
    "converse",
    "fault_rate",
    "past",
    "serve_control",
    "serve_pty",
    "serve_tcp",
]
