"""One wrong byte in the history costs one readout: not the gateway, the page, or any other row."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from kamstrup_mqtt import MeterIdentity, Reading, Readout
from kamstrup_mqtt.consumption import Archive
from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import History, Position
from kamstrup_mqtt.store.codec import encode

from .conftest import free_port, kamstrup_mqtt
from .gateway import Background, Broker, log_until, next_of, stop, watching
from .test_history import YEAR_S, opened

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
NEAR = (BEGIN - timedelta(days=1), BEGIN + timedelta(days=2))
COUNT = 6
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
BEFORE = 16  # bytes of a record before its digits: the types of its values, and its time


def readout(number: int, serial: str = "71343479") -> Readout:
    return Readout(
        MeterIdentity(serial, "0402", "A1", "402"), BEGIN + timedelta(hours=number),
        {
            60: Reading(60, "energy", Decimal(f"10{number}.445"), "GJ"),
            86: Reading(86, "temp1", Decimal("67.50"), "°C"),
            98: Reading(98, "text", "ab", ""),
        },
        {},
    )  # fmt: skip


async def filled(path: Path) -> bytes:
    """A history of some hours, and what is in its file."""
    async with opened(path) as store:
        for number in range(COUNT):
            await store.append("meter", readout(number))
        await store.note("mqtt", Position(1))
    return path.read_bytes()


def places(content: bytes) -> dict[str, list[int]]:
    """The bytes of what was kept of the third readout, in the pages of tables."""
    row = encode(readout(2))
    digits = content.index(row.digits.encode())
    found = {"readout": list(range(digits - BEFORE, digits + len(row.digits)))}
    time = row.taken.to_bytes(8, "big")
    found["index"] = [
        one + at
        for one in (content.index(time), content.rindex(time))
        if one != digits - len(time)
        for at in range(len(time) + 1)
    ]
    assert found["index"]
    for name, text in (("columns", row.columns), ("identity", row.identity)):
        # The index has the same text, in the page after that of its table.
        first = content.index(text.encode())
        found[name] = list(range(first, first + len(text.encode())))
    return found


def changed(content: bytes, at: int) -> Iterator[bytes]:
    for byte in {content[at] ^ 1, content[at] ^ 0xFF, ord("E"), ord("_"), 0}:
        if byte != content[at]:
            yield content[:at] + bytes([byte]) + content[at + 1 :]


async def everything(path: Path) -> list[int]:
    """Go all the ways that read, and one that writes; the numbers that `after` gives."""
    async with opened(path) as store:
        await store.latest("meter")
        assert (await store.position("mqtt")).cursor == 1
        await store.rebuild()
        await store.take_in([("meter", readout(2))])
        await store.append("meter", readout(COUNT))
        newest = await store.latest("meter")
        assert newest is not None
        assert newest.readout.time == readout(COUNT).time
        after = [one.sequence for one in await store.after(0, 99)]
        assert after[-1] == store.last
    with Archive(path) as archive:
        for name in archive.meters():
            archive.span(name)
            archive.latest(name)
            for step in ("hour", "day", "raw"):
                archive.series(name, 60, *NEAR, step)
            for by in ("hour", "day"):
                _, found = archive.used(name, 60, BEGIN, BEGIN + timedelta(days=1), by)
            total = sum((period.used or Decimal(0) for period in found.periods), Decimal(0))
            assert total >= 0
        assert len(list(archive.readouts(None, *EVER))) >= COUNT - 1
        archive.columns(None, *EVER)
    return after


@pytest.mark.parametrize("what", ["readout", "index", "columns", "identity"])
async def test_a_wrong_byte_costs_one_readout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    content = await filled(tmp_path / "sound.db")
    for at in places(content)[what]:
        for number, damaged in enumerate(changed(content, at)):
            path = tmp_path / f"{at}-{number}.db"
            path.write_bytes(damaged)
            caplog.clear()
            after = await everything(path)
            assert set(after) >= {1, 2, 4, 5, 6, 7}, (at, damaged[at], caplog.text)
            assert not list(tmp_path.glob("*.damaged-*")), (at, damaged[at], caplog.text)
            assert len(caplog.records) <= COUNT + 2, caplog.text
            path.unlink()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE readout SET digits = x'ff' WHERE sequence IN (3, 6)",
        "UPDATE readout SET digits = 5 WHERE sequence IN (3, 6)",
        "UPDATE readout SET digits = '' WHERE sequence IN (3, 6)",
        "UPDATE readout SET taken = 9223372036854775800 + sequence WHERE sequence IN (3, 6)",
        "UPDATE readout SET taken = 'soon' || sequence WHERE sequence IN (3, 6)",
        "UPDATE readout SET utc_offset = 99999999 WHERE sequence IN (3, 6)",
        "UPDATE readout SET layout = 77 WHERE sequence IN (3, 6)",
        "UPDATE readout SET meter = 77 WHERE sequence IN (3, 6)",
        "UPDATE readout SET digits = replace(digits, '445', 'E99999999') WHERE sequence IN (3, 6)",
    ],
)
async def test_a_row_that_cannot_be_read_holds_nothing_up_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    path = tmp_path / "history.db"
    await filled(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(change)
    async with opened(path) as store:
        for _ in range(3):  # the follower gets on, and nothing is left over at the end
            assert [one.sequence for one in await store.after(1, 99)] == [2, 4, 5]
            assert [one.sequence for one in await store.after(2, 1)] == [4]
            assert store.last == 6
            last = await store.latest("meter")
            assert last is not None
            assert last.readout.time == readout(4).time
    with Archive(path) as archive:
        for _ in range(3):
            assert [one.readout for one in archive.readouts(None, *EVER)] == [
                readout(number) for number in (0, 1, 3, 4)
            ]  # fmt: skip
            _, found = archive.used("meter", 60, BEGIN, BEGIN + timedelta(hours=5), "day")
            assert found.periods[0].used in (4, 5)  # a wrong time zone does not matter to it
            assert archive.latest("meter") == readout(4)
    for number in (3, 6):
        assert caplog.text.count(f"readout {number} cannot be read") == 1


async def test_a_wrong_byte_in_what_is_summed_up_costs_that_hour(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    await filled(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for column in ("unit", "first", "last_taken", "total", "count"):
            database.execute(
                f"UPDATE hour SET {column} = x'ff' WHERE hour = (SELECT min(hour) + 2 FROM hour)"
            )
            with Archive(path) as archive:
                _, found = archive.used("meter", 60, BEGIN, BEGIN + timedelta(hours=5), "day")
                assert found.periods[0].used == 5
                _, samples = archive.series("meter", 86, *NEAR, "hour")
                assert len(samples) == COUNT - 1
                assert archive.span("meter") is not None


async def test_a_wrong_outdoor_temperature_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        await store.note_outdoor(Decimal("5.5"), BEGIN)
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE outdoor SET total = '5_5'")
        with Archive(path) as archive:
            assert archive.degree_days(BEGIN, BEGIN + timedelta(days=1), "day") == [None]
        await store.note_outdoor(Decimal("4.5"), BEGIN)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT total, count FROM outdoor").fetchall() == [("4.5", 1)]


async def test_readouts_of_a_meter_whose_row_was_changed_are_found_again(tmp_path: Path) -> None:
    """The index still knows who it was."""
    path = tmp_path / "history.db"
    content = await filled(path)
    text = encode(readout(0)).identity.encode()
    at = content.index(text)
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    async with opened(path) as store:
        assert await store.after(0, 99) == []
        await store.append("meter", readout(COUNT))
        assert [one.sequence for one in await store.after(0, 99)] == [1, 2, 3, 4, 5, 6, 7]


async def test_the_gateway_starts_and_shows_all_the_rest(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker, web = mosquitto(), free_port()
    async with serve_tcp(SimulatedMeter()) as port:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"mqtt: {{host: 127.0.0.1, port: {broker.port}, topic: kamstrup}}\n"
            f"serial_device: {{com_port: '{port}'}}\n"
            "kamstrup: {parameters: [energy], poll_interval: 1s}\n"
            f"web: {{listen: '127.0.0.1:{web}'}}\n"
        )
        path = config.with_suffix(".history.db")
        content = await filled(path)
        at = content.rindex(encode(readout(COUNT - 1)).digits.encode())  # the last one
        path.write_bytes(content[:at] + b"x" + content[at + 1 :])
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", str(config))
            live = json.loads(await next_of(messages, "kamstrup/values"))  # the newest
            late = [json.loads(await next_of(messages, "kamstrup/backlog")) for _ in range(3)]
            url = f"http://127.0.0.1:{web}"
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                for place in (
                    "/api/meters", "/metrics", "/api/meters/meter/latest",
                    "/api/meters/meter/series?by=reading&from=2026-03-01&to=2026-03-02",
                    "/api/meters/meter/series?by=day&from=2026-03-01&to=2026-03-02",
                ):  # fmt: skip
                    assert (await client.get(place)).status_code == 200, place
        log = stop(gateway)
    assert [one["energy"] for one in (*late, live)] == [101.445, 102.445, 103.445, 104.445]
    assert log.count("cannot be read") == 1
    for command in ("history", "export"):
        done = kamstrup_mqtt(command, "-c", str(config))
        assert done.returncode == 0
    assert done.stdout.count("\n") > COUNT
    assert done.stderr.count("cannot be read") == 1


async def test_a_backlog_of_nothing_but_wrong_bytes_ends(
    mosquitto: Broker, background: Background, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with serve_tcp(SimulatedMeter()) as port:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"mqtt: {{host: 127.0.0.1, port: {broker.port}, topic: kamstrup}}\n"
            f"serial_device: {{com_port: '{port}'}}\n"
            "kamstrup: {parameters: [energy], poll_interval: 1s}\n"
        )
        path = config.with_suffix(".history.db")
        await filled(path)
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE readout SET digits = x'00'")
        async with watching(broker.port) as messages:
            gateway = background("run", "-c", str(config))
            for _ in range(3):
                await next_of(messages, "kamstrup/values")
        await log_until(gateway, "Publishing", 2)
        stop(gateway)
    history = History(path, YEAR_S)
    await history.open()
    assert (await history.position("mqtt")).cursor >= COUNT + 2
    await history.close()


async def test_a_row_that_goes_bad_while_the_gateway_runs_costs_one_readout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    async with opened(path) as store:
        for number in range(COUNT):
            await store.append("meter", readout(number))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            at = places(path.read_bytes())["readout"][0]
            with path.open("r+b") as file:  # the size of the head of the row
                file.seek(at)
                file.write(b"\x7f")
            database.execute("INSERT INTO cursor VALUES ('news', 1)")
        assert [one.sequence for one in await store.after(0, 99)] == [1, 2, 4, 5, 6]
        await store.append("meter", readout(COUNT))
        assert store.last == COUNT + 1
    assert "1 readouts were damaged and are lost: 3" in caplog.text
    assert "set aside" not in caplog.text


@pytest.mark.parametrize("place", range(100, 4096, 97))
def test_a_wrong_byte_in_the_first_page_never_ends_the_gateway(tmp_path: Path, place: int) -> None:
    """The first page has the schema, whose words SQLite repeats in its errors."""

    async def use() -> None:
        async with opened(tmp_path / "history.db") as store:
            await store.append("a", readout(1))
            await store.append("a", readout(2))
            assert store.live.latest("a") is not None

    asyncio.run(use())
    path = tmp_path / "history.db"
    content = bytearray(path.read_bytes())
    for wrong in (233, 37):
        content[place] = wrong
        path.write_bytes(content)
        asyncio.run(use())
