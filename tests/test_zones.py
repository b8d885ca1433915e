"""Days where midnight is not on the hour of the world's clock: as right as anywhere else."""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import MeterIdentity, Reading, Readout
from kamstrup_mqtt.consumption import BYS, Archive, By
from kamstrup_mqtt.consumption.periods import Point, boundaries, consumption
from kamstrup_mqtt.store import History
from kamstrup_mqtt.store.codec import taken_of
from kamstrup_mqtt.store.rollup import GRACE_US

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ENERGY, TEMP = 60, 86
# The last two begin and end summer time within the ten days that are read.
PLACES = [
    ("Asia/Kolkata", (2026, 1, 27)),
    ("Asia/Kathmandu", (2026, 1, 27)),
    ("America/St_Johns", (2026, 3, 3)),
    ("America/St_Johns", (2026, 10, 27)),
    ("Australia/Lord_Howe", (2026, 3, 30)),
    ("Australia/Lord_Howe", (2026, 9, 29)),
]
WHOLE = [("Europe/Amsterdam", (2026, 3, 25)), ("UTC", (2026, 1, 27))]


def place(name: str, day: tuple[int, int, int]) -> datetime:
    return datetime(*day, tzinfo=ZoneInfo(name))


def house(begin: datetime, minutes: Sequence[int]) -> list[Readout]:
    """Readouts so many minutes after `begin`, of a house that uses more and more."""
    return [
        Readout(
            MeterIdentity("1"),
            moment,
            {
                ENERGY: Reading(ENERGY, "energy", Decimal((n + 9999) ** 2).scaleb(-3), "GJ"),
                TEMP: Reading(TEMP, "temp1", Decimal(n * 37 % 9000).scaleb(-2), "°C"),
            },
            {},
        )
        for n in minutes
        for moment in [(begin.astimezone(UTC) + timedelta(minutes=n)).astimezone(begin.tzinfo)]
    ]


async def written(path: Path, readouts: list[Readout]) -> None:
    """All in the history; the last day of it came while the gateway ran."""
    history = History(path, 1e9)
    await history.open()
    await history.take_in(("meter", one) for one in readouts[:-144])
    for one in readouts[-144:]:
        await history.append("meter", one)
    await history.close()


def prune(path: Path, before: datetime) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM readout WHERE taken < ?", (taken_of(before),))


def value(readout: Readout, register: int) -> Decimal:
    found = readout.readings[register].value
    assert isinstance(found, Decimal)
    return found


def points(readouts: list[Readout]) -> list[Point]:
    return [Point(taken_of(one.time), value(one, ENERGY)) for one in readouts]


def in_period(readouts: list[Readout], begin: datetime, end: datetime) -> list[Decimal]:
    first, last = (taken_of(mark) + GRACE_US for mark in (begin, end))
    return [value(one, TEMP) for one in readouts if first <= taken_of(one.time) < last]


