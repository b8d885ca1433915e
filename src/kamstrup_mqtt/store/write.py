"""Writes readouts into the history, each as a row behind the last, or among the imported ones."""

import contextlib
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.store.clock import RIGHT, judge
from kamstrup_mqtt.store.codec import IMPORT, LIVE, Row, encode
from kamstrup_mqtt.store.meters import find_for_import, find_or_add, nameless
from kamstrup_mqtt.store.queue import Key, key_of
from kamstrup_mqtt.store.rollup import hour_of, keep_up, roll_up_imported
from kamstrup_mqtt.store.rows import Stored, readouts

_IMPORT = 1 << 40  # numbers for each import
_MOST = 1 << 53  # readouts of a meter, and beyond what JSON of others can count to

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


def write_next(
    database: sqlite3.Connection, stored: Stored, names: Collection[str] = (),
    held: Collection[str] = (),
) -> bool:  # fmt: skip
    """Write a live readout under its numbers; whether its meter had another name until now.

    Args:
        database: within a transaction.
        stored: the readout.
        names: all configured names. What was read under one that is gone belongs to the new name
            of its meter.
        held: other names under which the very same meter is read.

    """
    row = encode(stored.readout)
    meter, is_renamed = find_or_add(database, stored.meter, stored.readout.meter, names, held)
    misdated = judge(database, meter, row.taken)
    taken = row.taken
    while _is_there(database, meter, LIVE, taken):  # a clock that stands still, or was set
        taken += 1
    _insert(
        database, stored.sequence, meter,
        row._replace(
            taken=taken, misdated=misdated, source=LIVE, meter_sequence=stored.meter_sequence
        ),
    )  # fmt: skip
    database.execute(
        "UPDATE meter SET latest = ?, last_sequence = ? WHERE id = ?",
        (stored.sequence, stored.meter_sequence, meter),
    )
    if misdated == RIGHT:
        keep_up(database, meter, row.taken)
    return is_renamed


def numbers_of(database: sqlite3.Connection) -> tuple[int, dict[Key, int]]:
    """The number of the last readout, and of the last one of each meter.

    A wrong byte does not begin them anew.
    """
    lasts = database.execute(
        "SELECT max(sequence) FROM readout UNION ALL SELECT max(sequence) FROM cursor "
        "UNION ALL SELECT max(sequence) FROM ahead "
        "UNION ALL SELECT seq FROM sqlite_sequence WHERE name = 'readout'"
    ).fetchall()
    last = max((one for (one,) in lasts if isinstance(one, int) and one < _MOST), default=0)
    numbers: dict[Key, int] = {}
    for meter, serial, name, number in database.execute(
        "SELECT id, serial, name, last_sequence FROM meter"
    ).fetchall():
        if not isinstance(number, int) or not 0 <= number < _MOST:
            (number,) = database.execute(  # noqa: PLW2901
                "SELECT max(meter_sequence) FROM readout WHERE meter = ? AND meter_sequence < ?",
                (meter, _MOST),
            ).fetchone()
        key = key_of(str(name), MeterIdentity(serial))
        numbers[key] = max(number or 0, numbers.get(key, 0))
    return max(last, 0), numbers


def is_written(database: sqlite3.Connection, stored: Stored) -> bool:
    """Whether a readout is in the file, under its numbers, as after an unclear end of a write."""
    row = database.execute(
        "SELECT meter_sequence, digits FROM readout WHERE sequence = ?", (stored.sequence,)
    ).fetchone()
    return row is not None and row == (stored.meter_sequence, encode(stored.readout).digits)


def take_in(database: sqlite3.Connection, lines: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
    """Add older readouts below every cursor; gives how many were new, and how many were not."""
    added = known = 0
    hours: dict[int, set[int]] = defaultdict(set)  # into which something came, by meter
    (lowest,) = database.execute("SELECT min(sequence) FROM readout").fetchone()
    # Below every cursor, and rising, for that fills the file's pages.
    sequence = (min(0, lowest or 0) // _IMPORT - 1) * _IMPORT
    for name, readout in lines:
        meter = find_for_import(database, name, readout.meter)
        row = encode(readout)
        there = _there(database, meter, row.taken)
        found = [*there.values()]
        if readout.meter.serial is None and (other := nameless(database, name)) is not None:
            found += _there(database, other, row.taken).values()
        if any(one and readout.readings.items() <= one.readings.items() for one in found):
            known += 1
            continue
        hours[meter].add(hour_of(row.taken))
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
    for meter, touched in hours.items():
        roll_up_imported(database, meter, touched)
    return added, known


def _insert(database: sqlite3.Connection, sequence: int, meter: int, row: Row) -> None:
    """Write a readout under that number."""
    database.execute(
        "INSERT INTO readout (sequence, meter, layout, taken, utc_offset, digits, misdated, "
        "source, meter_sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (sequence, meter, _layout(database, row.columns), *row[2:]),
    )


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
