"""Writes readouts into the history, each as a row behind the last, or among the imported ones."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.store.clock import RIGHT, judge
from kamstrup_mqtt.store.codec import IMPORT, LIVE, Row, RowError, encode, identity
from kamstrup_mqtt.store.rollup import keep_up, rebuild
from kamstrup_mqtt.store.rows import ids_of, readouts

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
    database: sqlite3.Connection, name: str, row: Row, names: Collection[str] = ()
) -> tuple[int, int]:
    """Write a live readout behind the last.

    Args:
        database: within a transaction.
        name: the configured name of its meter.
        row: the readout.
        names: all configured names. What was read under one that is gone belongs to the new name
            of its meter.

    Returns:
        Its place in the order of all, and its number among the live ones of its meter.

    """
    meter = _meter(database, name, identity(row.identity), names)
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
    return sequence, number


def take_in(database: sqlite3.Connection, lines: Iterable[tuple[str, Readout]]) -> tuple[int, int]:
    """Add older readouts below every cursor; gives how many were new, and how many were not."""
    added = known = 0
    (lowest,) = database.execute("SELECT min(sequence) FROM readout").fetchone()
    # Below every cursor, and rising, for that fills the file's pages.
    sequence = (min(0, lowest or 0) // _IMPORT - 1) * _IMPORT
    for name, readout in lines:
        meter = _whose(database, name, readout.meter)
        row = encode(readout)
        there = [_at(database, meter, source, row.taken) for source in (LIVE, IMPORT)]
        if any(one and readout.readings.items() <= one.readings.items() for one in there):
            known += 1
            continue
        added += 1
        if _is_there(database, meter, IMPORT, row.taken):  # of other parameters, or unreadable
            readings = {**(there[-1].readings if there[-1] else {}), **readout.readings}
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


def _at(database: sqlite3.Connection, meter: int, source: int, taken: int) -> Readout | None:
    """The readout of a meter from that source and of that moment."""
    found = readouts(
        database, "WHERE readout.meter = ? AND source = ? AND taken = ?", meter, source, taken
    )
    return next((one.readout for one in found), None)


def _whose(database: sqlite3.Connection, name: str, who: MeterIdentity) -> int:
    """The id of the meter of an imported readout; without a serial number, the only so named."""
    if who.serial is None:
        known = [
            one for one in ids_of(database, name)
            if database.execute("SELECT serial FROM meter WHERE id = ?", (one,)).fetchone()[0]
        ]  # fmt: skip
        if len(known) == 1:
            return known[0]
    return _meter(database, name, who, (), is_live=False)


def _meter(
    database: sqlite3.Connection, name: str, who: MeterIdentity, names: Collection[str],
    *, is_live: bool = True,
) -> int:  # fmt: skip
    """The id of a meter, which is made if it is missing; its name and type are kept up to date.

    The index still knows what was in a row that a wrong byte has changed.
    """
    who = replace(who, serial=who.serial or None)
    where, key = ("serial = ?", who.serial) if who.serial else ("serial IS NULL AND name = ?", name)
    query = f"SELECT id, serial, name, identity FROM meter WHERE {where}"  # noqa: S608
    row = database.execute(query, (key,)).fetchone()
    if row is None:
        told = json.dumps(who.to_dict())
        return database.execute(
            "INSERT INTO meter (serial, name, identity) VALUES (?, ?, ?)", (who.serial, name, told)
        ).lastrowid or 0  # fmt: skip
    meter, serial, label, told = row
    if serial != who.serial:
        database.execute("REINDEX meter")
        database.execute("UPDATE meter SET serial = ? WHERE id = ?", (who.serial, meter))
        _log.warning("The history had a wrong byte in its table meter, which is mended")
    now = json.dumps(_merged(told, who).to_dict())
    if now != told:
        database.execute("UPDATE meter SET identity = ? WHERE id = ?", (now, meter))
    if label != name and is_live:
        database.execute("UPDATE meter SET name = ? WHERE id = ?", (name, meter))
        if names and label not in names:
            _rename(database, label, name)
    return int(meter)


def _merged(told: object, who: MeterIdentity) -> MeterIdentity:
    """What a meter says of itself, with what it said before where it says nothing now."""
    try:
        before = identity(str(told))
    except RowError:
        return who
    if before.serial != who.serial:
        return who
    return MeterIdentity(
        who.serial, who.type_code or before.type_code, who.revision or before.revision,
        who.model or before.model,
    )  # fmt: skip


def _rename(database: sqlite3.Connection, old: object, new: str) -> None:
    """Give all that has a name that is no longer configured the new name of its meter."""
    database.execute("UPDATE meter SET name = ? WHERE name = ? AND serial IS NOT NULL", (new, old))
    database.execute(
        "UPDATE OR IGNORE meter SET name = ? WHERE name = ? AND serial IS NULL", (new, old)
    )
    database.execute("UPDATE OR IGNORE setting SET meter = ? WHERE meter = ?", (new, old))
    _log.info("%s is called %s from now on, with all that was read of it", old, new)


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
