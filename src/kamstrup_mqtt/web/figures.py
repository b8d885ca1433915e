"""The numbers of the API: what is asked of the archive, as JSON with every digit."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from kamstrup_mqtt.catalog import FINE_REGISTERS, REGISTERS, register_name
from kamstrup_mqtt.consumption import Archive, By, Price, costs
from kamstrup_mqtt.kmp import EXACT
from kamstrup_mqtt.readout import Readout

ENERGY, VOLUME, E8, E9 = 60, 68, 97, 110  # the last two are volume times temperature
_TENTH, _CENT, _MILLI = Decimal("0.1"), Decimal("0.01"), Decimal("0.001")

Json = dict[str, object]


def latest(readout: Readout) -> Json:
    """A readout: values are text, so that no digit is lost."""
    return {
        "meter": readout.meter.to_dict(),
        "timestamp": readout.time.isoformat(timespec="seconds"),
        "values": {
            reading.name: {
                "value": reading.told,
                "unit": reading.unit,
                "title": REGISTERS[reading.register].title
                if reading.register in REGISTERS
                else reading.name,
            }
            for reading in readout
        },
    }


def is_counter(register: int) -> bool:
    """Whether a register counts, so that differences of it are what was used."""
    known = REGISTERS.get(register)
    return known is not None and known.kind == "total" and register not in FINE_REGISTERS


def series(
    archive: Archive, meter: str, register: int, begin: datetime, end: datetime,
    *, by: By | None, prices: Sequence[Price],
) -> Json:  # fmt: skip
    """A register against time: what was used in periods, means, or each reading with `by` None."""
    head: Json = {"parameter": register_name(register), "by": by or "reading"}
    if by is None or not is_counter(register):
        unit, samples = archive.series(meter, register, begin, end, by or "raw")
        return head | {
            "unit": unit,
            "kind": "value" if by is None else "mean",
            "points": [
                {"time": sample.time.isoformat(), "value": f"{sample.value:f}"}
                | ({"low": f"{sample.low:f}", "high": f"{sample.high:f}"} if by is not None else {})
                for sample in samples
            ],
        }
    unit, total = archive.used(meter, register, begin, end, by)
    found = costs(total, unit, prices) if register == ENERGY else {}
    return head | {
        "unit": unit,
        "kind": "used",
        "points": [
            {
                "time": period.begin.isoformat(),
                "value": None if period.used is None else f"{period.used:f}",
                "complete": period.complete,
            }
            | ({"cost": f"{found[index]:f}"} if index in found else {})
            for index, period in enumerate(total.periods)
        ],
        "gaps": [
            {"begin": gap.begin.isoformat(), "end": gap.end.isoformat(), "value": f"{gap.used:f}"}
            for gap in total.gaps
        ],
    }


def efficiency(archive: Archive, meter: str, begin: datetime, end: datetime, by: By) -> Json:
    """Mean supply and return temperature, weighted by the water that had them, from E8 and E9.

    And degree days, and the heat used for each, where the temperature outside is known.
    """
    _, volume = archive.used(meter, VOLUME, begin, end, by)
    _, supply = archive.used(meter, E8, begin, end, by)
    _, back = archive.used(meter, E9, begin, end, by)
    unit, energy = archive.used(meter, ENERGY, begin, end, by)
    days = archive.degree_days(begin, end, by)
    points = []
    for water, warm, cool, heat, cold in zip(
        volume.periods, supply.periods, back.periods, energy.periods, days, strict=True
    ):
        point: Json = {"time": water.begin.isoformat(), "complete": water.complete}
        if water.used and warm.used is not None and cool.used is not None:
            temp1, temp2 = (
                EXACT.quantize(EXACT.divide(part.used, water.used), _CENT)
                for part in (warm, cool)
                if part.used is not None
            )
            point |= {
                "supply": f"{temp1}",
                "return": f"{temp2}",
                "cooling": f"{EXACT.subtract(temp1, temp2)}",
            }
        if cold is not None:
            point["degree_days"] = f"{cold.quantize(_TENTH)}"
            if cold and heat.used is not None:
                each = EXACT.quantize(EXACT.divide(heat.used, cold), _MILLI)
                point["heat_per_degree_day"] = f"{each}"
        points.append(point)
    return {"by": by, "unit": "°C", "heat_unit": unit, "points": points}
