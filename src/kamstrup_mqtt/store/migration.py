"""Files of older versions, made into one of this: what SQL alone cannot say.

Before version 4 a meter was a configured name together with all that it said of itself, so that a
new name, or a type that was told later, made another one. Now its serial number is the meter.
"""

import sqlite3
from collections import defaultdict
from typing import NamedTuple

from kamstrup_mqtt.store.codec import LIVE, RowError, identity
from kamstrup_mqtt.store.rollup import join_hours, roll_up_between

_MOST_HOURS = 1 << 27  # since 1970: beyond every year that has a date


class _Old(NamedTuple):
    """A row of the table of meters before version 4."""

    id: int
    name: object
    identity: object
    rolled: object
    latest: object

    @property
    def serial(self) -> str | None:
        """Its serial number, where that can be read."""
        try:
            return identity(str(self.identity)).serial
        except RowError:
            return None

    @property
    def order(self) -> tuple[int, int]:
        """Later for who was read later."""
        return (self.latest if isinstance(self.latest, int) else 0, self.id)


def to_version_4(database: sqlite3.Connection) -> None:
    """Join the rows of each meter; within the transaction that has made the new tables."""
    rows = "SELECT id, name, identity, rolled, latest FROM meter ORDER BY id"
    old = [_Old(*row) for row in database.execute(rows)]
    serials: dict[str, set[str]] = defaultdict(set)  # by name
    for one in old:
        if one.serial is not None:
            serials[str(one.name)].add(one.serial)
    groups: dict[tuple[str | None, str], list[_Old]] = defaultdict(list)
    for one in old:
        serial, name = one.serial, str(one.name)
        if serial is None and len(serials[name]) == 1:  # what it did not tell now and then
            (serial,) = serials[name]
        groups[serial, "" if serial else name].append(one)
    kept: dict[int, int] = {}  # the id of each row's meter, by its own
    for (serial, _), its in groups.items():
        kept |= dict.fromkeys((one.id for one in its), _join(database, serial, its))
    _number_undelivered(database)
    last = {str(one.name): kept[one.id] for one in sorted(old, key=lambda one: one.order)}
    for name, meter in last.items():
        database.execute(
            "INSERT OR IGNORE INTO doubt_4 SELECT ?, after, begin, until, newest, earlier, later, "
            "believed FROM doubt WHERE name = ?",
            (meter, name),
        )
    for table in ("meter", "doubt"):
        database.execute(f"DROP TABLE {table}")
        database.execute(f"ALTER TABLE {table}_4 RENAME TO {table}")
    database.execute("CREATE UNIQUE INDEX meter_serial ON meter (serial) WHERE serial IS NOT NULL")
    database.execute("CREATE INDEX meter_name ON meter (name)")
    index = "CREATE UNIQUE INDEX readout_moment ON readout (meter, source, taken)"
    try:
        database.execute(index)
    except sqlite3.IntegrityError:
        _bump_twins(database)
        database.execute(index)


def _join(database: sqlite3.Connection, serial: str | None, its: list[_Old]) -> int:
    """Make one meter of rows that are the same: the one that was read most, whose id it gives."""
    counts = {one.id: _count(database, one.id) for one in its}
    kept = max(its, key=lambda one: (counts[one.id], one.order))
    told = [one for one in its if one.serial is not None] or its
    newest = max(told, key=lambda one: one.order)
    rolled = [
        one.rolled for one in its if isinstance(one.rolled, int) and abs(one.rolled) < _MOST_HOURS
    ]
    latest = max((one.latest for one in its if isinstance(one.latest, int)), default=None)
    database.execute(
        "INSERT INTO meter_4 (id, serial, name, identity, rolled, latest) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            kept.id,
            serial,
            str(newest.name),
            str(newest.identity),
            max(rolled, default=None),
            latest,
        ),
    )
    for one in its:
        if one is not kept:
            database.execute("UPDATE readout SET meter = ? WHERE meter = ?", (kept.id, one.id))
            join_hours(database, one.id, kept.id)
    if len(its) > 1 and rolled:
        # What one of them had not rolled up yet lies before what another had.
        first = min(rolled) if len(rolled) == len(its) else None
        roll_up_between(database, kept.id, first, max(rolled))
    return kept.id


def _count(database: sqlite3.Connection, meter: int) -> int:
    (count,) = database.execute(
        "SELECT count(*) FROM readout WHERE meter = ? AND misdated IN (0, 1, 2)", (meter,)
    ).fetchone()
    return int(count)


def _bump_twins(database: sqlite3.Connection) -> None:
    """Move readouts of the same meter and microsecond apart, by one each."""
    rows = database.execute(
        "SELECT sequence, meter, source, taken FROM readout ORDER BY meter, source, taken, sequence"
    )
    moved, last, latest = [], None, 0
    for sequence, *whose, taken in rows:
        if not isinstance(taken, int):  # a wrong byte
            continue
        latest = max(taken, latest + 1) if whose == last else taken
        last = whose
        if latest != taken:
            moved.append((latest, sequence))
    # Each into a place that the ones behind it have left.
    database.executemany("UPDATE readout SET taken = ? WHERE sequence = ?", reversed(moved))


def _number_undelivered(database: sqlite3.Connection) -> None:
    """Number the live readouts that no output has got yet, those of each meter from 1."""
    (delivered,) = database.execute("SELECT min(sequence) FROM cursor").fetchone()
    waiting = database.execute(
        "SELECT sequence, meter FROM readout WHERE sequence > ? AND source = ? ORDER BY sequence",
        (max(delivered, 0) if isinstance(delivered, int) else 0, LIVE),
    ).fetchall()
    last: dict[int, int] = defaultdict(int)
    for sequence, meter in waiting:
        last[meter] += 1
        database.execute(
            "UPDATE readout SET meter_sequence = ? WHERE sequence = ?", (last[meter], sequence)
        )
    database.executemany(
        "UPDATE meter_4 SET last_sequence = ? WHERE id = ?",
        [(count, meter) for meter, count in last.items()],
    )
