"""The files that a configuration names: read from where they are, and never written over.

What the gateway writes, the history and the log, must be its own, and no other file that the
configuration names.
"""

import contextlib
import errno
import os
import shlex
import sqlite3
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.files import check_name, contents, is_same
from kamstrup_mqtt.gateway.checks import is_true
from kamstrup_mqtt.gateway.log import check_log, log_names
from kamstrup_mqtt.gateway.source import Source
from kamstrup_mqtt.gateway.texts import LONGEST
from kamstrup_mqtt.store import check_history, history_names

_CERTIFICATES = ("tls_ca_cert", "tls_cert", "tls_key")
_READ = tuple(("mqtt", key) for key in ("password_file", *_CERTIFICATES))
_HISTORY, _LOG = ("history", "path"), ("log", "file")
# The names that files take which the gateway writes, and whether what is there is ours.
_Files = tuple[Callable[[Path], list[Path]], Callable[[Path], None]]
_HISTORY_FILES: _Files = (history_names, check_history)
_LOG_FILES: _Files = (log_names, check_log)
# What no waiting mends, other than a missing permission or a disk that is away.
_WRONG_NAMES = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def check_files(source: Source, history: Path) -> None:
    """Make paths relative to the file's folder, read the password, and see whose the files are.

    Args:
        source: what the user wrote, which is changed, and takes the faults.
        history: where the history is when the user does not say.

    """
    for section, key in (*_READ, _HISTORY, _LOG):
        content = source.section(section)
        if isinstance(content.get(key), str):
            content[key] = str(source.path.parent / content[key])
    _read_password(source)
    _look_for_certificates(source)
    taken = [(f"{section}.{key}", path) for section, key in _READ
             if (path := _named(source, section, key))]  # fmt: skip
    taken.append(("this configuration", source.path))
    if fault := _write_fault(path := _named(source, *_HISTORY) or history, taken, _HISTORY_FILES):
        source.fault(_HISTORY, fault)
    else:
        taken += [("the history", name) for name in history_names(path)]
    if (log := _named(source, *_LOG)) and (fault := _write_fault(log, taken, _LOG_FILES)):
        source.fault(_LOG, fault)


def readable_secrets(source: Source) -> list[str]:
    """Warnings about files with secrets that everybody on this machine can read."""
    secrets = [
        path for key in ("password_file", "tls_key") if (path := _named(source, "mqtt", key))
    ]
    if source.names(("mqtt", "password")):
        secrets.append(source.path)
    warnings = []
    for path in secrets:
        with contextlib.suppress(OSError):
            if path.stat().st_mode & stat.S_IROTH:
                warnings.append(
                    f"{path} holds a secret and everybody on this machine can read it: "
                    f"`chmod o-rwx {shlex.quote(str(path))}`"
                )
    return warnings


def _named(source: Source, section: str, key: str) -> Path | None:
    name = source.section(section).get(key)
    return Path(name) if isinstance(name, str) else None


def _write_fault(path: Path, taken: Sequence[tuple[str, Path]], files: _Files) -> str | None:
    """Why the gateway may not write at `path`: something else is there, or will be."""
    names_of, check = files
    try:
        check_name(path)
        for name in names_of(path):
            for what, other in taken:
                if is_same(name, other):
                    return f"{path} is in use as {what}: name another file"
        check(path)
    except UsageError as error:
        return str(error)
    except OSError as error:
        if error.errno in _WRONG_NAMES:
            return f"{path} cannot be: {error.strerror}"
    except sqlite3.Error:
        pass  # a disk that fails, which the gateway waits for
    return None


def _read_password(source: Source) -> None:
    mqtt = source.section("mqtt")
    key = ("mqtt", "password_file")
    if (path := _named(source, *key)) is None:
        return
    try:
        password = contents(path, LONGEST + 1).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError, UsageError) as error:
        source.fault(key, f"cannot be read: {error}")
        return
    if not password:
        source.fault(key, f"{path} is empty; expected a file that holds the password")
    elif len(password.encode()) > LONGEST:
        source.fault(key, f"{path} is too large to be a password")
    if "password" in mqtt:
        source.fault(("mqtt", "password"), "give either password or password_file")
    mqtt["password"] = password


def _look_for_certificates(source: Source) -> None:
    mqtt = source.section("mqtt")
    if not is_true(mqtt.get("tls_enabled")):
        return
    for key in _CERTIFICATES:
        name = mqtt.get(key)
        if isinstance(name, str) and not os.path.isfile(name):  # noqa: PTH113 - never raises
            source.fault(("mqtt", key), f"there is no file {name}")
    if "tls_key" in mqtt and "tls_cert" not in mqtt:
        source.fault(("mqtt", "tls_key"), "expected a tls_cert along with it")
