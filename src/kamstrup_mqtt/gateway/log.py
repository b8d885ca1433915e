"""The log: lines for people on standard error, and in a rotating file when one is configured."""

import logging
import re
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.files import check_ours

_LINE = ("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
_FILE_BYTES = 1_000_000
_OLD_FILES = 5
_BEGIN = re.compile(rb"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]{4,8} ")


def log_to_stderr(level: str) -> None:
    """Log what kamstrup-mqtt does from `level` on, and only warnings of the libraries."""
    logging.raiseExceptions = False  # a full disk or a closed terminal is no reason to stop
    logging.basicConfig(format=_LINE[0], datefmt=_LINE[1], level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("kamstrup_mqtt").setLevel(level.upper())


def log_names(path: Path) -> list[Path]:
    """All names that a log at `path` takes: its own, and those of the old ones."""
    old = (path.with_name(f"{path.name}.{number}") for number in range(1, _OLD_FILES + 1))
    return [path, *old]


def check_log(path: Path) -> None:
    """Make sure that a log can be at `path`, and old ones beside it.

    Raises:
        UsageError: a file that is no log of ours is there.
        OSError: it cannot be known.

    """
    for name in log_names(path):
        check_ours(name, "log", _is_log)


def _is_log(beginning: bytes) -> bool:
    """Whether that is a log of ours; a power cut may leave zeros, and somebody may have cut it."""
    found = [_BEGIN.match(line) is not None for line in beginning.lstrip(b"\0").splitlines()]
    if beginning.startswith(b"\0"):
        return any(found) or not found
    return found[0] or 2 * sum(found) > len(found)


def log_to_file(path: Path) -> None:
    """Log to a file too, which starts anew at 1 MB; five old ones are kept.

    Raises:
        UsageError: the file cannot be written, or is not ours.

    """
    try:
        check_log(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8"
        )
    except OSError as error:
        raise UsageError(f"log.file {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(logging.Formatter(*_LINE))
    logging.getLogger().addHandler(handler)


def printable(text: str, most: int = 200) -> str:
    """`text` on one line, without what would steer a terminal, cut to `most` characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])
