"""The past of a simulated meter: readouts as somebody would have taken them, made in seconds."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from kamstrup_mqtt.catalog import register_name, unit_symbol
from kamstrup_mqtt.readout import MeterIdentity, Reading, Readout
from kamstrup_mqtt.simulator.meter import SimulatedMeter

_STEP_S = 300.0  # of the house; a shower takes that long


def past(
    meter: SimulatedMeter, registers: Sequence[int], begin: datetime, end: datetime,
    every: timedelta = timedelta(hours=1),
) -> Iterator[Readout]:  # fmt: skip
    """Let the house live from `begin` to `end`, and read it every so often.

    Afterwards the meter is where it then is, and lives on from there.
    """
    identity = MeterIdentity(str(meter.serial), model=meter.model)
    moment = begin.astimezone(UTC)
    while moment <= end:
        meter.house.now = moment.astimezone(begin.tzinfo).replace(tzinfo=None)
        readings = {
            value.register: Reading(
                value.register,
                register_name(value.register),
                value.value,
                unit_symbol(value.unit),
            )
            for value in meter.measure(registers)
        }
        yield Readout(identity, moment.astimezone(begin.tzinfo), readings, {})
        meter.house.live_through(every.total_seconds(), _STEP_S)
        moment += every
