"""Removes the oldest readouts, a few with each new one, so that no readout has to wait.

What is delivered goes first when it is too old. For its size, nothing goes before the file takes
more than it may, and the last readouts never go: hours that are rolled up stay for ever.
"""

import logging
import math
import sqlite3
import time

from kamstrup_mqtt.store.rollup import begin_of, close_hours, hour_of
from kamstrup_mqtt.store.write import transaction

_AT_ONCE = 200  # readouts that are removed with one that is written
_LEFT = 1000  # readouts that are never removed for their size
_SPARE = 64  # the part of the bound that is freed once it is reached
_AGE_S = 3600.0  # how often it is looked for what is too old
_DAY_US = 86_400_000_000
_JUMP_US = 366 * _DAY_US  # what no gateway is off for, so that the clock may have jumped

_log = logging.getLogger(__name__)


class Pruning:
    """What is removed from one file, and how far that has got.

    Args:
        keep_s: seconds for which readouts are kept.
        max_bytes: what the file may take.

    """

    def __init__(self, keep_s: float, max_bytes: int) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._bound = f"{max_bytes / (1 << 20):.4g} MB"  # for people
        self._look_at = 0.0  # when to look for what is too old
        self._before: int | None = None  # readouts before this time are too old
        self._removed = 0  # since the file took too much, or 0
        self._lost = 0  # of these, the undelivered
        self._told = False  # that nothing more can be removed

    def prune(self, database: sqlite3.Connection, path: object) -> None:
        """Remove a few readouts, if there are some to be removed."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _AGE_S
            self._before = self._too_old(database)
        if self._before is not None and self._remove_old(database, self._before) < _AT_ONCE:
            self._before = None
        self._make_room(database, path)

    def _too_old(self, database: sqlite3.Connection) -> int | None:
        """Before which time readouts are too old; None when there are none, for all we know.

        A readout is too old when its time says so, and when something was recorded on as many
        days after it: a clock that jumped, and a time without the gateway, age nothing. Days
        behind a jump of more than a year do not count, unless they are as many by themselves.
        """
        ids = [number for (number,) in database.execute("SELECT id FROM meter")]
        before = begin_of(hour_of(int((time.time() - self._keep_s) * 1e6)))  # whole hours
        oldest = [_taken(database, "min", number, "") for number in ids]
        if not any(one is not None and one < before for one in oldest):
            return None
        days, end = math.ceil(self._keep_s / 86400), 1 << 62
        count = 0
        while True:
            last = [_taken(database, "max", number, "AND taken < ?", end) for number in ids]
            known = [one for one in last if one is not None]
            if not known:
                return None
            if count and end - max(known) > _JUMP_US:  # the days behind it may be the wrong ones
                count = -1
            elif count >= days:
                return min(before, end)
            count += 1
            end = max(known) // _DAY_US * _DAY_US

    def _remove_old(self, database: sqlite3.Connection, before: int) -> int:
        delivered, removed = _delivered(database), 0
        for (number,) in database.execute("SELECT id FROM meter").fetchall():
            rows = database.execute(
                "SELECT sequence FROM readout WHERE meter = ? AND misdated = 0 AND taken < ? "
                "AND +sequence <= ? ORDER BY taken LIMIT ?",
                (number, before, delivered, _AT_ONCE - removed),
            ).fetchall()
            removed += _delete(database, rows)
            if rows:  # with them what was read before them under a wrong clock
                last = max(sequence for (sequence,) in rows)
                wrong = database.execute(
                    "SELECT sequence FROM readout WHERE meter = ? AND misdated IN (1, 2) "
                    "AND +sequence < ? AND (+sequence > 0) = (? > 0) LIMIT ?",
                    (number, last, last, _AT_ONCE - removed),
                ).fetchall()
                removed += _delete(database, wrong)
        return removed

    def _make_room(self, database: sqlite3.Connection, path: object) -> None:
        bound = self._max_bytes - (self._max_bytes // _SPARE if self._removed else 0)
        if _used_bytes(database) <= bound:
            if self._removed:
                _log.info(
                    "History %s takes less than %s again: %d readouts were removed, %d of them "
                    "undelivered", path, self._bound, self._removed, self._lost,
                )  # fmt: skip
            self._removed, self._lost, self._told = 0, 0, False
            return
        rows = _oldest(database)
        if len(rows) < _AT_ONCE and not self._told:
            self._told = True
            _log.warning(
                "History %s takes more than %s with its hours and last %d readouts alone, and "
                "these stay: raise history.max_size", path, self._bound, _LEFT,
            )  # fmt: skip
        if not rows:
            return
        if not self._removed and not self._told:
            _log.warning(
                "History %s takes more than history.max_size, %s: its oldest readouts are removed, "
                "a few with each new one", path, self._bound,
            )  # fmt: skip
        delivered = _delivered(database)
        known = [row for row in rows if row[0] <= delivered]
        if not known:
            if not self._lost:
                _log.warning(
                    "History %s: what is delivered is removed, and now readouts are that an "
                    "output still waits for: see why it does not get them, or raise "
                    "history.max_size", path,
                )  # fmt: skip
            self._lost += len(rows)
        self._removed += _delete(database, known or rows)


def _oldest(database: sqlite3.Connection) -> list[tuple[int]]:
    """The numbers of the oldest readouts, a few, without the last ones of all."""
    last = database.execute(
        "SELECT sequence FROM readout ORDER BY sequence DESC LIMIT 1 OFFSET ?", (_LEFT - 1,)
    ).fetchone()
    if last is None:
        return []
    return database.execute(
        "SELECT sequence FROM readout WHERE sequence < ? ORDER BY sequence LIMIT ?",
        (*last, _AT_ONCE),
    ).fetchall()


def _taken(
    database: sqlite3.Connection, which: str, meter: int, rest: str, *arguments: int
) -> int | None:
    (taken,) = database.execute(
        f"SELECT {which}(taken) FROM readout WHERE meter = ? AND misdated = 0 {rest}",  # noqa: S608
        (meter, *arguments),
    ).fetchone()
    return taken if isinstance(taken, int) else None


def _delivered(database: sqlite3.Connection) -> int:
    """The number up to which every output has got."""
    (delivered,) = database.execute("SELECT min(sequence) FROM cursor").fetchone()
    return delivered if isinstance(delivered, int) else 0


def _delete(database: sqlite3.Connection, rows: list[tuple[int]]) -> int:
    if rows:
        with transaction(database):
            _close_hours(database, [number for (number,) in rows])
            database.executemany("DELETE FROM readout WHERE sequence = ?", rows)
    return len(rows)


def _close_hours(database: sqlite3.Connection, numbers: list[int]) -> None:
    """See that what readouts tell is kept by the hour, before they go."""
    marks = ", ".join("?" * len(numbers))
    latest: dict[int, int] = {}
    for meter, taken in database.execute(
        "SELECT readout.meter, taken FROM readout "  # noqa: S608 - question marks
        f"JOIN meter ON meter.id = readout.meter WHERE sequence IN ({marks}) AND misdated = 0",
        numbers,
    ):
        if isinstance(taken, int):
            latest[meter] = max(taken, latest.get(meter, taken))
    for meter, taken in latest.items():
        close_hours(database, meter, taken)


def _used_bytes(database: sqlite3.Connection) -> int:
    """What the file takes, without what is free in it."""
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
