"""Writes readouts into the history, each as a row behind the last, or among the imported ones."""

import contextlib
import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.store.clock import RIGHT, judge
from kamstrup_mqtt.store.codec import IMPORT, LIVE, Row, encode, identity
from kamstrup_mqtt.store.meters import imported, met
from kamstrup_mqtt.store.rollup import keep_up, rebuild
from kamstrup_mqtt.store.rows import readouts

_IMPORT = 1 << 40  # numbers for each import
_MOST = 1 << 53  # readouts of a meter, and beyond what JSON of others can count to

_log = logging.getLogger(__name__)


class Written(NamedTuple):
    """What became of a live readout.

    Args:
        sequence: its place in the order of all.
        meter_sequence: its number among the live ones of its meter.
        is_renamed: whether its meter had another name until now.

    """

    sequence: int
    meter_sequence: int
    is_renamed: bool


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All that is written in the block, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def write_next(
    database: sqlite3.Connection, name: str, row: Row, names: Collection[str] = ()
) -> Written:
    """Write a live readout behind the last.

    Args:
        database: within a transaction.
        name: the configured name of its meter.
        row: the readout.
        names: all configured names. What was read under one that is gone belongs to the new name
            of its meter.

    """
    meter, is_renamed = met(database, name, identity(row.identity), names)
    misdated = judge(database, meter, row.taken)
    number = _next_number(database, meter)
    taken = row.taken
    while _is_there(database, meter, LIVE, taken):  # a clock that stands still, or was set
        taken += 1
    sequence = _insert(
        database, None, meter,
        row._replace(taken=taken, misdated=misdated, source=LIVE, meter_sequence=number),
    )  # fmt: skip
    database.execute(
        "UPDATE meter SET latest = ?, last_sequence = ? WHERE id = ?", (sequence, number, meter)
    )
    if misdated == RIGHT:
        keep_up(database, meter, row.taken)
    return Written(sequence, number, is_renamed)


def take_in(database: sqlite3.Connection, lines: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
    """Add older readouts below every cursor; gives how many were new, and how many were not."""
    added = known = 0
    (lowest,) = database.execute("SELECT min(sequence) FROM readout").fetchone()
    # Below every cursor, and rising, for that fills the file's pages.
    sequence = (min(0, lowest or 0) // _IMPORT - 1) * _IMPORT
    for name, readout in lines:
        meter = imported(database, name, readout.meter)
        row = encode(readout)
        there = _there(database, meter, row.taken)
        if any(one and readout.readings.items() <= one.readings.items() for one in there.values()):
            known += 1
            continue
        added += 1
        if IMPORT in there:  # of other parameters, or unreadable
            before = there[IMPORT]
            readings = {**(before.readings if before else {}), **readout.readings}
            row = encode(replace(readout, readings=readings))
            database.execute(
                "UPDATE readout SET layout = ?, digits = ? "
                "WHERE meter = ? AND source = ? AND taken = ?",
                (_layout(database, row.columns), row.digits, meter, IMPORT, row.taken),
            )
        else:
            sequence += 1
            _insert(database, sequence, meter, row._replace(source=IMPORT))
    rebuild(database)
    return added, known


def _next_number(database: sqlite3.Connection, meter: int) -> int:
    """The number of the next live readout of a meter; a wrong byte does not begin it anew."""
    (last,) = database.execute(
        "SELECT last_sequence FROM meter WHERE id = ?", (meter,)
    ).fetchone()  # fmt: skip
    if not isinstance(last, int) or not 0 <= last < _MOST:
        (last,) = database.execute(
            "SELECT max(meter_sequence) FROM readout WHERE meter = ? AND meter_sequence < ?",
            (meter, _MOST),
        ).fetchone()
    return (last or 0) + 1


def _insert(database: sqlite3.Connection, sequence: int | None, meter: int, row: Row) -> int:
    """Write a readout under the next place in the order, or another one, and give that."""
    written = database.execute(
        "INSERT INTO readout (sequence, meter, layout, taken, utc_offset, digits, misdated, "
        "source, meter_sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (sequence, meter, _layout(database, row.columns), *row[2:]),
    ).lastrowid
    return written or 0


def _is_there(database: sqlite3.Connection, meter: int, source: int, taken: int) -> bool:
    """Whether there is a row of that key, though perhaps one that cannot be read."""
    query = "SELECT 1 FROM readout WHERE meter = ? AND source = ? AND taken = ?"
    return database.execute(query, (meter, source, taken)).fetchone() is not None


def _there(database: sqlite3.Connection, meter: int, taken: int) -> dict[int, Readout | None]:
    """The live and the imported readout of a meter and moment; None for one that is unreadable."""
    found: dict[int, Readout | None] = {}
    for source in (LIVE, IMPORT):
        if _is_there(database, meter, source, taken):
            where = "WHERE readout.meter = ? AND source = ? AND taken = ?"
            rows = readouts(database, where, meter, source, taken)
            found[source] = next((one.readout for one in rows), None)
    return found


def _layout(database: sqlite3.Connection, columns: str) -> int:
    """The id of a layout, which is made if it is missing, and mended if a wrong byte changed it."""
    query = "SELECT id FROM layout WHERE columns = ?"
    found = database.execute(query, (columns,)).fetchone()
    if found is None:
        return database.execute(
            "INSERT INTO layout (columns) VALUES (?)", (columns,)
        ).lastrowid or 0  # fmt: skip
    (there,) = database.execute("SELECT columns FROM layout WHERE id = ?", found).fetchone()
    if there != columns:
        database.execute("REINDEX layout")
        database.execute("UPDATE layout SET columns = ? WHERE id = ?", (columns, *found))
        _log.warning("The history had a wrong byte in its table layout, which is mended")
    return int(found[0])
