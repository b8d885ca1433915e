"""The log: lines for people on standard error, and in a rotating file when one is configured."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from kamstrup_mqtt.errors import UsageError

_LINE = ("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
_FILE_BYTES = 1_000_000
_OLD_FILES = 5


def log_to_stderr(level: str) -> None:
    """Log what kamstrup-mqtt does from `level` on, and only warnings of the libraries."""
    logging.raiseExceptions = False  # a full disk or a closed terminal is no reason to stop
    logging.basicConfig(format=_LINE[0], datefmt=_LINE[1], level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("kamstrup_mqtt").setLevel(level.upper())


def log_to_file(path: Path) -> None:
    """Log to a file too, which starts anew at 1 MB; five old ones are kept.

    Raises:
        UsageError: the file cannot be written.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8"
        )
    except OSError as error:
        raise UsageError(f"log.file {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(logging.Formatter(*_LINE))
    logging.getLogger().addHandler(handler)
