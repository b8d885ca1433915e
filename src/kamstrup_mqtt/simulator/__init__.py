"""A simulated meter for demos, tests and software of other people: see `SimulatedMeter`."""

from kamstrup_mqtt.simulator.meter import DEFAULT_SERIAL, MODELS, Fault, Reaction, SimulatedMeter
from kamstrup_mqtt.simulator.server import Line, serve_pty, serve_tcp

__all__ = [
    "DEFAULT_SERIAL",
    "MODELS",
    "Fault",
    "Line",
    "Reaction",
    "SimulatedMeter",
    "serve_pty",
    "serve_tcp",
]
