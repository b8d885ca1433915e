"""What we write never lies over a file that is not ours: the history's file, and whose it is."""

import os
import sqlite3
from pathlib import Path

import pytest

from kamstrup_mqtt import UsageError
from kamstrup_mqtt.store import History

from .test_history import numbers, opened, readout

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)) * 40


def foreign_database(path: Path) -> None:
    """One like that of Home Assistant: in WAL mode, with tables of its own."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE states (state_id INTEGER PRIMARY KEY, state TEXT)")
        database.execute("INSERT INTO states (state) VALUES ('21.5')")
    database.close()


async def refused(path: Path) -> str:
    history = History(path, 1e9)
    with pytest.raises(UsageError) as caught:
        await history.open()
    await history.close()
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"mqtt:\n  host: broker\n", b"x", b"x" * 99, b"x" * 600, JPEG, JPEG + bytes(9000)]
)
async def test_a_file_that_is_no_history_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "anything"
    path.write_bytes(content)
    path.chmod(0o600)
    assert await refused(path) == (
        f"{path} is no history of kamstrup-mqtt and is left as it is: name another file"
    )
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


async def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.db"  # even under a name of ours
    foreign_database(path)
    content = path.read_bytes()
    assert "is no history of kamstrup-mqtt" in await refused(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    with sqlite3.connect(path) as running:  # what it wrote is in its log still
        running.execute("INSERT INTO states (state) VALUES ('22.0')")
        running.commit()
        assert "is no history of kamstrup-mqtt" in await refused(path)
        assert running.execute("SELECT count(*) FROM states").fetchone() == (2,)
    running.close()


async def test_a_link_to_another_file_is_seen_through(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    path = tmp_path / "history.db"
    path.symlink_to("photo.jpg")
    assert "is no history of kamstrup-mqtt" in await refused(path)
    assert path.is_symlink()
    assert path.read_bytes() == JPEG


async def test_folders_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/null"), "a device"),
    ):
        assert await refused(path) == f"{path} is {kind}, not a file"
    assert await refused(Path("a\0b")) == r"'a\x00b' is no name of a file"


@pytest.mark.parametrize("name", ["history.db", "house.history.db", "data/heat.sqlite"])
@pytest.mark.parametrize("damage", [b"\0", b"\xa5"])
async def test_a_history_whose_first_page_is_lost_is_set_aside(
    tmp_path: Path, name: str, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    async with opened(path) as store:
        for number in range(30):
            await store.append("a", readout(number))
    content = bytearray(path.read_bytes())
    content[:4096] = damage * 4096
    path.write_bytes(content)
    async with opened(path) as store:
        await store.append("a", readout(1))
        assert numbers(await store.after(0, 9)) == [1]
    (aside,) = (one for one in path.parent.iterdir() if ".damaged-" in one.name)
    assert aside.read_bytes() == content
    assert "is damaged" in caplog.text


async def test_a_history_from_before_it_was_marked_is_known(tmp_path: Path) -> None:
    path = tmp_path / "heat.sqlite"
    async with opened(path) as store:
        await store.append("a", readout(7))
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA application_id = 0")
    database.close()
    async with opened(path) as store:
        assert numbers(await store.after(0, 9)) == [7]
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (0x4B4D5031,)
    database.close()
