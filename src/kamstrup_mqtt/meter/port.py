"""The ports of this machine: their names, who holds one, and what is wrong with one, in words."""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kamstrup_mqtt.errors import PortError, UsageError
from kamstrup_mqtt.files import check_name

OPEN_DEADLINE_S = 8.0  # a network address that answers at all does so sooner
_URL_SCHEMES = ("socket", "rfc2217")
LOCK_FOLDERS = (Path("/run/lock"), Path("/var/lock"))
_TIOCGEXCL = 0x80045440  # whether a terminal is in exclusive mode (Linux)


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port of this machine: its path, stable by-id path first, and what is plugged in."""

    path: str
    device: str
    description: str


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


def check_free(port: str) -> None:
    """Raise PortError when another program claimed `port` in a way that opening it ignores.

    That is by a lock file, as ser2net and terminal programs do, by a record lock, or by exclusive
    mode, which does not keep root out.
    """
    for folder in LOCK_FOLDERS:
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


def port_error(port: str, error: Exception) -> PortError:
    """What is wrong with `port` and what to do about it, in one line."""
    if isinstance(error, TimeoutError):
        return PortError(
            f"{port} did not open within {OPEN_DEADLINE_S:.0f} s: check host, port and network",
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
