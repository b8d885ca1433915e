"""Files that we write: never over one that is not ours.

A name may come from a configuration or a command line, with a slip in it. So what is at a path is
looked at before anything opens it for writing; a pipe or device is not even opened.
"""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from kamstrup_mqtt.errors import UsageError

_LONGEST_NAME = 255  # bytes of each part
_LONGEST_PATH = 4095
_PIPE_S = 10.0  # what writes into a pipe may take
_LOOKED_AT = 65536  # bytes at the beginning, which tell whose a file is

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk"),
)


def check_name(path: Path) -> None:
    """Raise UsageError where no file can have this name."""
    try:
        whole = os.fsencode(path)
    except UnicodeEncodeError:
        whole = b"\0"
    parts = whole.split(b"/")
    if b"\0" in whole or len(whole) > _LONGEST_PATH or max(map(len, parts)) > _LONGEST_NAME:
        raise UsageError(f"no file can be named {str(path)[:60]!r}")


def what_is_at(path: Path) -> str | None:
    """What is at `path` where it is no file: a folder, a pipe, a device. Raises OSError."""
    mode = path.stat().st_mode
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def has_content(path: Path) -> bool:
    """Whether there is a file at `path` with anything in it.

    Raises:
        UsageError: what is there is a folder, a pipe or a device, or no file can have this name.
        OSError: it cannot be known.

    """
    check_name(path)
    try:
        if kind := what_is_at(path):
            raise UsageError(f"{path} is {kind}, not a file")
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def beginning(path: Path, most: int = _LOOKED_AT) -> bytes:
    """The first bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(most)


def contents(path: Path, most: int) -> bytes:
    """What is in a file, or comes out of a pipe within a while; at most `most` bytes.

    Raises:
        UsageError: no file can have this name.
        OSError: it cannot be read, is neither file nor pipe, or nothing comes out of the pipe.

    """
    check_name(path)
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return beginning(path, most)
    if not stat.S_ISFIFO(mode):
        raise OSError(0, f"it is {what_is_at(path)}, not a file")
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # one that nobody writes to blocks nobody
    found, deadline = b"", time.monotonic() + _PIPE_S
    try:
        while len(found) < most and time.monotonic() < deadline:
            try:
                data = os.read(pipe, most - len(found))
            except BlockingIOError:
                time.sleep(0.02)
                continue
            if not data:
                break
            found += data
    finally:
        os.close(pipe)
    if not found:
        raise OSError(0, "it is a pipe that nothing comes out of")
    return found


def check_ours(path: Path, kind: str, is_ours: Callable[[bytes], bool]) -> None:
    """Make sure that `path` can be written over: nothing is there, or a `kind` of ours.

    Args:
        path: the file.
        kind: what we would write there, for the message: a log, a capture.
        is_ours: tells from the beginning of a file whether we made it.

    Raises:
        UsageError: something else is there; it is left as it is.
        OSError: it cannot be known.

    """
    if has_content(path) and not is_ours(beginning(path)):
        raise not_ours(path, kind)


def not_ours(path: Path, kind: str) -> UsageError:
    """The error that tells that `path` is no `kind` of ours."""
    return UsageError(
        f"{path} is no {kind} of kamstrup-mqtt and is left as it is: name another file"
    )


def is_same(one: Path, other: Path) -> bool:
    """Whether two names mean one file, also by links, and also where there is none yet."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)
