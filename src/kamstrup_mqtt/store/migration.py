"""Files of older versions, made into one of this: what SQL alone cannot say.

Before version 4 a meter was a configured name together with all that it said of itself, so that a
new name, or a type that was told later, made another one. Now its serial number is the meter.
"""

import sqlite3
from collections import defaultdict
from typing import NamedTuple

from kamstrup_mqtt.store.codec import FIRST, LAST, LIVE, RowError, identity
from kamstrup_mqtt.store.meters import set_setting
from kamstrup_mqtt.store.rollup import MOST_HOURS, hour_of, join_hours, roll_up_between


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
    latest = {str(one.name): one for one in sorted(old, key=lambda one: one.order)}
    for name, one in sorted(latest.items(), key=lambda item: item[1].order):
        database.execute(
            "INSERT OR REPLACE INTO doubt_4 SELECT ?, after, begin, until, newest, earlier, later, "
            "believed FROM doubt WHERE name = ?",
            (kept[one.id], name),
        )
    for table in ("meter", "doubt"):
        database.execute(f"DROP TABLE {table}")
        database.execute(f"ALTER TABLE {table}_4 RENAME TO {table}")
    database.execute("CREATE UNIQUE INDEX meter_serial ON meter (serial) WHERE serial IS NOT NULL")
    database.execute("CREATE INDEX meter_name ON meter (name)")
    index = "CREATE UNIQUE INDEX readout_moment ON readout (meter, source, taken)"
    # What a wrong byte has dated, or not dated, is marked, and stands anywhere.
    database.execute(
        "UPDATE readout SET misdated = 1, taken = sequence "
        "WHERE typeof(taken) <> 'integer' OR taken NOT BETWEEN ? AND ?",
        (FIRST, LAST),
    )
    try:
        database.execute(index)
    except sqlite3.IntegrityError:
        _bump_twins(database)
        database.execute(index)


def to_version_5(database: sqlite3.Connection) -> None:
    """Give what was set for a name to the meter that was read last under it."""
    rows = database.execute("SELECT meter, name, value FROM setting").fetchall()
    database.execute("DROP TABLE setting")
    database.execute("ALTER TABLE setting_5 RENAME TO setting")
    for meter, name, value in rows:
        set_setting(database, str(meter), str(name), str(value))


def _join(database: sqlite3.Connection, serial: str | None, its: list[_Old]) -> int:
    """Make one meter of rows that are the same: the one that was read most, whose id it gives."""
    counts = {one.id: _count(database, one.id) for one in its}
    kept = max(its, key=lambda one: (counts[one.id], one.order))
    told = [one for one in its if one.serial is not None] or its
    newest = max(told, key=lambda one: one.order)
    rolled = [int(str(one.rolled)) for one in its if _is_hour(one.rolled)]
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
    begins = [begin for one in its if (begin := _last_rolled(database, one)) is not None]
    begins = [min(begins)] if begins and len(its) > 1 else []
    for one in its:
        if one is not kept:
            database.execute("UPDATE readout SET meter = ? WHERE meter = ?", (kept.id, one.id))
            join_hours(database, one.id, kept.id)
    # What one of them had not rolled up yet may lie before what another had.
    for begin in begins if rolled else []:
        roll_up_between(database, kept.id, begin, max(rolled))
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


def _last_rolled(database: sqlite3.Connection, one: _Old) -> int | None:
    """The last hour of a row that needs no rolling up; None where none of it does."""
    if _is_hour(one.rolled):
        return int(str(one.rolled))
    (oldest,) = database.execute(
        "SELECT min(taken) FROM readout WHERE meter = ? AND misdated = 0", (one.id,)
    ).fetchone()
    return hour_of(oldest) - 1 if isinstance(oldest, int) else None


def _is_hour(rolled: object) -> bool:
    return isinstance(rolled, int) and abs(rolled) < MOST_HOURS


def _number_undelivered(database: sqlite3.Connection) -> None:
    """Number the live readouts that no output has got yet, those of each meter from 1."""
    (delivered,) = database.execute("SELECT min(sequence) FROM cursor").fetchone()
    database.execute(
        "UPDATE readout SET meter_sequence = number FROM (SELECT sequence AS its, "
        "row_number() OVER (PARTITION BY meter ORDER BY sequence) AS number "
        "FROM readout WHERE sequence > ? AND source = ?) WHERE sequence = its",
        (max(delivered, 0) if isinstance(delivered, int) else 0, LIVE),
    )
    database.execute(
        "UPDATE meter_4 SET last_sequence = latest_number FROM (SELECT meter AS whose, "
        "max(meter_sequence) AS latest_number FROM readout WHERE meter_sequence > 0 "
        "GROUP BY meter) WHERE id = whose"
    )


MIGRATIONS = {4: to_version_4, 5: to_version_5}  # what a step does behind its schema
