"""Readouts as JSON: exact digits, ISO dates, null for what there is none of."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import BitField, MeterIdentity, MonthDay, Reading, Readout, Unreadable, Value

AT = datetime(2026, 11, 13, 14, 22, 33, tzinfo=UTC)


def readout(*values: Value) -> Readout:
    readings = {n: Reading(n, f"r{n}", value, "") for n, value in enumerate(values)}
    return Readout(MeterIdentity("1"), AT, readings, {})


def test_every_kind_of_value_has_its_json() -> None:
    given = readout(
        Decimal("227.000"), date(2026, 11, 13), time(14, 22, 33), datetime(2024, 12, 30, 0, 0, 4),  # noqa: DTZ001
        MonthDay(8, 24), BitField(9), "02K52", None, Unreadable("261275"), Decimal("0E-9"),
    )  # fmt: skip
    assert given.to_json() == (
        '{"r0": 227.000, "r1": "2026-11-13", "r2": "14:22:33", "r3": "2024-12-30T00:00:04", '
        '"r4": "08-24", "r5": 9, "r6": "02K52", "r7": null, "r8": null, "r9": 0.000000000, '
        '"timestamp": "2026-11-13T14:22:33.000+00:00", "serial": "1"}'
    )


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False), max_size=9))
def test_no_digit_is_lost_on_the_way_to_json(numbers: list[Decimal]) -> None:
    read = json.loads(readout(*numbers).to_json(), parse_float=Decimal, parse_int=Decimal)
    assert [read[f"r{n}"] for n in range(len(numbers))] == numbers
