"""The line to the meter: a serial port or a network address, bytes out and bytes in.

The only module that knows serialx. It knows nothing of telegrams, and turns every way in which a
port can fail into a `PortError` that says what to check.
"""

import asyncio
import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kamstrup_mqtt.errors import PortError, UsageError
from kamstrup_mqtt.files import check_name
from kamstrup_mqtt.kmp import BAUD, Direction

if TYPE_CHECKING:
    import serialx

STOP_BITS = 2

# Called with what was sent (a request) or received (an answer, or our echo, or noise).
Tap = Callable[[Direction, bytes], None]

_URL_SCHEMES = ("socket", "rfc2217")

_OPEN_DEADLINE_S = 8.0  # a network address that answers at all does so sooner
_CLOSE_DEADLINE_S = 1.0
_SER2NET_BUSY = b"Port already in use"
_LOCK_FOLDERS = (Path("/run/lock"), Path("/var/lock"))
_TIOCGEXCL = 0x80045440  # whether a terminal is in exclusive mode (Linux)


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port of this machine: its path, stable by-id path first, and what is plugged in."""

    path: str
    device: str
    description: str


class Link:
    """An open or closed line to `port`; half duplex, one user at a time.

    Args:
        port: a device path, `socket://host:port` or `rfc2217://host:port`.
        tap: called with all that passes, as it passes.

    """

    def __init__(self, port: str, tap: Tap | None = None) -> None:
        self.port = port
        self._tap: Tap = tap or (lambda _direction, _data: None)
        self._serial: serialx.AsyncSerial | None = None

    @property
    def is_open(self) -> bool:
        """Whether the line is open, as far as is known."""
        return self._serial is not None and self._serial.is_open

    async def open(self) -> None:
        """Open the line at 1200 baud, 8N2; nothing happens if it is open.

        Raises:
            PortError: the port is missing, forbidden, in use, no serial port, or unreachable.

        """
        if self.is_open:
            return
        await self.close()
        check_port(self.port)
        if "://" not in self.port:
            _check_free(self.port)
        import serialx  # noqa: PLC0415 - costs 0.1 s, which only commands that open a port pay

        serial = serialx.async_serial_for_url(
            self.port, baudrate=BAUD, stopbits=STOP_BITS, connect_timeout=_OPEN_DEADLINE_S
        )
        with self._port_errors():
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                await serial.open()
        self._serial = serial

    async def close(self) -> None:
        """Close the line at once, dropping what is still to be written."""
        serial, self._serial = self._serial, None
        if serial is not None:
            with contextlib.suppress(Exception):  # there is nothing left to save
                serial.abort()
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await serial.wait_closed()

    async def write(self, data: bytes) -> None:
        """Send `data` in one go. Raises PortError when the line is lost."""
        with self._port_errors():
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                await self._opened().write(data)
        self._tap(Direction.REQUEST, data)

    async def read(self, until: float) -> bytes:
        """What the line brings next, or b"" when nothing came `until` that time of the loop.

        Raises:
            PortError: the line is lost: unplugged, or closed by the other side.

        """
        data = b""
        with self._port_errors():
            try:
                async with asyncio.timeout_at(until) as deadline:
                    data = await self._opened().read(4096)
            except TimeoutError:  # ours, or a TCP connection that timed out
                if deadline.expired():
                    return b""
                raise
        if not data:  # how a stream tells its end
            raise PortError(
                f"{self.port} hung up: unplugged, or closed by the other side", "port_missing"
            )
        if _SER2NET_BUSY in data:
            raise PortError(
                f"{self.port} is in use: ser2net serves one program at a time; stop the other one",
                "port_busy",
            )
        self._tap(Direction.ANSWER, data)
        return data

    async def discard(self) -> None:
        """Drop what came in unasked. Raises PortError when the line is lost."""
        while await self.read(until=0.0):
            pass

    def _opened(self) -> "serialx.AsyncSerial":
        if self._serial is None:
            raise PortError(f"{self.port} is not open")
        return self._serial

    @contextlib.contextmanager
    def _port_errors(self) -> Iterator[None]:
        try:
            yield
        except PortError:
            raise
        except Exception as error:  # serialx raises OSError, SerialException, termios.error, ...
            raise _explain(self.port, error) from error


def check_port(port: str) -> None:
    """Raise PortError when `port` cannot be one: an unknown scheme, or no host and port."""
    if "://" not in port:
        try:
            check_name(Path(port))
        except UsageError as error:
            raise PortError(str(error)) from error
        return
    scheme = port.partition("://")[0]
    if scheme not in _URL_SCHEMES:
        known = " or ".join(f"{scheme}://host:port" for scheme in _URL_SCHEMES)
        raise PortError(f"{port}: '{scheme}://' is unknown; use a device path, {known}")
    try:
        parts = urlsplit(port)
        complete = bool(parts.hostname and parts.port)
    except ValueError:
        complete = False
    if not complete:
        raise PortError(f"{port}: expected {scheme}://host:port with a port from 1 to 65535")


def list_ports() -> list[Port]:
    """The serial ports of this machine, those with a stable by-id name first."""
    import serialx  # noqa: PLC0415 - see Link.open

    ports = []
    for info in serialx.list_serial_ports():
        maker = info.manufacturer or ""
        words = [word for word in (maker, info.product, info.interface_description) if word]
        if info.serial_number:
            words.append(f"serial number {info.serial_number}")
        description = ", ".join(dict.fromkeys(words)) or "built-in port"
        ports.append(Port(str(info.device), str(info.resolved_device), description))
    return sorted(ports, key=lambda port: (port.path == port.device, port.path))


def _check_free(port: str) -> None:
    """Raise PortError when another program claimed `port` in a way that opening it ignores.

    That is by a lock file, as ser2net and terminal programs do, by a record lock, or by exclusive
    mode, which does not keep root out.
    """
    for folder in _LOCK_FOLDERS:
        with contextlib.suppress(OSError, ValueError):
            process = int((folder / f"LCK..{Path(port).name}").read_text(encoding="utf-8"))
            if process != os.getpid() and Path(f"/proc/{process}").exists():
                raise _busy(port)
    if _locker(port) is not None:
        raise _busy(port)
    with contextlib.suppress(OSError):  # which opening it for good will tell
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            exclusive = fcntl.ioctl(descriptor, _TIOCGEXCL, bytes(4))
        finally:
            os.close(descriptor)
        if any(exclusive):
            raise _busy(port)


def _busy(port: str) -> PortError:
    return PortError(
        f"{port} is in use: stop {_holder(port) or 'the other program that reads it'}", "port_busy"
    )


def _explain(port: str, error: Exception) -> PortError:
    """What is wrong with `port` and what to do about it, in one line."""
    if isinstance(error, TimeoutError):
        return PortError(
            f"{port} did not open within {_OPEN_DEADLINE_S:.0f} s: check host, port and network",
            "unreachable",
        )
    if "://" in port:
        if f"[Errno {errno.ECONNREFUSED}]" in str(error):  # also where several addresses did
            text = f"{port} refused the connection: check that ser2net runs there, on that port"
        else:
            reason = error.strerror if isinstance(error, OSError) else None
            text = f"{port} cannot be reached: {reason or error}; check host, port and network"
        return PortError(text, "unreachable")
    code = getattr(error, "errno", None) or next(iter(error.args), None)
    match code:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            return PortError(
                f"{port} does not exist: plug the head in, or find it with `kamstrup-mqtt ports`",
                "port_missing",
            )
        case errno.EACCES | errno.EPERM:
            return PortError(f"no permission to open {port}: {_membership(port)}", "no_permission")
        case errno.EBUSY | errno.EAGAIN:
            return _busy(port)
        case errno.ENOTTY | errno.EISDIR | errno.EINVAL:
            return PortError(f"{port} is no serial port: find it with `kamstrup-mqtt ports`")
        case errno.EIO:
            return PortError(
                f"{port} was lost: unplugged, or taken by another program", "port_missing"
            )
    return PortError(f"{port} cannot be used: {error}")


def _holder(port: str) -> str | None:
    """The other program that has `port` locked or else open, as far as we may know."""
    if (process := _locker(port)) is not None:
        return _name(process)
    device = os.path.realpath(port)
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # another user's, or just ended
            if any(str(link.readlink()) == device for link in (folder / "fd").iterdir()):
                return _name(folder.name)
    return None


def _locker(port: str) -> str | None:
    """The number of another process that has `port` locked."""
    with contextlib.suppress(OSError):
        status = os.stat(port)  # noqa: PTH116 - see _membership
        major, minor = os.major(status.st_dev), os.minor(status.st_dev)
        file = f"{major:02x}:{minor:02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.split()  # number, FLOCK or POSIX, ADVISORY, WRITE, process, file, range
            if file in fields and "->" not in fields and fields[4] != str(os.getpid()):
                return fields[4]
    return None


def _name(process: str) -> str | None:
    with contextlib.suppress(OSError):  # ended, or in a container of its own
        command = Path(f"/proc/{process}/comm").read_text(encoding="utf-8", errors="replace")
        return f"'{command.strip()}' (process {process}), which reads it"
    return None


def _membership(port: str) -> str:
    """How this user gets access to `port`."""
    try:
        status = os.stat(port)  # noqa: PTH116 - the mode and group are wanted, not a path
        group = grp.getgrgid(status.st_gid).gr_name
        user = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return "ask for membership of the group that owns it, usually dialout"
    if not status.st_mode & stat.S_IRGRP or not status.st_mode & stat.S_IWGRP:
        return f"not even its group '{group}' may read and write it; set a udev rule (see README)"
    return f"`sudo usermod -aG {group} {user}`, then log out and in again"