def kept(path: Path) -> list[tuple[int, str]]:
    """How many hours and parts are kept, by what SQLite takes their numbers for."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return database.execute(
            "SELECT count(*), typeof(hour) FROM hour WHERE register = ? GROUP BY 2", (TEMP,)
        ).fetchall()


def check_days(path: Path, readouts: list[Readout], begin: datetime, days: int) -> None:
    """All that is told of whole days is what every one of `readouts` tells."""
    end = begin + days * DAY
    with Archive(path) as archive:
        for by in BYS[1:]:
            _, found = archive.used("meter", ENERGY, begin, end, by)
            assert found == consumption(points(readouts), boundaries(begin, end, by), by)
            assert found.gaps == []
        _, means = archive.series("meter", TEMP, begin, end, "day")
    for sample, ends in zip(means, pairwise(boundaries(begin, end, "day")), strict=True):
        values = in_period(readouts, *ends)
        assert (sample.low, sample.high) == (min(values), max(values))
        assert abs(sample.value - sum(values, Decimal(0)) / len(values)) <= Decimal("0.0005")


def known_until(mark: datetime, before: datetime, read_in: ZoneInfo) -> datetime:
    """Where a day ends when readouts before `before` are gone: with the hour or part it ends in."""
    hour = mark.astimezone(UTC).replace(minute=0)
    if hour == mark or hour >= before:
        return mark
    midnight = (hour + HOUR).astimezone(read_in).replace(hour=0, minute=0)
    return midnight if mark <= midnight < hour + HOUR else hour + HOUR


@pytest.mark.parametrize("by", BYS)
@pytest.mark.parametrize(("zone", "day"), PLACES + WHOLE)
async def test_what_was_used_is_what_every_reading_tells(
    tmp_path: Path, zone: str, day: tuple[int, int, int], by: By
) -> None:
    path, begin = tmp_path / "history.db", place(zone, day)
    readouts = house(begin, range(0, 10 * 1440 + 500, 10))
    await written(path, readouts)
    for end in (begin + 10 * DAY, begin + 11 * DAY):
        with Archive(path) as archive:
            _, found = archive.used("meter", ENERGY, begin, end, by)
        assert found == consumption(points(readouts), boundaries(begin, end, by), by)
        assert found.gaps == []


@pytest.mark.parametrize("step", BYS)
@pytest.mark.parametrize(("zone", "day"), PLACES + WHOLE)
async def test_means_are_those_of_the_readings_of_the_period(
    tmp_path: Path, zone: str, day: tuple[int, int, int], step: By
) -> None:
    path, begin = tmp_path / "history.db", place(zone, day)
    readouts = house(begin, range(-600, 10 * 1440 + 500, 10))
    await written(path, readouts)
    with Archive(path) as archive:
        _, found = archive.series("meter", TEMP, begin, begin + 5 * DAY, step)
    for sample, (first, last) in zip(
        found, pairwise(boundaries(begin, begin + 5 * DAY, step)), strict=True
    ):
        values = in_period(readouts, first, last)
        assert sample.time == first
        assert (sample.low, sample.high) == (min(values), max(values))
        mean = sum(values, Decimal(0)) / len(values)
        assert abs(sample.value - mean) <= Decimal("0.0005")


@pytest.mark.parametrize("minute", [5, 20, 40, 55])
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "Europe/Amsterdam"])
async def test_a_reading_an_hour_is_no_gap_wherever_in_the_hour(
    tmp_path: Path, zone: str, minute: int
) -> None:
    path, begin = tmp_path / "history.db", place(zone, (2026, 1, 1))
    full = begin.astimezone(UTC).replace(minute=0).astimezone(begin.tzinfo)
    readouts = house(full - 5 * HOUR, range(minute, 95 * 1440, 60))
    await written(path, readouts)
    marks = [place(zone, (2026, month, 1)) for month in (1, 2, 3, 4)]
    with Archive(path) as archive:
        _, found = archive.used("meter", ENERGY, marks[0], marks[-1], "month")
    assert found == consumption(points(readouts), marks, "month")
    assert [period.complete for period in found.periods] == [True] * 3
    assert found.gaps == []


async def test_the_day_that_ended_a_moment_ago_is_complete(tmp_path: Path) -> None:
    path, begin = tmp_path / "history.db", place("Asia/Kolkata", (2026, 1, 1))
    readouts = house(begin - HOUR, range(45, 26 * 60, 60))  # the last one 15:15 after full hours
    await written(path, readouts)
    with Archive(path) as archive:
        _, found = archive.used("meter", ENERGY, begin, begin + DAY, "day")
    assert found.periods[0].complete
    assert found == consumption(points(readouts), [begin, begin + DAY], "day")


@pytest.mark.parametrize(
    "pruned", [timedelta(days=4, minutes=15), 4 * DAY, timedelta(days=10, hours=7)]
)
@pytest.mark.parametrize(("zone", "day"), PLACES + WHOLE)
async def test_days_stay_right_when_readouts_are_removed(
    tmp_path: Path, zone: str, day: tuple[int, int, int], pruned: timedelta
) -> None:
    path, begin = tmp_path / "history.db", place(zone, day)
    readouts = house(begin, range(-600, 10 * 1440 + 500, 10))
    await written(path, readouts)
    prune(path, (begin.astimezone(UTC) + pruned).astimezone(begin.tzinfo))
    check_days(path, readouts, begin, 10)


@pytest.mark.parametrize("minute", [5, 20, 40, 55])
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"])
async def test_a_reading_an_hour_stays_right_too(tmp_path: Path, zone: str, minute: int) -> None:
    path, begin = tmp_path / "history.db", place(zone, (2026, 3, 30))
    full = begin.astimezone(UTC).replace(minute=0).astimezone(begin.tzinfo)
    readouts = house(full - 5 * HOUR, range(minute, 20 * 1440, 60))
    await written(path, readouts)
    prune(path, begin + 15 * DAY)
    check_days(path, readouts, begin, 15)


@pytest.mark.parametrize("days", [3, 4, 6])
async def test_a_gap_soon_after_midnight_begins_with_the_last_reading(
    tmp_path: Path, days: int
) -> None:
    path, begin = tmp_path / "history.db", place("Asia/Kolkata", (2026, 1, 27))
    readouts = house(begin, [*range(-600, 3 * 1440 + 15, 10), *range(5 * 1440, 8 * 1440, 10)])
    await written(path, readouts)
    prune(path, begin + 7 * DAY)
    end = begin + days * DAY
    with Archive(path) as archive:
        _, found = archive.used("meter", ENERGY, begin, end, "day")
    assert found == consumption(points(readouts), boundaries(begin, end, "day"), "day")
    assert [period.complete for period in found.periods[:3]] == [True] * 3
    assert bool(found.gaps) == (days > 3)


async def test_only_an_hour_with_midnight_within_is_kept_in_two(tmp_path: Path) -> None:
    for zone, parts in (("Asia/Kolkata", 10), ("Europe/Amsterdam", 0), ("UTC", 0)):
        path, begin = tmp_path / f"{parts}-{len(zone)}.db", place(zone, (2026, 1, 27))
        await written(path, house(begin - HOUR, range(5, 10 * 1440, 10)))
        hours = 240 if parts else 239  # the last one has not ended
        assert kept(path) == [(hours, "integer"), (parts, "real")][: 2 if parts else 1]


async def test_late_readouts_and_a_rebuild_keep_days_right(tmp_path: Path) -> None:
    path, begin = tmp_path / "history.db", place("Asia/Kathmandu", (2026, 1, 27))
    readouts = house(begin, range(-600, 6 * 1440, 10))
    history = History(path, 1e9)
    await history.open()
    for one in readouts[::2]:
        await history.append("meter", one)
    await history.take_in(("meter", one) for one in readouts[1::2])
    await history.rebuild()
    await history.close()
    prune(path, begin + 5 * DAY)
    check_days(path, readouts, begin, 5)


async def test_hours_of_an_older_version_are_divided_by_a_rebuild(tmp_path: Path) -> None:
    path, begin = tmp_path / "history.db", place("Asia/Kolkata", (2026, 1, 27))
    readouts = house(begin, range(-600, 6 * 1440, 10))
    await written(path, [replace(one, time=one.time.astimezone(UTC)) for one in readouts])
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE readout SET utc_offset = 19800")
    ((count, kind),) = kept(path)
    assert kind == "integer"
    check_days(path, readouts, begin, 5)  # by the readouts
    history = History(path, 1e9)
    await history.open()
    await history.rebuild()
    await history.close()
    assert kept(path) == [(count, "integer"), (6, "real")]
    prune(path, begin + 5 * DAY)
    check_days(path, readouts, begin, 5)


async def test_what_a_wrong_clock_dated_leaves_no_part_of_an_hour(tmp_path: Path) -> None:
    path, begin = tmp_path / "history.db", place("Asia/Kolkata", (2026, 1, 27))
    readouts = house(begin, range(-600, 1440, 10))
    ahead = house(begin, [*range(4 * 1440 - 20, 4 * 1440 + 20, 10), 4 * 1440 + 90])
    after = house(begin, range(1440 + 60, 3 * 1440, 10))
    history = History(path, 1e9)
    await history.open()
    for one in (*readouts, *ahead, *after):
        await history.append("meter", one)
    await history.close()
    check_days(path, readouts + after, begin, 2)
    with Archive(path) as archive:
        _, means = archive.series("meter", TEMP, begin, begin + 9 * DAY, "day")
    assert [sample.time for sample in means] == [begin, begin + DAY, begin + 2 * DAY]


@pytest.mark.parametrize("read_in", ["UTC", "Asia/Kathmandu"])
@pytest.mark.parametrize(
    "pruned", [timedelta(days=4, minutes=15), 4 * DAY, timedelta(days=10, hours=7)]
)
@pytest.mark.parametrize(("zone", "day"), PLACES + WHOLE)
async def test_without_readouts_another_zones_midnight_is_less_than_an_hour_off(
    tmp_path: Path, zone: str, day: tuple[int, int, int], pruned: timedelta, read_in: str
) -> None:
    path, begin = tmp_path / "history.db", place(zone, day)
    reader = ZoneInfo(read_in)
    readouts = house(begin.astimezone(reader), range(-600, 10 * 1440 + 500, 10))
    await written(path, readouts)
    before = (begin.astimezone(UTC) + pruned).astimezone(begin.tzinfo)
    prune(path, before)
    marks = boundaries(begin, begin + 10 * DAY, "day")
    exact = consumption(points(readouts), marks, "day")
    shown = dict(points(readouts))
    with Archive(path) as archive:
        _, found = archive.used("meter", ENERGY, begin, begin + 10 * DAY, "day")
        _, means = archive.series("meter", TEMP, begin, begin + 10 * DAY, "day")
        for by in BYS:
            _, every = archive.used("meter", ENERGY, begin - 2 * DAY, begin + 12 * DAY, by)
            counted = [one.used or Decimal(0) for one in every.periods]
            total = sum(counted + [gap.used for gap in every.gaps], Decimal(0))
            assert total == value(readouts[-1], ENERGY) - value(readouts[0], ENERGY)
    assert found.gaps == []
    reached, hour = Decimal(0), 3_600_000_000
    for mark, period, right in zip(marks[1:], found.periods, exact.periods, strict=True):
        assert period.complete
        reached += period.used or 0
        least = shown[taken_of(mark) - hour] - shown[taken_of(begin) + hour]
        most = shown[taken_of(mark) + hour] - shown[taken_of(begin) - hour]
        assert least < reached < most
        if period.begin > before or (zone, day) in WHOLE:
            assert period == right
    for sample, ends in zip(means, pairwise(marks), strict=True):
        values = in_period(readouts, *(known_until(mark, before, reader) for mark in ends))
        assert abs(sample.value - sum(values, Decimal(0)) / len(values)) <= Decimal("0.0005")


@given(
    st.lists(st.integers(1, 2000), min_size=100, max_size=200),
    st.sampled_from(["Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Pyongyang"]),
    st.sampled_from(BYS),
    st.booleans(),
    st.integers(0, 40),
)
def test_every_hour_of_the_clock_begins_once(
    steps: list[int], zone: str, by: By, late: bool, days: int
) -> None:
    begin = place(zone, (2018, 9 if late else 4, 1)) + timedelta(days=days, minutes=sum(steps) % 60)
    end = begin + timedelta(minutes=sum(steps))
    marks = boundaries(begin, end, by)
    seconds = [mark.timestamp() for mark in marks]
    assert seconds == sorted(set(seconds))
    assert seconds[0] <= begin.timestamp() < seconds[1]
    assert seconds[-2] < end.timestamp() <= seconds[-1]


def test_the_hours_of_half_an_hour_of_summer_time() -> None:
    for day, hours, odd in (
        ((2026, 4, 5), 24, timedelta(minutes=90)),
        ((2026, 10, 4), 24, timedelta(minutes=30)),
    ):
        begin = place("Australia/Lord_Howe", day)
        marks = boundaries(begin, begin + DAY, "hour")
        lengths = [last.astimezone(UTC) - first.astimezone(UTC) for first, last in pairwise(marks)]
        assert sorted({*lengths, HOUR}) == sorted({odd, HOUR})
        assert lengths.count(odd) == 1
        assert len(lengths) == hours
        assert (marks[0], marks[-1]) == (begin, begin + DAY)
        assert {mark.minute for mark in marks if mark.hour != 2} == {0}


async def test_an_hour_outside_that_midnight_divides_counts_half_in_either_day(
    tmp_path: Path,
) -> None:
    path, begin = tmp_path / "history.db", place("Asia/Kolkata", (2026, 1, 1))
    history = History(path, 1e9)
    await history.open()
    for hour in range(-24, 96):
        await history.note_outdoor(Decimal(3 if hour < 24 else 9), begin + hour * HOUR)
    await history.close()
    with Archive(path) as archive:
        found = archive.degree_days(begin, begin + 3 * DAY, "day")
    assert found == [Decimal("14.875"), Decimal(9), Decimal(9)]
