"""What tests share: real brokers, real ser2net, and the command line as a user starts it."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time: a CRC of 16 bits lets one damaged telegram in 65536 through, and
# a test that fails once in a while for that reason tells nothing.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
# Each readout that is kept is synced to the disk, which takes milliseconds, and in memory none. So
# the folders of the tests are in memory where there is room, unless somebody wants them elsewhere.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 1 << 30:
    os.environ.setdefault("TMPDIR", str(_MEMORY))
    tempfile.tempdir = None  # it is looked up anew
# A shell that starts us in the background has us, and all that we start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Clock:
    """A wall clock for a process of its own, which a test may set; the monotonic one is real."""

    def __init__(self, folder: Path) -> None:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        assert library, "faketime is missing: `make test` installs it as root"
        self._file = folder / "clock"
        self.env = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        self.set(0)

    def set(self, ahead_s: float) -> None:
        """Have it differ from the clock of this machine by so much."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{ahead_s:+.0f}")
        written.replace(self._file)

    def set_to(self, moment: datetime) -> None:
        self.set((moment - datetime.now(UTC)).total_seconds())


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


# Below those that the system gives to connections, from 32768 on, and others for each worker:
# between the choice of a port and its use nobody else may take it.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = itertools.cycle(range(10_000 + _WORKER % 11 * 2000, 12_000 + _WORKER % 11 * 2000))


def free_port() -> int:
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise AssertionError("no port is free")


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "the server ended at once"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(port)


class Server:
    """A real server in a process of its own."""

    def __init__(self, command: list[str], port: int) -> None:
        self.command = command
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_port(self.port, self._process)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None


def server_program(name: str) -> str:
    program = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert program, f"{name} is missing: `make test` installs it as root, or `apt install {name}`"
    return program


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a real Mosquitto with these lines of configuration; by default anybody may use it."""
    servers: list[Server] = []

    def start(*lines: str) -> Server:
        port = free_port()
        config = tmp_path / f"mosquitto-{port}.conf"
        content = "\n".join([f"listener {port} 127.0.0.1", *(lines or ["allow_anonymous true"])])
        config.write_text(f"user root\n{content}\n")
        servers.append(Server([server_program("mosquitto"), "-c", str(config)], port))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def ser2net(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a real ser2net in front of a device, with an accepter such as `tcp` or a telnet."""
    servers: list[Server] = []

    def start(device: str, accepter: str = "tcp") -> Server:
        port = free_port()
        config = tmp_path / f"ser2net-{port}.yaml"
        config.write_text(
            "connection: &meter\n"
            f"  accepter: {accepter},127.0.0.1,{port}\n"
            f"  connector: serialdev,{device},1200n82,local\n"
        )
        command = [server_program("ser2net"), "-n", "-c", str(config)]
        servers.append(Server(command, port))
        servers[-1].start()
        # The probe of wait_for_port holds the device for a moment.
        time.sleep(0.5)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Become somebody without any permission, for as long as the block lasts."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody without permission")
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


COMMAND = [sys.executable, "-m", "kamstrup_mqtt"]


def kamstrup_mqtt(
    *arguments: str, stdin: str | bytes = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, as a user does."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*COMMAND, *arguments], input=data, capture_output=True, timeout=60,
        env=os.environ | (env or {}), check=False,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.fixture
def background() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line and leave it running; it is ended with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments], text=True, cwd=cwd, env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
