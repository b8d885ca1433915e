"""Which readouts are dated by a clock that was wrong: they are marked, and count nowhere.

A clock that is set back contradicts itself: what was read before is dated later than what is read
now. If the times in the file had jumped ahead by as much before, the clock was ahead, and what it
dated is marked. Otherwise it is behind now, and what comes is marked until it is right again. As
long as neither is sure, the side with more readouts is believed, so that an error never lasts.

So the unmarked readouts of a meter, in the order they were taken, are always in order of time too.
"""

import logging
import sqlite3
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime

from kamstrup_mqtt.store.codec import LIVE, RowError, checked, moment_of, taken_of
from kamstrup_mqtt.store.rollup import forget

RIGHT, WRONG, DOUBTFUL = 0, 1, 2  # what the column `misdated` says
_NO_CLOCK = taken_of(datetime(2001, 1, 1, tzinfo=UTC))  # machines without one begin before
_NOTHING_US = 2_000_000  # so far back a clock that is kept right may go
_MOST_WRONG = 5000  # readouts from the very beginning that can all be wrong
_MOST_COUNTED = 100_000
_LONGEST_US = 365 * 86_400_000_000  # for which a gateway may have been off

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A row of the table; see schema-3.sql."""

    meter: int
    after: int
    begin: int
    until: int
    newest: int
    earlier: int
    later: int
    believed: bool


def judge(database: sqlite3.Connection, meter: int, taken: int) -> int:
    """What is to be said of the time of the readout that is written next, `taken`.

    Marks, or no longer marks, those before it, if it tells something of them.

    Args:
        database: within a transaction.
        meter: the id of the meter.
        taken: the time of its next readout.

    """
    if taken < _NO_CLOCK:
        return WRONG
    line = _Line(database, meter)
    last, doubt = line.last(), line.doubt()
    back = last is not None and taken < last - _NOTHING_US
    if doubt is not None:
        doubt = replace(doubt, later=doubt.later + 1)
        if not doubt.believed and back and taken >= doubt.newest - _NOTHING_US:
            line.note(replace(doubt, newest=max(taken, doubt.newest)))
            if doubt.later <= doubt.earlier:
                return DOUBTFUL
            line.believe_later(doubt)
            return RIGHT
        if doubt.believed and not back and taken < doubt.until and doubt.later < doubt.earlier:
            line.note(replace(doubt, newest=max(taken, doubt.newest)))
            return RIGHT
        if doubt.believed and not back and last is not None:
            jump, step = taken - last, doubt.until - doubt.begin
            if taken >= doubt.until and jump >= step // 2 and doubt.later <= doubt.earlier:
                line.believe_earlier(doubt)
        line.close()
    if last is None or not back:
        return RIGHT
    return line.open(last, taken)


class _Line:
    """The live readouts of one meter."""

    def __init__(self, database: sqlite3.Connection, meter: int) -> None:
        self._database = database
        self._meter = meter

    def last(self) -> int | None:
        """The latest time that is believed."""
        row = self._row("<", 1 << 62)
        return row[0] if row else None

    def doubt(self) -> _Doubt | None:
        """What is open."""
        row = self._database.execute(
            "SELECT * FROM doubt WHERE meter = ?", (self._meter,)
        ).fetchone()  # fmt: skip
        if row is None or not all(isinstance(value, int) for value in row):
            return None
        return _Doubt(*row)

    def note(self, doubt: _Doubt) -> None:
        """Keep what is open."""
        self._database.execute(
            "INSERT OR REPLACE INTO doubt VALUES (?, ?, ?, ?, ?, ?, ?, ?)", astuple(doubt)
        )

    def close(self) -> None:
        """End a doubt: what is marked stays so."""
        self._mark(WRONG, f"misdated = {DOUBTFUL}")
        self._database.execute("DELETE FROM doubt WHERE meter = ?", (self._meter,))

    def open(self, last: int, taken: int) -> int:
        """The clock was set back, from after `last` to `taken`: decide, and keep it open."""
        newest, before = self._row("<", 1 << 62), self._row("<=", taken)
        first = self._row(">", taken) or (last, 0)
        count = self._count(taken)
        if before is None:
            ahead = count <= _MOST_WRONG and self._is_complete()
        else:  # an older version may have let it go back already
            ahead = first[0] - before[0] >= last - taken or (
                newest is not None and before[1] > newest[1]
            )
        (after,) = self._database.execute("SELECT max(sequence) FROM readout").fetchone()
        doubt = _Doubt(self._meter, max(after, 0), taken, last, taken, count, 1, ahead)
        _log.warning(
            "%s: the clock of this machine was set back from %s to %s: %s is left out of what was "
            "used",
            self._name(),
            _said(last),
            _said(taken),
            f"what was read since it said {_said(first[0])}" if ahead
            else "until it is right again, what is read",
        )  # fmt: skip
        self.note(doubt)
        if not ahead:
            return DOUBTFUL
        self._mark_earlier(doubt)
        if before is not None and last - taken > _LONGEST_US:
            self.close()
        return RIGHT

    def believe_later(self, doubt: _Doubt) -> None:
        """What was read since the clock was set back is more than what contradicts it."""
        self._mark(RIGHT, f"misdated = {DOUBTFUL}")
        self._mark_earlier(doubt)
        self.note(replace(doubt, believed=True))

    def believe_earlier(self, doubt: _Doubt) -> None:
        """The clock was set forward again to where it had been, and little was read meanwhile."""
        self._mark(RIGHT, f"misdated = {DOUBTFUL}")
        self._mark(WRONG, f"misdated = {RIGHT} AND sequence > ?", doubt.after)
        self._forget(doubt)

    def _mark_earlier(self, doubt: _Doubt) -> None:
        self._mark(
            DOUBTFUL,
            f"misdated = {RIGHT} AND taken > ? AND +source = {LIVE} AND +sequence <= ?",
            doubt.begin,
            doubt.after,
        )
        self._forget(doubt)

    def _forget(self, doubt: _Doubt) -> None:
        forget(self._database, self._meter, doubt.begin)

    def _mark(self, value: int, which: str, *arguments: int) -> None:
        self._database.execute(
            f"UPDATE readout SET misdated = {value} WHERE meter = ? AND {which}",  # noqa: S608
            (self._meter, *arguments),
        )

    def _row(self, where: str, taken: int) -> tuple[int, int] | None:
        """The time nearest to `taken` that is believed, and which readout has it."""
        order = "" if where == ">" else "DESC"
        row = self._database.execute(
            "SELECT taken, sequence FROM readout WHERE meter = ? AND misdated = 0 "  # noqa: S608
            f"AND +source = {LIVE} AND taken {where} ? ORDER BY taken {order} LIMIT 1",
            (self._meter, taken),
        ).fetchone()
        return row if row is not None and isinstance(row[0], int) else None

    def _count(self, taken: int) -> int:
        """How many believed readouts are dated later, as far as that matters."""
        (count,) = self._database.execute(
            "SELECT count(*) FROM (SELECT taken FROM readout WHERE meter = ? "  # noqa: S608
            f"AND misdated = 0 AND +source = {LIVE} AND taken > ? LIMIT ?)",
            (self._meter, taken, _MOST_COUNTED),
        ).fetchone()
        return int(count)

    def _name(self) -> str:
        (name,) = self._database.execute(
            "SELECT name FROM meter WHERE id = ?", (self._meter,)
        ).fetchone()  # fmt: skip
        return str(name)

    def _is_complete(self) -> bool:
        """Whether no readout was removed yet."""
        (first,) = self._database.execute(
            "SELECT min(sequence) FROM readout WHERE sequence > 0"
        ).fetchone()
        return bool(first == 1)


def _said(taken: int) -> str:
    try:
        checked(taken)
    except RowError:  # a wrong byte
        return "an impossible time"
    return moment_of(taken).astimezone().isoformat(sep=" ", timespec="seconds")
