"""The files that a configuration names: `check` tells what is not ours, and nothing is touched."""

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kamstrup_mqtt.gateway.config import load_config
from kamstrup_mqtt.gateway.log import check_log

from .conftest import kamstrup_mqtt
from .test_config import MINIMAL, OLDER, faults, load
from .test_files import JPEG, foreign_database
from .test_history import opened, readout


@pytest.mark.parametrize("key", ["history: {path", "log: {file"])
def test_the_configuration_itself_is_never_history_or_log(tmp_path: Path, key: str) -> None:
    text = MINIMAL + f"{key}: NAME}}\n"
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "soft.db").symlink_to("config.yaml")
    (tmp_path / "hard.db").hardlink_to(tmp_path / "config.yaml")
    for name in ("config.yaml", "./config.yaml", "soft.db", "hard.db"):
        (fault,) = faults(tmp_path, text.replace("NAME", name))
        where = key.replace(": {", ".")
        path = tmp_path / name
        assert fault == (
            f"config.yaml:8: {where}: {path} is in use as this configuration: name another file"
        )
        assert (tmp_path / "config.yaml").read_text() == text.replace("NAME", name)
    done = kamstrup_mqtt("run", "-c", str(tmp_path / "config.yaml"))
    assert done.returncode == 2
    assert f"config.yaml:8: {where}: " in done.stderr
    assert (tmp_path / "config.yaml").read_text() == text.replace("NAME", "hard.db")


def test_files_that_are_not_ours_are_told_with_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    foreign_database(tmp_path / "home-assistant_v2.db")
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        (
            "photo.jpg",
            "photo.jpg is no {} of kamstrup-mqtt and is left as it is: name another file",
        ),
        ("home-assistant_v2.db", "home-assistant_v2.db is no {} of kamstrup-mqtt"),
        ("pipe", "pipe is a pipe, not a file"),
        (".", "is a folder, not a file"),
        ("/dev/null", "/dev/null is a device, not a file"),
        ("photo.jpg/x", "photo.jpg/x cannot be: Not a directory"),
        ("x" * 256, "no file can be named"),
        ('"a\\0b"', "expected text on one line"),
    ):
        found = faults(tmp_path, f"{MINIMAL}history: {{path: {name}}}\nlog: {{file: {name}}}\n")
        history, log = found[0], found[-1]
        assert history.startswith("config.yaml:8: history.path: ")
        assert said.format("history") in history
        assert log.startswith("config.yaml:9: log.file: ")
        (fault,) = faults(tmp_path, f"{MINIMAL}log: {{file: {name}}}\n")
        assert said.format("log") in fault
    assert (tmp_path / "photo.jpg").read_bytes() == JPEG


def test_the_usual_place_of_the_history_is_looked_at_too(tmp_path: Path) -> None:
    foreign_database(tmp_path / "config.history.db")
    (fault,) = faults(tmp_path, MINIMAL)
    assert fault.startswith("config.yaml:1: history.path: ")
    assert "config.history.db is no history of kamstrup-mqtt" in fault
    (fault,) = faults(tmp_path, MINIMAL, STATE_DIRECTORY="/dev/null")
    assert "/dev/null/history.db cannot be: Not a directory" in fault


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ("history: {path: secret}", "history.path: {}/secret is in use as mqtt.password_file"),
        ("history: {path: ca.pem}", "history.path: {}/ca.pem is in use as mqtt.tls_ca_cert"),
        ("log: {file: ./secret}", "log.file: {}/secret is in use as mqtt.password_file"),
        ("log: {file: config}", "log.file: {}/config is in use as this configuration"),
        ("history: {path: h.db}\nlog: {file: h.db}", "log.file: {}/h.db is in use as the history"),
        ("history: {path: h.db}\nlog: {file: h.db-wal}", "log.file: {}/h.db-wal is in use as the"),
        ("history: {path: a.1}\nlog: {file: a}", "log.file: {}/a is in use as the history"),
    ],
)
def test_files_that_are_in_use_already(tmp_path: Path, files: str, fault: str) -> None:
    (tmp_path / "secret").write_text("2026-11-24 10:28:00 INFO    x\n")
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "config.1").symlink_to("config.yaml")
    text = MINIMAL.replace("host: b", "password_file: secret\n  tls_ca_cert: ca.pem\n  host: b")
    (found,) = faults(tmp_path, f"{text}{files}\n")
    assert fault.format(tmp_path) in found


async def test_what_is_ours_is_fine_also_while_it_is_in_use(tmp_path: Path) -> None:
    text = MINIMAL + "history: {path: h.db}\nlog: {file: g.log}\n"
    (tmp_path / "g.log").write_text("2026-11-24 10:28:00 INFO    meter: Publishing\n")
    assert load(tmp_path, text).history.path == tmp_path / "h.db"
    async with opened(tmp_path / "h.db") as store:
        await store.append("a", readout(1))
        load(tmp_path, text)
        await store.append("a", readout(2))
    names = sorted(path.name for path in tmp_path.iterdir())
    load_config(tmp_path / "config.yaml", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == names  # looking leaves nothing
    with sqlite3.connect(tmp_path / "h.db") as busy:  # as another program that works on it
        busy.execute("PRAGMA locking_mode = EXCLUSIVE")
        busy.execute("PRAGMA user_version")
        load_config(tmp_path / "config.yaml", {})
    busy.close()


@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_an_empty_password_file_is_a_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "password").write_text(content)
    text = MINIMAL.replace("host: broker", "host: broker\n  username: u\n  password_file: password")
    assert faults(tmp_path, text) == [
        f"config.yaml:4: mqtt.password_file: {tmp_path}/password is empty; "
        "expected a file that holds the password"
    ]
    (tmp_path / "password").unlink()
    os.mkfifo(tmp_path / "password")
    (fault,) = faults(tmp_path, text)
    assert "password_file: cannot be read: " in fault
    assert "it is a pipe that nothing comes out of" in fault
    (fault,) = faults(tmp_path, text.replace("file: password", "file: /dev/zero"))
    assert "it is a device, not a file" in fault


def test_a_configuration_and_a_password_may_come_out_of_a_pipe(tmp_path: Path) -> None:
    """As with `-c <(sops -d config.yaml)`."""
    text = OLDER.read_text()
    for name in ("config", "password"):
        os.mkfifo(tmp_path / name)

    def write(name: str, content: str) -> None:
        (tmp_path / name).write_text(content)

    with ThreadPoolExecutor(2) as threads:
        threads.submit(
            write, "config", text.replace("password: changeit", "password_file: password")
        )
        threads.submit(write, "password", "s3cret\n")
        time.sleep(0.5)
        config = load_config(tmp_path / "config", {})
    assert config.mqtt.password is not None
    assert config.mqtt.password.get_secret_value() == "s3cret"


def test_a_log_that_somebody_cut_is_ours_still(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("  and the rest of a trace\n" + 2 * "2026-11-23 10:28:00 INFO    Stopped\n")
    check_log(log)
