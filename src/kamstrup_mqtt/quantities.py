"""Times and sizes as people write them: 28, 30s, 90d, 500MB, and back."""

import re

INTERVAL = "minutes such as 28, or 30s, 5m, 1h; from 1 second to 7 days"
_INTERVAL = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)", re.ASCII)
_KEEP = re.compile(r"(\d{1,6})\s*([dwy])", re.ASCII)
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt])i?b?", re.ASCII)
_SIZES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 1 << 47
_DAYS = {"d": 1, "w": 7, "y": 365}
_LONGEST_DAYS = 100 * 365
_LONGEST_S = 7 * 86400.0
_SECONDS = {"s": 1.0, "": 60.0, "m": 60.0, "h": 3600.0}


def interval_seconds(text: str) -> float:
    """Seconds, from minutes as a bare number, or 30s, 5m, 1h. Raises ValueError."""
    match = _INTERVAL.fullmatch(text.strip().lower())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 1 <= seconds <= _LONGEST_S:
        raise ValueError
    return seconds


def keep_seconds(text: str) -> float:
    """Seconds, from 90d, 8w or 2y. Raises ValueError."""
    match = _KEEP.fullmatch(text.strip().lower())
    if not match or not 1 <= (days := int(match[1]) * _DAYS[match[2]]) <= _LONGEST_DAYS:
        raise ValueError
    return days * 86400.0


def size_bytes(text: str) -> int:
    """Bytes, from 500MB or 2GB. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip().lower())
    size = int(float(match[1]) * _SIZES[match[2]]) if match else 0
    if not _LEAST_BYTES <= size <= _MOST_BYTES:
        raise ValueError
    return size


def duration(seconds: float) -> str:
    """Seconds as a person says them: 28 min, 1 h, 12 h 45 min, 45 s."""
    if seconds % 60 or not seconds:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    if minutes and hours < 2:
        return f"{60 * hours + minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
