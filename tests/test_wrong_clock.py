"""A clock that is wrong for a while: nothing is lost, and nothing is counted at a wrong time."""

import asyncio
import contextlib
import csv
import io
import json
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kamstrup_mqtt import MeterIdentity, Reading, Readout
from kamstrup_mqtt.consumption import Archive
from kamstrup_mqtt.store import Position, last_taken

from .conftest import kamstrup_mqtt
from .test_history import opened

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
AHEAD = datetime(2038, 1, 19, tzinfo=UTC)
NONE = datetime(1970, 1, 1, tzinfo=UTC)  # where a machine without a clock begins
EVER = (datetime(1971, 1, 1, tzinfo=UTC), datetime(2080, 1, 1, tzinfo=UTC))
Written = list[tuple[datetime, Readout]]


def readout(moment: datetime, number: int, serial: str = "1") -> Readout:
    energy = Decimal("100.000") + number * Decimal("0.017")
    return Readout(
        MeterIdentity(serial), moment,
        {
            60: Reading(60, "energy", energy, "GJ"),
            86: Reading(86, "temp1", energy % 100, "°C"),
        },
        {},
    )  # fmt: skip


async def written(path: Path, moments: Sequence[datetime], first: int = 0) -> list[Readout]:
    made = [readout(moment, number) for number, moment in enumerate(moments, first)]
    async with opened(path, 1e9) as store:
        for one in made:
            await store.append("meter", one)
    return made


def hours(begin: datetime, count: int) -> list[datetime]:
    return [begin + number * HOUR for number in range(count)]


def told(path: Path) -> list[object]:
    """All that the history says of what was used, and when."""
    near = (START - 2 * DAY, START + 40 * DAY)
    with Archive(path) as archive:
        found: list[object] = [archive.used("meter", 60, *EVER, by) for by in ("month", "year")]
        found += [archive.used("meter", 60, *near, by) for by in ("hour", "day", "week")]
        found += [archive.series("meter", 86, *near, step) for step in ("raw", "hour", "day")]
        return [*found, archive.series("meter", 86, *EVER, "month"), archive.span("meter")]


async def without(path: Path, right: list[Readout]) -> list[object]:
    """The same of a history that never had any but these readouts."""
    async with opened(path, 1e9) as store:
        await store.take_in(("meter", one) for one in right)
    return told(path)


def marked(path: Path) -> list[bool]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT misdated FROM readout ORDER BY sequence")
        return [bool(misdated) for (misdated,) in rows]


# What the clock said, in stints: when it began, and how many hours it was read.
STINTS: dict[str, list[tuple[datetime, int, bool]]] = {
    "ahead": [(START, 30, True), (AHEAD, 5, False), (START + 36 * HOUR, 1, True)],
    "ahead for long": [(START, 9, True), (AHEAD, 300, False), (START + 13 * DAY, 2, True)],
    "ahead from the beginning": [(AHEAD, 12, False), (START, 2, True)],
    "ahead by a day": [(START, 30, True), (START + 54 * HOUR, 5, False),
                       (START + 35 * HOUR, 30, True)],
    "ahead twice": [(START, 9, True), (AHEAD, 3, False), (START + 12 * HOUR, 2, True),
                    (AHEAD + DAY, 4, False), (START + 18 * HOUR, 2, True)],
    "ahead in two steps": [(START, 30, True), (START + 1000 * DAY, 3, False), (AHEAD, 3, False),
                           (START + 36 * HOUR, 8, True)],
    "without a clock": [(NONE, 4, False), (START, 30, True), (NONE, 4, False),
                        (START + 34 * HOUR, 3, True)],
    "a day behind": [(START, 60, True), (START + 37 * HOUR, 5, False),
                     (START + 66 * HOUR, 3, True)],
    "a day behind soon": [(START, 9, True), (START - 15 * HOUR, 3, False),
                          (START + 12 * HOUR, 2, True)],
    "behind from before the history": [(START, 60, True), (START - 3650 * DAY, 5, False),
                                       (START + 66 * HOUR, 3, True)],
    "a second back": [(START, 3, True), (START + 2 * HOUR - timedelta(seconds=1), 3, True)],
}  # fmt: skip


@pytest.mark.parametrize("name", STINTS)
async def test_what_a_wrong_clock_dated_counts_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "history.db"
    moments = [(one, right) for at, count, right in STINTS[name] for one in hours(at, count)]
    moments = [  # no two are of the same microsecond
        (one + timedelta(microseconds=number), right) for number, (one, right) in enumerate(moments)
    ]
    made = await written(path, [moment for moment, _ in moments])
    assert marked(path) == [not right for _, right in moments]
    kept = [one for one, (_, right) in zip(made, moments, strict=True) if right]
    if name != "a second back":
        assert told(path) == await without(tmp_path / "other.db", kept)
    async with opened(path, 1e9) as store:
        assert [one.readout for one in await store.after(0, 999)] == made
        latest = await store.latest("meter")
        assert latest is not None
        assert latest.readout == made[-1]
        before = told(path)
        await store.rebuild()
        assert told(path) == before
    with Archive(path) as archive:
        assert archive.latest("meter") == made[-1]
    assert last_taken(path, "meter") == made[-1].time


