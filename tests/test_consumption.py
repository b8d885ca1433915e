"""What was used by hour, day, month and year: exact, and honest about what nobody knows."""

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import MeterIdentity, Reading, Readout, UsageError
from kamstrup_mqtt.consumption import BYS, Archive, By
from kamstrup_mqtt.consumption.periods import Point, boundaries, consumption
from kamstrup_mqtt.store import History, rollup
from kamstrup_mqtt.store.codec import RowError, encode, numbers

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
SECOND = 1_000_000


def taken(moment: datetime) -> int:
    return round(moment.timestamp()) * SECOND


def point(moment: datetime, value: str) -> Point:
    return Point(taken(moment), Decimal(value))


def local(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=AMSTERDAM)  # type: ignore[arg-type, misc]


def used(points: list[Point], marks: list[datetime], by: By = "day") -> list[str | None]:
    found = consumption(points, marks, by).periods
    return [None if period.used is None else str(period.used) for period in found]


def test_a_day_of_summer_time_has_23_or_25_hours() -> None:
    for day, hours in (
        (local(2026, 3, 29), 23),
        (local(2026, 10, 25), 25),
        (local(2026, 5, 1), 24),
    ):
        assert len(boundaries(day, day + timedelta(days=1), "hour")) - 1 == hours
        begin, end = boundaries(day, day + timedelta(hours=1), "day")
        assert end.timestamp() - begin.timestamp() == hours * 3600


def test_periods_begin_where_people_say_they_do() -> None:
    moment = local(2026, 11, 24, 10, 28)
    begins = {by: boundaries(moment, moment, by)[0] for by in BYS}
    assert begins == {
        "hour": local(2026, 11, 24, 10),
        "day": local(2026, 11, 24),
        "week": local(2026, 11, 23),
        "month": local(2026, 11, 1),
        "year": local(2026, 1, 1),
    }
    assert boundaries(local(2026, 11, 1), local(2027, 2, 1), "month") == [
        local(2026, 11, 1), local(2026, 12, 1), local(2027, 1, 1), local(2027, 2, 1),
    ]  # fmt: skip


def test_the_reading_on_the_clock_closes_the_period() -> None:
    marks = boundaries(local(2026, 5, 1), local(2026, 5, 3), "day")
    points = [
        point(local(2026, 5, 1, 0, 0, 1), "10.0"), point(local(2026, 5, 1, 12), "11.5"),
        point(local(2026, 5, 2, 0, 0, 2), "12.1"), point(local(2026, 5, 3), "15.0"),
    ]  # fmt: skip
    assert used(points, marks) == ["2.1", "2.9"]
    assert all(period.complete for period in consumption(points, marks, "day").periods)


def test_what_is_missing_is_a_gap_and_spread_only_when_asked() -> None:
    marks = boundaries(local(2026, 1, 1), local(2026, 5, 1), "month")
    points = [
        point(local(2025, 12, 31, 23, 59), "100"), point(local(2026, 1, 31, 23, 59), "160"),
        point(local(2026, 3, 3), "224"), point(local(2026, 3, 31, 23, 59), "250"),
        point(local(2026, 5, 1), "280"),
    ]  # fmt: skip
    found = consumption(points, marks, "month")
    assert [period.used for period in found.periods][1:3] == [None, Decimal(26)]
    assert [gap.used for gap in found.gaps] == [Decimal(60), Decimal(64), Decimal(30)]
    spread = consumption(points, marks, "month", spread=True)
    assert spread.gaps == []
    assert sum(period.used or 0 for period in spread.periods) == 180
    assert all(period.used for period in spread.periods)
    assert not spread.periods[1].complete


def test_a_missed_night_is_no_gap_in_a_day_and_one_in_its_hours() -> None:
    points = [
        point(local(2026, 5, 1, 1), "1"), point(local(2026, 5, 1, 5), "5"),
        point(local(2026, 5, 1, 6), "6"),
    ]  # fmt: skip
    assert used(points, boundaries(local(2026, 5, 1), local(2026, 5, 2), "day")) == ["5"]
    marks = boundaries(local(2026, 5, 1, 1), local(2026, 5, 1, 6), "hour")
    assert used(points, marks, "hour") == [None, None, None, None, "1"]
    assert consumption(points, marks, "hour").gaps[0].used == 4


def test_a_counter_that_went_backwards_tells_nothing() -> None:
    marks = boundaries(local(2026, 5, 1), local(2026, 5, 2), "day")
    points = [
        point(local(2026, 5, 1), "10"), point(local(2026, 5, 1, 8), "12"),
        point(local(2026, 5, 1, 9), "3"), point(local(2026, 5, 2), "4"),
    ]  # fmt: skip
    found = consumption(points, marks, "day")
    assert found.periods[0].used == 3
    assert not found.periods[0].complete


