"""What is removed from the history, when, and that no readout has to wait for it."""

import contextlib
import functools
import sqlite3
import time
from datetime import timedelta
from pathlib import Path

import pytest

from kamstrup_mqtt.consumption import Archive
from kamstrup_mqtt.store import Position
from kamstrup_mqtt.store.codec import taken_of

from .test_history import NOW, YEAR_S, numbers, opened, readout

DAY = timedelta(days=1)
PAD = "0" * 250  # what a readout of many registers takes


async def filled(path: Path, count: int, *, delivered: int = 0) -> None:
    """A history of so many readouts, one a minute to now, as if each had been appended."""
    async with opened(path) as store:
        await store.append("a", readout(0, NOW - count * timedelta(minutes=1)))
        await store.note("mqtt", Position(delivered))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < ?1) "
            "INSERT INTO readout (sequence, meter, layout, taken, utc_offset, digits) "
            "SELECT n, 1, 1, ?2 + n * 60000000, 0, ?3 || n FROM n",
            (count, taken_of(NOW) - count * 60_000_000, PAD),
        )


def rows(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [one for (one,) in database.execute("SELECT sequence FROM readout ORDER BY 1")]


def used(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


async def test_the_oldest_go_a_few_at_a_time_until_the_bound_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "history.db"
    await filled(path, 12_000, delivered=12_000)
    bound = 3 << 20
    assert used(path) > bound
    before = rows(path)
    async with opened(path, YEAR_S, bound) as store:
        for number in range(60):
            over = used(path) > bound
            await store.append("a", readout(number))
            after = rows(path)
            assert len(before) + 1 - len(after) <= 200
            assert after == [*before, before[-1] + 1][-len(after) :]  # the oldest, and no others
            if over:
                assert len(after) < len(before)
            before = after
        assert used(path) <= bound
        assert used(path) > bound * 0.95
        assert caplog.text.count("takes more than history.max_size, 3 MB") == 1
        assert caplog.text.count("takes less than 3 MB again") == 1
        assert "still waits for" not in caplog.text


async def test_what_is_within_the_bound_stays(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    await filled(path, 5000, delivered=5000)
    async with opened(path, YEAR_S, used(path) + 100_000) as store:
        for number in range(20):
            await store.append("a", readout(number))
    assert len(rows(path)) == 5020


async def test_the_undelivered_goes_last_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    await filled(path, 6000, delivered=500)
    async with opened(path, YEAR_S, 1 << 20) as store:
        for number in range(3):
            await store.append("a", readout(number))
            assert "still waits for" not in caplog.text
        assert rows(path)[0] == 501
        for number in range(27):
            await store.append("a", readout(number))
        assert caplog.text.count("an output still waits for") == 1
    assert rows(path)[0] > 1500


async def test_the_last_readouts_stay_however_much_the_hours_take(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    await filled(path, 1500, delivered=1500)
    async with opened(path, YEAR_S, 1 << 14) as store:
        for number in range(8):
            await store.append("a", readout(number))
    assert len(rows(path)) == 1000
    assert caplog.text.count("raise history.max_size") == 1


class Counting(sqlite3.Connection):
    """Notes what is asked of SQLite, and how many steps of its machine that takes."""

    steps = 0
    statements: set[str] = set()  # noqa: RUF012 - of all connections

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.set_progress_handler(self.count, 100)
        self.set_trace_callback(self.statements.add)

    @classmethod
    def count(cls) -> int:
        cls.steps += 100
        return 0


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Counting))
    Counting.statements.clear()
    return Counting


async def test_nothing_is_searched_for_in_the_whole_history(
    tmp_path: Path, counting: type[Counting]
) -> None:
    """318,000 readouts over the bound, and old ones too, cost one readout no more than 2,000 do."""
    path = tmp_path / "history.db"
    await filled(path, 100_000, delivered=90_000)
    counting.statements.clear()
    async with opened(path, 10 * 86400.0, 1 << 20) as store:
        most = 0
        for number in range(40):
            before = len(rows(path)) if number < 3 else 0
            counting.steps = 0
            await store.append("a", readout(number))
            most = max(most, counting.steps)
            if before:
                assert 1 <= before + 1 - len(rows(path)) <= 400
        assert most < 100_000
        counting.steps = 0
        await store.latest("a")
        await store.after(99_000, 50)
        with Archive(path) as archive:
            assert archive.latest("a") is not None
            archive.span("a")
            archive.used("a", 60, NOW - DAY, NOW, "day")
        assert counting.steps < 100_000
    plans = []
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in list(counting.statements):
            if (
                statement.startswith(("SELECT", "DELETE", "UPDATE"))
                and "ORDER BY 1" not in statement
            ):
                plan = database.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                plans += [(detail, statement) for *_, detail in plan]
    scans = [
        (detail, statement)
        for detail, statement in plans
        if detail.startswith(("SCAN readout", "USE TEMP B-TREE"))
        and "ORDER BY sequence DESC" not in statement
        and "max(sequence)" not in statement and "FROM meter" not in statement
    ]  # fmt: skip
    assert scans == []
    assert any("USING COVERING INDEX readout_taken" in detail for detail, _ in plans)


async def days(path: Path, *ago: float, keep_days: int = 30) -> None:
    async with opened(path, keep_days * 86400.0) as store:
        for number, one in enumerate(ago):
            await store.append("a", readout(number, NOW - one * DAY))
        await store.note("mqtt", Position(999))


async def test_the_old_goes_when_as_many_days_were_recorded_after_it(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    await days(path, *range(45, 0, -1))
    async with opened(path, 30 * 86400.0) as store:
        await store.append("a", readout(99, NOW))
        kept = [one.readout.time for one in await store.after(0, 999)]
    assert NOW - 30 * DAY in kept
    assert kept[0] >= NOW - 31 * DAY - timedelta(hours=1)


async def test_a_long_pause_makes_nothing_old(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    await days(path, *range(399, 370, -1))
    async with opened(path, 30 * 86400.0) as store:
        await store.append("a", readout(99, NOW))
        assert len(await store.after(0, 999)) == 30


async def test_what_a_wrong_clock_dated_goes_with_what_was_read_then(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    await days(path, *range(90, 70, -1), -4000, *range(70, 45, -1), -4000, *range(45, 0, -1))
    async with opened(path, 30 * 86400.0) as store:
        await store.append("a", readout(99, NOW))
        times = [one.readout.time for one in await store.after(0, 999)]
    assert times == sorted(times)
    assert len(times) in (31, 32)


async def test_a_wrong_byte_in_a_row_that_goes_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    await days(path, *range(45, 0, -1))
    content = path.read_bytes()
    at = content.index(taken_of(NOW - 40 * DAY).to_bytes(8, "big"))
    for place in (at, content.rindex(taken_of(NOW - 39 * DAY).to_bytes(8, "big"))):
        content = content[: place + 5] + b"\x55" + content[place + 6 :]
    path.write_bytes(content)
    async with opened(path, 30 * 86400.0) as store:
        await store.append("a", readout(99, NOW))
        await store.append("a", readout(100, NOW))
        found = numbers(await store.after(0, 999))
    assert found[-30:] == [*range(17, 45), 99, 100]
    assert "set aside" not in caplog.text


async def test_a_clock_that_jumped_by_years_deletes_nothing_however_little_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        for number in range(48):
            await store.append("a", readout(number, NOW - timedelta(minutes=30) * (48 - number)))
        await store.note("mqtt", Position(48))
    far = NOW + 4000 * DAY
    monkeypatch.setattr(time, "time", far.timestamp)
    async with opened(path, 86400.0) as store:
        await store.append("a", readout(48, far))
        assert len(await store.after(0, 1000)) == 49
