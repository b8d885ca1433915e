"""What we write never lies over a file that is not ours: the history's file, and whose it is."""

import os
import sqlite3
from pathlib import Path

import pytest

from kamstrup_mqtt import UsageError
from kamstrup_mqtt.gateway.log import check_log, log_to_file
from kamstrup_mqtt.readout.capture import read_capture
from kamstrup_mqtt.store import History

from .conftest import kamstrup_mqtt
from .gateway import write_config
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
    for name in ("a\0b", "a" * 256, "a/" * 3000):
        assert await refused(Path(name)) == f"no file can be named {str(Path(name))[:60]!r}"


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


LOG = b"2026-11-24 10:28:00 INFO    meter: Publishing\n"


@pytest.mark.parametrize(
    "content", [b"", LOG, LOG + b"\xff", bytes(512), bytes(512) + b"x\n" + LOG]
)
def test_a_log_of_ours_is_gone_on_with(tmp_path: Path, content: bytes) -> None:
    check_log(tmp_path / "new" / "gateway.log")
    path = tmp_path / "gateway.log"
    for name in (path, tmp_path / "gateway.log.1"):
        name.write_bytes(content)
    check_log(path)


@pytest.mark.parametrize("content", [b"# notes\n" + LOG, b"2026-11-24 bread, milk\n", JPEG])
def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway.log"
    for name in (path, tmp_path / "gateway.log.5"):  # an old log would be moved there
        name.write_bytes(content)
        with pytest.raises(UsageError, match=f"{name} is no log of kamstrup-mqtt"):
            log_to_file(path)
        assert name.read_bytes() == content
        name.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is a pipe"):
        log_to_file(path)


def test_a_capture_is_written_over_nothing_but_a_capture(tmp_path: Path) -> None:
    config = write_config(tmp_path, 1, "socket://127.0.0.1:1")
    content = config.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((config, "is no capture of kamstrup-mqtt"), (tmp_path / "pipe", "a pipe")):
        for command in (
            ("run", "-c", str(config), "--capture", str(path)),
            ("capture", "socket://127.0.0.1:1", str(path), "energy"),
        ):
            done = kamstrup_mqtt(*command)
            assert done.returncode == 2
            assert said in done.stderr
    assert config.read_bytes() == content
    path = tmp_path / "capture.txt"
    path.write_text("# kamstrup-mqtt capture of x, 1200 baud 8N2, numbers masked\nold\n")
    assert kamstrup_mqtt("capture", "socket://127.0.0.1:1", str(path)).returncode == 5
    assert read_capture(path.read_text().splitlines()) == []


def test_a_report_and_a_configuration_are_written_over_nothing(tmp_path: Path) -> None:
    photos = tmp_path / "photos.zip"
    photos.write_bytes(JPEG)
    done = kamstrup_mqtt("doctor", "socket://127.0.0.1:1", "--bundle", str(photos))
    assert (done.returncode, done.stdout) == (2, "")  # told at once, before the examination
    assert f"{photos} exists already and is left as it is" in done.stderr
    assert photos.read_bytes() == JPEG
    os.mkfifo(tmp_path / "pipe")
    done = kamstrup_mqtt("setup", "-c", str(tmp_path / "pipe"), "--host", "x", "--force")
    assert done.returncode == 2
    assert "is a pipe, not a file" in done.stderr
