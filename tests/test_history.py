"""The history on disk: exact, in order, and hard to lose."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import (
    BitField,
    MeterIdentity,
    MonthDay,
    Reading,
    Readout,
    Unreadable,
    UsageError,
    Value,
)  # fmt: skip
from kamstrup_mqtt.store import MAX_BYTES, History, HistoryAwayError, Position, Stored
from kamstrup_mqtt.store.codec import decode, encode

NOW = datetime.now(UTC)
YEAR_S = 365 * 86400.0

zones = st.integers(-48, 56).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))
times = st.datetimes(timezones=zones).filter(lambda moment: 1971 < moment.year < 9990)
values: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.decimals(allow_nan=False, allow_infinity=False).filter(
        lambda number: max(abs(number.adjusted()), abs(int(number.as_tuple().exponent))) <= 200
    ),
    st.integers(0, 2**64).map(BitField),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.builds(MonthDay, st.integers(1, 12), st.integers(1, 31)),
    st.text(st.characters(codec="latin-1", exclude_characters="\x1f")),
    st.text(st.characters(codec="ascii", exclude_characters="\x1f")).map(Unreadable),
)
readings = st.builds(
    Reading, st.integers(0, 0xFFFF), st.text(max_size=9), values, st.sampled_from(["", "GJ", "°C"])
)
readouts = st.builds(
    lambda time, all_readings: Readout(
        MeterIdentity("71343479", "0402", None, "402"),
        time,
        {reading.register: reading for reading in all_readings},
        {},
    ),
    times,
    st.lists(readings, min_size=1, max_size=9),
)


@given(readouts)
def test_a_readout_comes_back_to_the_digit(readout: Readout) -> None:
    back = decode(encode(readout))
    assert back == readout
    assert [one.text for one in back] == [one.text for one in readout]  # 1.0 is not 1.00
    assert back.to_json() == readout.to_json()


def test_the_kinds_of_values_are_kept() -> None:
    kinds: list[Value] = [
        Decimal("227.000"), BitField(5), date(2026, 11, 24), time(6, 30),
        NOW.replace(tzinfo=None), MonthDay(12, 31), "", None, Unreadable("999999"),
    ]  # fmt: skip
    readout = Readout(
        MeterIdentity("1"), NOW, {n: Reading(n, str(n), v, "") for n, v in enumerate(kinds)}, {}
    )
    assert [type(reading.value) for reading in decode(encode(readout))] == list(map(type, kinds))


def readout(number: int, taken: datetime = NOW, serial: str = "1") -> Readout:
    return Readout(
        MeterIdentity(serial), taken, {60: Reading(60, "energy", Decimal(number), "GJ")}, {}
    )


def numbers(stored: list[Stored]) -> list[int]:
    return [int(str(one.readout["energy"].value)) for one in stored]


@asynccontextmanager
async def opened(
    path: Path, keep_s: float = YEAR_S, max_bytes: int = MAX_BYTES
) -> AsyncIterator[History]:
    found = History(path, keep_s, max_bytes)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


async def test_readouts_outlive_the_process_and_are_followed_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.db"
    async with opened(path) as store:
        for number in range(5):
            name = "left" if number % 2 else "right"
            await store.append(name, readout(number, serial=name))
        await store.note("mqtt", Position(2))
    assert path.stat().st_mode & 0o777 == 0o640
    async with opened(path) as store:
        assert (await store.position("mqtt")).cursor == 2
        assert (await store.position("other")).cursor == 0
        assert store.last == 5
        stored = await store.after(2, 2)
        assert [one.meter for one in stored] == ["right", "left"]
        assert numbers(stored) == [2, 3]
        assert numbers(await store.after(4, 9)) == [4]


async def test_followers_see_a_readout_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        waiting = asyncio.create_task(store.live.after(0))
        await store.append("a", readout(7))
        (entry,) = await waiting
        rows = sqlite3.connect(path).execute("SELECT sequence FROM readout").fetchall()
    assert rows == [(entry.content.sequence,)]


@pytest.mark.parametrize(
    "damage", [b"this is no database, but long enough to look like one" * 9, None]
)
async def test_a_damaged_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    path = tmp_path / "history.db"
    if damage is not None:
        path.write_bytes(damage)
    else:
        async with opened(path) as store:
            for number in range(300):
                await store.append("a", readout(number))
        content = bytearray(path.read_bytes())
        content[4096 * 12 : 4096 * 15] = b"\xa5" * 4096 * 3  # half of its rows, and indexes
        path.write_bytes(content)
    async with opened(path) as store:
        await store.append("a", readout(301))
        found = await store.after(0, 999)
        assert len(found) == 1 if damage is not None else 100 < len(found) < 300
        assert found[-1].sequence == (1 if damage is not None else 301)  # the numbers go on
        for one in found:
            number = one.sequence - (one.sequence <= 300)
            assert damage is not None or one.readout.readings == readout(number).readings
    (aside,) = (one for one in tmp_path.iterdir() if ".damaged-" in one.name)
    assert "is damaged" in caplog.text
    assert f"set aside as {aside}" in caplog.text


async def test_a_disk_that_fails_is_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "folder" / "history.db"
    (tmp_path / "folder").write_text("in the way")  # root may write everywhere else
    async with opened(path) as store:
        for number in range(3):
            await store.append("a", readout(number))
        entry = store.live.latest("a")
        assert entry is not None
        assert entry.sequence == 0
        with pytest.raises(HistoryAwayError):
            await store.after(0, 9)
        assert caplog.text.count("cannot be written") == 1
        (tmp_path / "folder").unlink()
        await store.append("a", readout(3))
        assert numbers(await store.after(0, 9)) == [0, 1, 2, 3]
        assert "written again" in caplog.text


async def test_a_full_disk_is_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        await store.append("a", readout(0))
    connect = sqlite3.connect

    def connect_to_full_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*arguments, **options)
        database.execute("PRAGMA max_page_count = 1")  # at once no page more than there are
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_to_full_disk)
    async with opened(path) as store:
        monkeypatch.undo()
        written = 1
        while "database or disk is full" not in caplog.text:
            await store.append("a", readout(written))
            written += 1
        await store.append("a", readout(written))
        assert numbers(await store.after(0, 10_000)) == list(range(written + 1))


async def test_what_was_taken_while_the_disk_failed_keeps_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(tmp_path / "history.db") as store:
        for number in range(3):
            await store.append("a", readout(number))
        with monkeypatch.context() as patch:
            patch.setattr("kamstrup_mqtt.store.history.write_next", fail)
            for number in range(3, 6):
                await store.append("a", readout(number))
                shown = store.live.latest("a")
                assert shown is not None
                assert shown.sequence == number + 1
            assert numbers(await store.after(3, 9)) == [3, 4, 5]  # from memory
            await store.note("mqtt", Position(6))
        for number in range(6, 8):
            await store.append("a", readout(number))
        found = await store.after(0, 99)
    assert [one.sequence for one in found] == [one.meter_sequence for one in found]
    assert [one.sequence for one in found] == list(range(1, 9))


async def test_imports_are_saved_from_a_damaged_file_too(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        begin = readout(0)
        before = [
            replace(begin, time=begin.time - timedelta(minutes=one)) for one in range(1, 1501)
        ]
        await store.take_in([("a", one) for one in before])
        for number in range(300):
            await store.append("a", readout(number))
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = database.execute(
            "SELECT pageno, ncell FROM dbstat WHERE name = 'readout' AND pagetype = 'leaf'"
        ).fetchall()
    content = bytearray(path.read_bytes())
    lost = 0
    for page, cells in (pages[0], pages[len(pages) // 2]):
        content[4096 * (page - 1) : 4096 * page] = b"\xa5" * 4096
        lost += cells
    path.write_bytes(content)
    async with opened(path) as store:
        await store.append("a", readout(300))
        assert len(await store.after(-(1 << 61), 9999)) == 1801 - lost


async def test_two_gateways_do_not_share_a_history(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with opened(path):
        other = History(path, YEAR_S)
        with pytest.raises(UsageError, match="in use by another kamstrup-mqtt"):
            await other.open()
        await other.close()
    async with opened(path):
        pass


async def test_a_history_of_the_future_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    future = History(path, YEAR_S)
    with pytest.raises(UsageError, match="newer kamstrup-mqtt"):
        await future.open()
    await future.close()


async def test_what_is_old_goes_but_never_before_it_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        for number in range(4):
            await store.append("a", readout(number, NOW - timedelta(days=10 - number)))
        await store.append("a", readout(4))
        await store.note("mqtt", Position(2))
    async with opened(path, keep_s=86400) as store:
        await store.append("a", readout(5))
        assert numbers(await store.after(0, 9)) == [2, 3, 4, 5]
