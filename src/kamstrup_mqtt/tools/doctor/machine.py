"""Examines this machine: the folder of the history, and the systemd service."""

import os
import pwd
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from kamstrup_mqtt.gateway.config import Config
from kamstrup_mqtt.tools.doctor.finding import Finding
from kamstrup_mqtt.tools.doctor.line import Note

_LEAST_BYTES = 200_000_000  # of two years of readings every minute there is more than that
UNITS = (
    Path("/etc/systemd/system/kamstrup-mqtt.service"),
    Path("/usr/lib/systemd/system/kamstrup-mqtt.service"),
)


def examine_data(config: Config, note: Note) -> None:
    """Whether readouts can be kept."""
    path = config.history.path.absolute()
    folder = path.parent
    target = path if path.exists() else folder
    if not folder.is_dir() or not os.access(target, os.W_OK) or not os.access(folder, os.W_OK):
        note(
            "data",
            Finding.DATA_NOT_WRITABLE,
            f"{target} cannot be written: see its owner, or set history.path",
        )
        return
    free = shutil.disk_usage(folder).free
    told = f"{free // 1_000_000} MB are free in {folder}"
    if free < _LEAST_BYTES:
        note("data", Finding.DISK_FULL, f"only {told}: make room, or set history.path")
    else:
        note("data", Finding.OK, told)


def examine_service(config: Path | None, note: Note, units: Sequence[Path] = UNITS) -> None:
    """Whether the systemd service, if one is installed as one of `units`, can work."""
    unit = next((path for path in units if path.exists()), None)
    if unit is None:
        note("service", Finding.OK, "no systemd service is installed; `kamstrup-mqtt setup` offers")
        return
    settings = dict(
        line.split("=", 1)
        for line in unit.read_text(encoding="utf-8").splitlines()
        if "=" in line and not line.startswith("#")
    )
    fault = _service_fault(settings, config)
    if fault:
        note("service", Finding.SERVICE_FAULTY, f"{unit}: {fault}")
    else:
        note("service", Finding.OK, f"{unit} is sound")


def _service_fault(settings: dict[str, str], config: Path | None) -> str | None:
    words = shlex.split(settings.get("ExecStart", ""))
    if not words or not os.access(words[0], os.X_OK):
        return f"ExecStart names {words[0] if words else 'nothing'}, which cannot be run"
    named = words[words.index("-c") + 1] if "-c" in words[:-1] else None
    if named and not Path(named).exists():
        return f"ExecStart names the configuration {named}, which does not exist"
    if named and config and Path(named).resolve() != config.resolve():
        return f"it runs with {named}, and what was examined here is {config}"
    user = settings.get("User")
    if user:
        try:
            pwd.getpwnam(user)
        except KeyError:
            return f"there is no user {user}: `sudo useradd --system {user}`"
    return None