def test_a_period_that_the_readings_do_not_fill_says_so() -> None:
    marks = boundaries(local(2026, 5, 1), local(2026, 5, 4), "day")
    points = [point(local(2026, 5, 1, 9), "1"), point(local(2026, 5, 2), "2"),
              point(local(2026, 5, 3), "4"), point(local(2026, 5, 3, 14), "5")]  # fmt: skip
    found = consumption(points, marks, "day")
    assert [period.complete for period in found.periods] == [False, True, False]
    for last, complete in ((local(2026, 5, 3, 23), False), (local(2026, 5, 4), True)):
        points[-1] = point(last, "6")  # as long as it goes on, nobody knows
        assert consumption(points, marks, "day").periods[-1].complete is complete


@given(
    st.lists(st.tuples(st.integers(1, 40 * 86400), st.integers(0, 5000)), min_size=2, max_size=40),
    st.sampled_from(BYS),
    st.booleans(),
)
def test_periods_and_gaps_are_the_difference_of_the_counter(
    steps: list[tuple[int, int]], by: By, spread: bool
) -> None:
    moment, value, points = taken(local(2025, 12, 31)), Decimal("12.345"), []
    for seconds, more in steps if by != "hour" else [(s // 40, m) for s, m in steps]:
        moment += max(1, seconds) * SECOND
        value += Decimal(more).scaleb(-3)
        points.append(Point(moment, value))
    last = datetime.fromtimestamp(moment / SECOND + 3600, AMSTERDAM)
    found = consumption(points, boundaries(local(2025, 12, 30), last, by), by, spread=spread)
    total = sum((period.used or Decimal(0) for period in found.periods), Decimal(0))
    total += sum((gap.used for gap in found.gaps), Decimal(0))
    assert total == points[-1].value - points[0].value
    assert not (spread and found.gaps)


def readout(moment: datetime, energy: str, serial: str | None = "1", unit: str = "GJ") -> Readout:
    return Readout(
        MeterIdentity(serial), moment,
        {
            60: Reading(60, "energy", Decimal(energy), unit),
            86: Reading(86, "temp1", Decimal(energy) % 100, "°C"),
        },
        {},
    )  # fmt: skip


async def written(path: Path, *readouts: Readout) -> None:
    history = History(path, 1e9)
    await history.open()
    for one in readouts:
        await history.append("meter", one)
    await history.close()


BEGIN = local(2026, 1, 1)


def house(
    hours: int, step_h: int = 1, start: datetime = BEGIN, first: str = "100.000"
) -> list[Readout]:
    return [
        readout(
            (start.astimezone(UTC) + timedelta(hours=number)).astimezone(AMSTERDAM),
            str(Decimal(first) + number * Decimal("0.017")),
        )
        for number in range(0, hours, step_h)
    ]  # fmt: skip


async def test_consumption_by_month_is_the_difference_of_the_counters(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    readouts = house(24 * 121)
    await written(path, *readouts)
    at = {one.time: Decimal(one["energy"].text) for one in readouts}
    marks = [BEGIN, local(2026, 2, 1), local(2026, 3, 1), local(2026, 4, 1), local(2026, 5, 1)]
    with Archive(path) as archive:
        unit, found = archive.used("meter", 60, BEGIN, local(2026, 5, 1), "month")
        assert unit == "GJ"
        assert [period.used for period in found.periods] == [
            at[end] - at[begin] for begin, end in pairwise(marks)
        ]
        assert all(period.complete for period in found.periods)
        for by in ("hour", "day"):
            _, parts = archive.used("meter", 60, BEGIN, local(2026, 5, 1), by)
            total = sum(period.used or 0 for period in parts.periods)
            assert total == at[local(2026, 5, 1)] - at[BEGIN]


async def test_the_hour_that_has_not_ended_counts_too(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    moments = [BEGIN + timedelta(minutes=minutes) for minutes in range(0, 100, 5)]
    await written(path, *(readout(m, f"{n}.5") for n, m in enumerate(moments)))
    with Archive(path) as archive:
        _, found = archive.used("meter", 60, BEGIN, BEGIN + timedelta(hours=2), "hour")
        assert [str(period.used) for period in found.periods] == ["12.0", "7.0"]
        assert [period.complete for period in found.periods] == [True, False]
        _, day = archive.used("meter", 60, BEGIN, BEGIN + timedelta(hours=2), "day")
        assert day.periods[0].used == 19
        assert not day.periods[0].complete


async def test_a_meter_that_was_replaced_by_one_with_another_unit(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    change = local(2026, 1, 15, 12)
    new = [readout(change + timedelta(hours=n), f"{n}", "2", "kWh") for n in range(1, 24 * 17, 6)]
    await written(path, *house(24 * 14 + 12), *new)
    with Archive(path) as archive:
        unit, found = archive.used("meter", 60, BEGIN, local(2026, 2, 1), "month")
        assert unit == "kWh"
        old = Decimal("0.017") * (24 * 14 + 11) / Decimal("0.0036")
        assert abs((found.periods[0].used or 0) - old - 390) < Decimal("0.001")
        assert found.gaps == []
        assert [who.serial for who in archive.meters()["meter"]] == ["1", "2"]


async def test_a_meter_that_tells_more_of_itself_later_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    readouts = house(48)
    readouts[5] = Readout(MeterIdentity(None), readouts[5].time, readouts[5].readings, {})
    readouts[9] = Readout(MeterIdentity("1", "0402"), readouts[9].time, readouts[9].readings, {})
    await written(path, *readouts)
    with Archive(path) as archive:
        _, found = archive.used("meter", 60, BEGIN, local(2026, 1, 2), "day")
        assert found.periods[0].used == 24 * Decimal("0.017")


async def test_series_have_means_and_extremes(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    moments = [BEGIN + timedelta(minutes=minutes) for minutes in range(1, 240)]
    await written(path, *(readout(m, f"{n}.0") for n, m in enumerate(moments)))
    with Archive(path) as archive:
        unit, hours = archive.series("meter", 60, BEGIN, BEGIN + timedelta(hours=4), "hour")
        assert unit == "GJ"
        assert [one.time for one in hours] == [BEGIN + timedelta(hours=n) for n in range(4)]
        assert [str(part) for part in hours[0][1:]] == ["29.50", "0.0", "59.0"]
        _, days = archive.series("meter", 60, BEGIN, local(2026, 1, 2), "day")
        assert [str(part) for part in days[0][1:]] == ["119.00", "0.0", "238.0"]
        _, raw = archive.series("meter", 60, BEGIN, BEGIN + timedelta(minutes=3), "raw")
        assert [str(one.value) for one in raw] == ["0.0", "1.0"]
        assert archive.series("meter", 99, BEGIN, local(2026, 1, 2), "day") == ("", [])


async def test_late_readouts_and_a_rebuild_give_the_same(tmp_path: Path) -> None:
    readouts = house(200)
    in_order, shuffled = tmp_path / "a.db", tmp_path / "b.db"
    await written(in_order, *readouts)
    await written(shuffled, *readouts[::2])
    late = History(shuffled, 1e9)
    await late.open()
    assert await late.take_in(("meter", one) for one in readouts[1::2]) == (100, 0)
    await late.close()

    def everything(path: Path) -> list[object]:
        with Archive(path) as archive:
            parts: list[object] = [
                archive.used("meter", 60, BEGIN, local(2026, 1, 9), by) for by in BYS
            ]
            return [*parts, archive.series("meter", 86, BEGIN, local(2026, 1, 9), "hour")]

    before = everything(in_order)
    assert everything(shuffled) == before
    history = History(in_order, 1e9)
    await history.open()
    assert await history.rebuild() == 199
    await history.close()
    assert everything(in_order) == before


def write_older(path: Path, version: int, readouts: list[Readout]) -> None:
    """A file as an older kamstrup-mqtt made it, nothing rolled up."""
    folder = files("kamstrup_mqtt.store")
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for step in range(1, version + 1):
            database.executescript(folder.joinpath(f"schema-{step}.sql").read_text("utf-8"))
        database.execute(f"PRAGMA user_version = {version}")
        for one in map(encode, readouts):
            database.execute("INSERT OR IGNORE INTO layout VALUES (1, ?)", (one.columns,))
            database.execute(
                "INSERT OR IGNORE INTO meter (id, name, identity) VALUES (1, 'meter', ?)",
                (one.identity,),
            )
            database.execute(
                "INSERT INTO readout (meter, layout, taken, utc_offset, digits) "
                "VALUES (1, 1, ?, ?, ?)",
                (one.taken, one.utc_offset, one.digits),
            )


@pytest.mark.parametrize("version", [1, 2])
async def test_a_history_of_an_older_version_is_taken_over(tmp_path: Path, version: int) -> None:
    path = tmp_path / "history.db"
    write_older(path, version, house(300))
    with pytest.raises(UsageError, match="start the gateway once"):
        Archive(path)
    await written(path, *house(301)[300:])
    with Archive(path) as archive:  # not all is rolled up yet, and nothing is missing
        _, found = archive.used("meter", 60, BEGIN, local(2026, 1, 12), "day")
        assert [period.used for period in found.periods] == [24 * Decimal("0.017")] * 11


def test_no_history_yet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="begins with the first readout"):
        Archive(tmp_path / "nothing.db")
    (tmp_path / "text.db").write_text("this is no database, " * 99)
    with pytest.raises(UsageError, match="is no history of kamstrup-mqtt"):
        Archive(tmp_path / "text.db")


def test_a_row_that_lost_a_column_tells_nothing_of_the_others() -> None:
    columns = '[[60,"energy","GJ","number"],[68,"volume","m³","number"],[86,"temp1","°C","number"]]'
    assert numbers(columns, "1.0\x1f2.0\x1f3.0", 68) == [(68, "m³", Decimal("2.0"))]
    assert numbers(columns, "1.0\x1f2.0\x1fx", 68) == [(68, "m³", Decimal("2.0"))]
    with pytest.raises(RowError):
        numbers(columns, "1.0?2.0\x1f3.0", 68)  # and not 3.0


def test_readings_on_the_hour_close_it() -> None:
    hour = 400_000
    assert rollup.hour_of(hour * rollup.HOUR_US) == hour - 1
    assert rollup.hour_of(rollup.begin_of(hour)) == hour
