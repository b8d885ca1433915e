"""Writes readouts into the history, each as a row behind the last, or among the imported ones."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator

from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.store.clock import RIGHT, judge
from kamstrup_mqtt.store.codec import Row, encode
from kamstrup_mqtt.store.rollup import keep_up, rebuild
from kamstrup_mqtt.store.rows import readouts

_IMPORT = 1 << 40  # numbers for each import
_NAMES = {"meter": ("name", "identity"), "layout": ("columns",)}

_log = logging.getLogger(__name__)


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


def write_next(database: sqlite3.Connection, meter: str, row: Row) -> int:
    """Write a readout of the meter with this configured name behind the last; gives its number."""
    number = _number(database, "meter", meter, row.identity)
    misdated = judge(database, meter, row.taken)
    sequence = _insert(database, None, number, row._replace(misdated=misdated))
    database.execute("UPDATE meter SET latest = ? WHERE id = ?", (sequence, number))
    if misdated == RIGHT:
        keep_up(database, number, row.taken)
    return sequence


def take_in(database: sqlite3.Connection, lines: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
    """Add older readouts below every cursor; gives how many were new, and how many were not."""
    added = known = 0
    (lowest,) = database.execute("SELECT min(sequence) FROM readout").fetchone()
    # Below every cursor, and rising, for that fills the file's pages.
    sequence = (min(0, lowest or 0) // _IMPORT - 1) * _IMPORT
    for meter, readout in lines:
        row = encode(readout)
        if _is_known(database, meter, row.taken, readout):
            known += 1
            continue
        sequence += 1
        added += 1
        _insert(database, sequence, _number(database, "meter", meter, row.identity), row)
    rebuild(database)
    return added, known


def _insert(database: sqlite3.Connection, sequence: int | None, meter: int, row: Row) -> int:
    """Write a readout under the next number, or another one, and give that."""
    layout = _number(database, "layout", row.columns)
    written = database.execute(
        "INSERT INTO readout (sequence, meter, layout, taken, utc_offset, digits, misdated) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (sequence, meter, layout, row.taken, row.utc_offset, row.digits, row.misdated),
    ).lastrowid
    return written or 0


def _is_known(database: sqlite3.Connection, meter: str, taken: int, readout: Readout) -> bool:
    """Whether the values of `readout` are there, in one of that name and moment."""
    there = readouts(
        database,
        "WHERE readout.meter IN (SELECT id FROM meter WHERE name = ?) "
        "AND misdated IN (0, 1, 2) AND taken = ?",
        meter,
        taken,
    )
    return any(readout.readings.items() <= one.readout.readings.items() for one in there)


def _number(database: sqlite3.Connection, table: str, *values: str) -> int:
    """The id of the row with these values, which is made if it is missing, and mended if it is not.

    The index still knows what was in a row that a wrong byte has changed.
    """
    names = _NAMES[table]
    where = " AND ".join(f"{name} = ?" for name in names)
    found = database.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()  # noqa: S608
    if found is None:
        marks = ", ".join("?" * len(values))
        database.execute(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})",  # noqa: S608
            values,
        )
        found = database.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()  # noqa: S608
    there = database.execute(
        f"SELECT {', '.join(names)} FROM {table} WHERE id = ?", found  # noqa: S608
    ).fetchone()  # fmt: skip
    if there != values:
        database.execute(f"REINDEX {table}")
        database.execute(
            f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?",  # noqa: S608
            (*values, *found),
        )
        _log.warning("The history had a wrong byte in its table %s, which is mended", table)
    return int(found[0])
