"""One archive for a bug report: what the doctor found, and all that helps to understand it.

No password, user name or full serial number goes in: secrets are looked for by what they are, not
only by where they usually stand.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.files import has_content
from kamstrup_mqtt.gateway.config import KNOWN_KEYS
from kamstrup_mqtt.gateway.source import ENVIRONMENT_PREFIX, Source
from kamstrup_mqtt.meter import list_ports
from kamstrup_mqtt.readout.capture import mask
from kamstrup_mqtt.tools.doctor.finding import Check, to_json

_LOG_BYTES = 200_000
_SECRETS = frozenset({"username", "password", "password_file"})
_HIDDEN = "(hidden)"
# Serial and customer numbers as text: whole numbers of seven digits and more.
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)(\d{2})\d{5,}(?!\d)(?!\.\d)")
_HEX = re.compile(r"\b(?:[0-9a-f]{2} ?){6,}\b", re.IGNORECASE)
_FORMATS = {".zip": "zip", ".tar": "tar", ".gz": "gztar", ".tgz": "gztar"}


def check_archive(archive: Path) -> None:
    """Raise UsageError where no archive can be: another ending, or a file that is there."""
    if archive.suffix not in _FORMATS:
        raise UsageError(f"{archive}: expected a name that ends in .zip or .tar.gz")
    try:
        exists = has_content(archive)
    except OSError as error:
        raise UsageError(f"{archive} cannot be written: {error.strerror}") from error
    if exists:
        raise UsageError(f"{archive} exists already and is left as it is: name another file")


def write_bundle(
    archive: Path, config: Path | None, checks: list[Check], captures: Mapping[str, Iterable[str]]
) -> None:
    """Write the archive.

    Args:
        archive: the file, .zip or .tar.gz; not there yet.
        config: the configuration, if there is one.
        checks: what the doctor found.
        captures: the lines of each capture, masked, by its name.

    Raises:
        UsageError: the archive cannot be written, has another ending, or is there already.

    """
    check_archive(archive)
    secrets: list[str] = []  # to look for in all texts
    settings = _settings(config, secrets) if config else "no configuration\n"
    files = {
        "config.yaml": settings,
        "doctor.json": to_json(checks, indent=2),
        "log.txt": _log(config),
        "versions.txt": _versions(),
    }
    with tempfile.TemporaryDirectory(prefix="kamstrup-mqtt-") as name:
        folder = Path(name, "kamstrup-mqtt-report")
        folder.mkdir()
        for title, text in files.items():
            (folder / title).write_text(_safe(text, secrets), encoding="utf-8", errors="replace")
        for title, lines in captures.items():  # masked in another way: telegrams stay whole
            (folder / title).write_text("".join(lines), encoding="utf-8")
        try:
            made = shutil.make_archive(
                str(Path(name, "bundle")), _FORMATS[archive.suffix], name, folder.name
            )
            shutil.copyfile(made, archive)
        except OSError as error:
            raise UsageError(f"{archive} cannot be written: {error.strerror}") from error


def _settings(path: Path, secrets: list[str]) -> str:
    """What is configured, without secrets, which are added to `secrets`."""
    source = Source(path)
    source.read_file()
    source.read_environment(os.environ)
    data = _without_secrets(source.data, path.parent, secrets)
    names = [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]
    head = f"# from the environment: {', '.join(names) or 'nothing'}\n"
    faults = "".join(f"# {fault}\n" for fault in source.faults)
    return head + faults + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _without_secrets(data: object, folder: Path, secrets: list[str]) -> object:
    if isinstance(data, list):
        return [_without_secrets(item, folder, secrets) for item in data]
    if not isinstance(data, dict):
        return data
    kept: dict[str, object] = {}
    for key, value in data.items():
        known = key in KNOWN_KEYS  # what is unknown may be a password with a typing error
        if value is None or (known and key not in _SECRETS):
            kept[key] = _without_secrets(value, folder, secrets)
            continue
        kept[key] = _HIDDEN
        if key != "username":  # often a common word
            secrets += _texts(value)
        if key == "password_file":
            with contextlib.suppress(OSError, ValueError, UsageError):
                path = Path(folder, str(value))
                if has_content(path):
                    secrets.append(path.read_text(encoding="utf-8").strip())
    return kept


def _texts(value: object) -> list[str]:
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [text for part in parts for text in _texts(part)]
    return [str(value)]


def _log(config: Path | None) -> str:
    """The end of the log: of the file that is configured, or else of the journal."""
    if config is not None:
        source = Source(config)
        source.read_file()
        section = source.data.get("log")
        name = section.get("file") if isinstance(section, dict) else None
        if name:
            path = config.parent / str(name)
            try:
                has_content(path)
                with path.open("rb") as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                    return file.read().decode(errors="replace")
            except OSError as error:
                return f"{name} cannot be read: {error.strerror}\n"
            except UsageError as error:
                return f"{error}\n"
    try:
        command = ["journalctl", "--unit", "kamstrup-mqtt", "--lines", "2000", "--no-pager"]
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return "no log: set log.file to have one\n"
    return done.stdout.decode(errors="replace")[-_LOG_BYTES:]


def _versions() -> str:
    lines = [f"{platform.platform()}, Python {platform.python_version()}"]
    for name in ("kamstrup-mqtt", "serialx", "aiomqtt", "paho-mqtt", "pydantic", "click"):
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} is missing")
    lines += [f"port {port.path}: {port.description}" for port in list_ports()]
    return "\n".join(lines) + "\n"


def _safe(text: str, secrets: list[str]) -> str:
    """`text` without secrets, and with serial and customer numbers cut short."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = _HEX.sub(_masked_telegram, text)
    return _NUMBER.sub(lambda found: found[1] + "x" * (len(found[0]) - 2), text)


def _masked_telegram(found: re.Match[str]) -> str:
    raw = bytes.fromhex(found[0])
    if not {0x40, 0x80} & set(raw[:1]) and b"\x40" not in raw:
        return found[0]
    return mask(raw, asked=True).hex(" ")
