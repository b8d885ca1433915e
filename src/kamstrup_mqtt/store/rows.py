"""Rows of the history as readouts. One that cannot be read costs only itself, and is told once."""

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.store.codec import (
    LIVE,
    SOURCES,
    Row,
    RowError,
    checked,
    decode,
    number_in,
    source_in,
    text_in,
)

# Readouts with their number and the meter's configured name; the rest are the fields of a `Row`.
# What a wrong byte took the meter or layout from is found too, so that it can be told.
READOUTS = (
    "SELECT sequence, name, identity, columns, taken, utc_offset, digits, misdated, source, "
    "meter_sequence FROM readout LEFT JOIN meter ON meter.id = readout.meter "
    "LEFT JOIN layout ON layout.id = readout.layout "
)
_LOOKED_AT = 1000  # readouts, for the last full one
_MOST_TOLD = 20  # rows of one file that are named in the log

_log = logging.getLogger(__name__)
_told: dict[str, set[str]] = {}  # what was told of each file


@dataclass(frozen=True, slots=True)
class Stored:
    """A readout as stored.

    Args:
        sequence: its place in the order of all; 0 while it could not be written yet.
        meter: the configured name under which its meter was read last.
        readout: itself.
        source: where it comes from, one of `SOURCES`.
        meter_sequence: its number among the live readouts of its meter, without gaps; None for
            all others.

    """

    sequence: int
    meter: str
    readout: Readout
    source: str = SOURCES[LIVE]
    meter_sequence: int | None = None

    def to_json(self, history: str | None) -> str:
        """One JSON object, as on `<topic>/values`, of the history with that id."""
        return self.readout.to_json(sequence=self.meter_sequence, history=history)


def as_text(raw: bytes) -> str | bytes:
    """Text from the disk; what is none stays bytes, which whoever uses it finds out."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def tell(database: sqlite3.Connection, what: str, error: Exception) -> None:
    """Log that something in the file cannot be read and is left out, but only once."""
    path = next(
        (path for _, name, path in database.execute("PRAGMA database_list") if name == "main")
    )
    told = _told.setdefault(path, set())
    if what in told or len(told) > _MOST_TOLD:
        return
    told.add(what)
    if len(told) > _MOST_TOLD:
        _log.warning("History %s: more cannot be read, and is left out too", path)
    else:
        _log.warning("History %s: %s cannot be read, and is left out: %s", path, what, error)


def readouts(
    database: sqlite3.Connection, rest: str, *arguments: object, most: int | None = None
) -> Iterator[Stored]:
    """The readouts that `rest` of the query selects, at most so many, without the unreadable."""
    if most is not None and most <= 0:
        return
    for sequence, name, *columns in database.execute(f"{READOUTS} {rest}", arguments):
        row = Row(*columns)
        try:
            source, number = source_in(row.source), number_in(row.meter_sequence)
            found = Stored(sequence, text_in(name), decode(row), source, number)
        except RowError as error:
            tell(database, f"readout {sequence}", error)
            continue
        yield found
        if most is not None:
            most -= 1
            if most == 0:
                return


def latest(
    database: sqlite3.Connection, ids: Sequence[int], registers: Iterable[int] = ()
) -> Stored | None:
    """The last readout of these meters that was not imported, by order; no time is to be trusted.

    With `registers`, the last one in which all of them were asked for, among the last thousand.
    """
    marks = ", ".join("?" * len(ids))
    query = f"SELECT latest FROM meter WHERE id IN ({marks})"  # noqa: S608 - question marks
    lasts = database.execute(query, ids)
    last = max((one for (one,) in lasts if isinstance(one, int)), default=0)
    found = readouts(
        database,
        f"WHERE sequence <= ? AND sequence > 0 AND +readout.meter IN ({marks}) "
        "ORDER BY sequence DESC",
        last, *ids, most=_LOOKED_AT,
    )  # fmt: skip
    return next((one for one in found if one.readout.covers(registers)), None)


def raw_rows(
    database: sqlite3.Connection, meter: int, begin: int, end: int
) -> Iterator[tuple[int, str, int, int, str]]:
    """Readouts as they are kept, oldest first, from `begin` to before `end`.

    Number, columns, time, seconds of their zone, and digits; without those whose time is wrong.
    Columns and digits may hold anything.
    """
    rows = database.execute(
        "SELECT sequence, columns, taken, utc_offset, digits FROM readout "
        "LEFT JOIN layout ON layout.id = readout.layout "
        "WHERE meter = ? AND misdated = 0 AND taken >= ? AND taken < ? ORDER BY taken",
        (meter, begin, end),
    )
    for sequence, columns, taken, utc_offset, digits in rows:
        try:
            checked(taken)
        except RowError as error:
            tell(database, f"readout {sequence}", error)
            continue
        yield sequence, columns, taken, utc_offset if isinstance(utc_offset, int) else 0, digits
