"""How long each register holds."""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from kamstrup_mqtt.catalog import REGISTERS, register_numbers
from kamstrup_mqtt.polling.cache import Cache
from kamstrup_mqtt.readout import Now, Reading, Readout

AMSTERDAM, LORD_HOWE = ZoneInfo("Europe/Amsterdam"), ZoneInfo("Australia/Lord_Howe")


class Cached:
    """A cache that was filled at a moment."""

    def __init__(self, moment: str, values: dict[str, str], zone: ZoneInfo = AMSTERDAM) -> None:
        self.zone = zone
        self.names = {REGISTERS[n].name: n for n in register_numbers(values)}
        self.cache = Cache(tuple(self.names.values()), zone)
        self.begin = self.at(moment)
        self.readout = Readout(
            None, None,  # type: ignore[arg-type]
            {n: Reading(n, name, Decimal(values[name]), "") for name, n in self.names.items()}, {},
        )  # fmt: skip
        assert self.due(moment) == list(values)
        self.cache.complete(self.readout, (1, "1"), self.begin)

    def at(self, moment: str) -> Now:
        wall = datetime.fromisoformat(moment).replace(tzinfo=self.zone).timestamp()
        return Now(wall, wall - 1e9)

    def due(self, moment: str) -> list[str]:
        return [REGISTERS[number].name for number in self.cache.due(self.at(moment))]


def test_each_register_holds_as_long_as_the_table_says() -> None:
    cached = Cached(
        "2026-11-24T10:20",
        dict.fromkeys(
            ("energy", "date", "clock", "hourcounter", "maxpower_m", "program_number"), "1"
        ),
    )
    live = ["energy", "date", "clock"]
    assert cached.due("2026-11-24T10:59:59") == live
    assert cached.due("2026-11-24T11:00:00") == [*live, "hourcounter", "maxpower_m"]
    lost = replace(cached.readout, readings={60: cached.readout.readings[60]})
    late = cached.at("2026-11-24T11:01")
    assert [r.name for r in cached.cache.complete(lost, (1, "1"), late)] == [
        "energy",
        "program_number",
    ]
    cached.cache.forget()
    assert len(cached.due("2026-11-24T10:30")) == 6


def test_month_and_year_registers_end_with_the_day() -> None:
    cached = Cached("2026-11-30T23:59:30", dict.fromkeys(("energy", "maxpower_m"), "1"))
    assert cached.due("2026-12-01T00:00:00") == ["energy", "maxpower_m"]
    cached = Cached("2026-12-01T00:01:00", dict.fromkeys(("energy", "maxpower_m"), "1"))
    assert cached.due("2026-12-01T00:02:00") == ["energy", "maxpower_m"]  # its day may end later
    cached = Cached("2026-12-01T00:16:00", dict.fromkeys(("energy", "maxpower_m"), "1"))
    assert cached.due("2026-12-01T00:17:00") == ["energy"]


def test_totals_that_a_meter_does_not_count_are_asked_for_each_hour() -> None:
    cached = Cached("2026-11-24T10:20", {"energy": "7", "cooling_energy": "0", "power": "0"})
    assert cached.due("2026-11-24T10:30") == ["energy", "power"]
    assert cached.due("2026-11-24T11:00") == ["energy", "cooling_energy", "power"]
    cached = Cached("2026-11-24T10:20", {"energy": "0", "volume": "0"})  # a new one
    assert cached.due("2026-11-24T10:30") == ["energy", "volume"]


def test_a_meter_that_knows_no_summer_time_ends_its_day_an_hour_later() -> None:
    cached = Cached("2026-07-01T01:01:00", dict.fromkeys(("energy", "maxpower_m"), "1"))
    assert cached.due("2026-07-01T01:02:00") == ["energy", "maxpower_m"]
    cached = Cached("2026-12-01T01:01:00", dict.fromkeys(("energy", "maxpower_m"), "1"))
    assert cached.due("2026-12-01T01:02:00") == ["energy"]


def test_a_meter_whose_clock_is_fast_has_ended_its_day() -> None:
    cached = Cached("2026-11-30T23:50", dict.fromkeys(("energy", "maxpower_m"), "1"))
    assert cached.due("2026-11-30T23:58") == ["energy", "maxpower_m"]


def test_midnight_of_standard_time_is_half_an_hour_later_where_summer_time_is() -> None:
    cached = Cached("2027-01-01T00:20", dict.fromkeys(("energy", "maxpower_m"), "1"), LORD_HOWE)
    assert cached.due("2027-01-01T00:50") == ["energy", "maxpower_m"]