async def test_hours_are_not_summed_up_again_for_years_after_a_clock_ahead(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    moments = [*hours(START, 30), *hours(AHEAD, 5), *hours(START + 35 * HOUR, 3)]
    await written(path, moments)
    with contextlib.closing(sqlite3.connect(path)) as database:
        last, rolled = database.execute("SELECT max(hour), max(rolled) FROM hour, meter").fetchone()
    assert last == rolled == int((START + 35 * HOUR).timestamp()) // 3600


async def test_a_history_that_has_such_readouts_already_is_mended(tmp_path: Path) -> None:
    """An older version kept what a clock ahead had dated, and its hours."""
    path = tmp_path / "history.db"
    made = await written(path, hours(START, 30) + hours(AHEAD, 5))
    made += await written(path, hours(START + 35 * HOUR, 3), 35)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE readout SET misdated = 0")
        database.execute("DELETE FROM doubt")
    made += await written(path, [START + 38 * HOUR], 38)
    right = [one for one in made if one.time < AHEAD]
    assert told(path) == await without(tmp_path / "other.db", right)


async def test_a_clock_that_jumps_and_a_long_pause_delete_nothing(tmp_path: Path) -> None:
    """A clock that is twelve years ahead finds a history that is twelve years old."""
    path, now = tmp_path / "history.db", datetime.now(UTC)
    await written(path, hours(now - 12 * 365 * DAY, 40))
    async with opened(path, 30 * 86400.0) as store:
        await store.note("mqtt", Position(999))
        for days in range(20):
            await store.append("meter", readout(now + days * DAY, 0))
    async with opened(path, 30 * 86400.0) as store:
        await store.append("meter", readout(now + 20 * DAY, 0))
        assert len(await store.after(0, 999)) == 61


async def test_export_and_import_keep_what_is_wrong(tmp_path: Path) -> None:
    configs = [tmp_path / "config.yaml", tmp_path / "other.yaml"]
    for config in configs:
        config.write_text(
            "mqtt: {host: 127.0.0.1}\nserial_device: {com_port: /dev/ttyNOTTHERE}\n"
            "kamstrup: {parameters: [energy], poll_interval: 28}\n"
        )

    def run(command: str, config: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return kamstrup_mqtt(command, "-c", str(config), *more, env={"TZ": "UTC"})

    path = configs[0].with_suffix(".history.db")
    moments = [*hours(NONE, 2), *hours(START, 30), *hours(AHEAD, 5),
               *hours(START + 35 * HOUR, 3)]  # fmt: skip
    made = await written(path, moments)
    out = run("export", configs[0]).stdout
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["timestamp"] for row in rows] == [one.time.isoformat() for one in made]
    assert [row["misdated"] == "yes" for row in rows] == marked(path)
    lines = run("export", configs[0], "--format", "json").stdout.splitlines()
    assert [json.loads(line).get("misdated", False) for line in lines] == marked(path)
    file = tmp_path / "all.csv"
    file.write_text(out)
    assert f"{len(made)} readouts were added" in run("import", configs[1], str(file)).stdout
    assert "0 readouts were added" in run("import", configs[1], str(file)).stdout
    assert told(configs[1].with_suffix(".history.db")) == told(path)
    assert run("export", configs[1]).stdout == out


OFFSETS = st.sampled_from(
    [timedelta(0), timedelta(seconds=90), -timedelta(seconds=90), HOUR, -HOUR, DAY, -DAY,
     40 * DAY, -40 * DAY, 400 * DAY, -400 * DAY, AHEAD - START, -(START - EVER[0]), 1000 * DAY]
)  # fmt: skip
Stint = tuple[timedelta, list[int]]


@pytest.mark.timeout(600)  # many files, on a disk that others use as well
@settings(max_examples=120)
@given(st.lists(st.tuples(OFFSETS, st.lists(st.integers(1, 4000), min_size=1, max_size=9)),
                min_size=1, max_size=6))  # fmt: skip
@example([(timedelta(0), [60] * 9), (AHEAD - START, [1]), (-DAY, [30] * 3)])
def test_a_clock_that_is_stepped_by_anything_and_right_in_the_end(stints: list[Stint]) -> None:
    now = START
    moments: list[datetime] = []
    count = sum(len(minutes) for _, minutes in stints)
    for offset, minutes in [*stints, (timedelta(0), [60] * (count + 2))]:
        for one in minutes:
            now += timedelta(minutes=one)
            moments.append(now + offset + timedelta(microseconds=len(moments)))
    asyncio.run(check_all(moments))


async def check_all(moments: list[datetime]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "history.db")
        made = await written(path, moments)
        wrong = marked(path)
        right = [one for one, its in zip(made, wrong, strict=True) if not its]
        assert len(wrong) == len(made)  # nothing is removed
        assert not wrong[-1]  # what the right clock says in the end is believed
        assert [one.time for one in right] == sorted(one.time for one in right)
        with Archive(path) as archive:
            assert archive.latest("meter") == made[-1]
            for by in ("month", "year"):
                _, found = archive.used("meter", 60, *EVER, by)
                total = sum((period.used or Decimal(0) for period in found.periods), Decimal(0))
                total += sum((gap.used for gap in found.gaps), Decimal(0))
                first, last = (Decimal(one["energy"].text) for one in (right[0], right[-1]))
                assert total == last - first
        assert told(path) == await without(Path(folder, "other.db"), right)
