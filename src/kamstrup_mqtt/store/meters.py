"""The meters of a history: the serial number is the meter, and its configured name is a label.

With what is kept of each: what it left out when it was asked, by its serial number and revision;
and what was set at run time, by its name, for that is what a command is given for.
"""

import json
import logging
import sqlite3
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from kamstrup_mqtt.readout import Lacking, MeterIdentity
from kamstrup_mqtt.store.codec import RowError, identity

_log = logging.getLogger(__name__)


class Met(NamedTuple):
    """The id of a meter, and whether it had another name until now, one that is gone."""

    id: int
    is_renamed: bool = False


def ids_of(database: sqlite3.Connection, meter: str) -> list[int]:
    """The ids of the meters that were read under this name, latest last.

    Without any, the one with this serial number.
    """
    rows = database.execute(
        "SELECT id FROM meter WHERE name = ? ORDER BY latest, id", (meter,)
    ).fetchall()
    if not rows:
        rows = database.execute("SELECT id FROM meter WHERE serial = ?", (meter,)).fetchall()
    return [number for (number,) in rows]


def met(database: sqlite3.Connection, name: str, who: MeterIdentity, names: Collection[str]) -> Met:
    """The meter that was read under this configured name; kept up to date, or new.

    Args:
        database: within a transaction.
        name: its name now.
        who: what it says of itself now.
        names: all configured names. What has one that is gone gets the new one of its meter.

    """
    meter, label = _known(database, name, who)
    if label == name:
        return Met(meter)
    database.execute("UPDATE meter SET name = ? WHERE id = ?", (name, meter))
    if not names or label in names:
        return Met(meter)
    for table, column in (("meter", "name"), ("setting", "meter")):
        database.execute(
            f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {column} = ?",  # noqa: S608
            (name, label),
        )
    database.execute("DELETE FROM setting WHERE meter = ?", (label,))
    _log.info("%s is called %s from now on, with all that was read of it", label, name)
    return Met(meter, is_renamed=True)


def imported(database: sqlite3.Connection, name: str, who: MeterIdentity) -> int:
    """The id of the meter of an imported readout; without a serial number, the only so named."""
    if who.serial is None:
        known = database.execute(
            "SELECT id FROM meter WHERE name = ? AND serial IS NOT NULL", (name,)
        ).fetchall()
        if len(known) == 1:
            return int(known[0][0])
    return _known(database, name, who)[0]


def lacking(database: sqlite3.Connection, name: str) -> Lacking:
    """What the meters that were read under this name left out, and when."""
    found: Lacking = {}
    for serial, revision, register, since in database.execute(
        "SELECT lacking.serial, revision, register, since FROM lacking "
        "JOIN meter ON meter.serial = lacking.serial WHERE name = ?",
        (name,),
    ):
        if isinstance(since, int) and isinstance(register, int):
            found.setdefault((serial, revision), {})[register] = since
    return found


def note_lacking(database: sqlite3.Connection, found: Lacking) -> None:
    """Keep what meters left out, besides what is kept of them already; within a transaction."""
    database.executemany(
        "INSERT OR REPLACE INTO lacking VALUES (?, ?, ?, ?)",
        [
            (serial, revision, register, int(since))
            for (serial, revision), registers in found.items()
            for register, since in registers.items()
            if serial
        ],
    )


def setting(database: sqlite3.Connection, meter: str, name: str) -> str | None:
    """What was set at run time for the meter with this configured name; None if nothing."""
    row = database.execute(
        "SELECT value FROM setting WHERE meter = ? AND name = ?", (meter, name)
    ).fetchone()  # fmt: skip
    return str(row[0]) if row else None


def set_setting(database: sqlite3.Connection, meter: str, name: str, value: str) -> None:
    """Keep what was set at run time."""
    database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?, ?)", (meter, name, value))


def _known(database: sqlite3.Connection, name: str, who: MeterIdentity) -> tuple[int, object]:
    """The id of a meter and its label, after what it says of itself is noted.

    The index still knows what was in a row that a wrong byte has changed.
    """
    who = replace(who, serial=who.serial or None)
    where, key = ("serial = ?", who.serial) if who.serial else ("serial IS NULL AND name = ?", name)
    row = database.execute(
        f"SELECT id, serial, name, identity FROM meter WHERE {where} "  # noqa: S608 - our own words
        "ORDER BY latest DESC",
        (key,),
    ).fetchone()
    if row is None:
        added = database.execute(
            "INSERT INTO meter (serial, name, identity) VALUES (?, ?, ?)",
            (who.serial, name, json.dumps(who.to_dict())),
        )
        return added.lastrowid or 0, name
    meter, serial, label, told = row
    if serial != who.serial:
        database.execute("REINDEX meter")
        database.execute("UPDATE meter SET serial = ? WHERE id = ?", (who.serial, meter))
        _log.warning("The history had a wrong byte in its table meter, which is mended")
    now = json.dumps(_merged(told, who).to_dict())
    if now != told:
        database.execute("UPDATE meter SET identity = ? WHERE id = ?", (now, meter))
    return int(meter), label


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
