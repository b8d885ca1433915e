"""The meters of a history: the serial number is the meter, and its configured name is a label.

With what is kept of each: what was set at run time, and what it left out when it was asked.
"""

import json
import logging
import sqlite3
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.readout import Lacking, MeterIdentity
from kamstrup_mqtt.store.codec import RowError, identity

_log = logging.getLogger(__name__)


class KnownMeter(NamedTuple):
    """The id of a meter, and whether it was read under another name until now."""

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


def find_or_add(
    database: sqlite3.Connection, name: str, who: MeterIdentity, names: Collection[str],
    held: Collection[str] = (),
) -> KnownMeter:  # fmt: skip
    """The meter that was read under this configured name; kept up to date, or new.

    Args:
        database: within a transaction.
        name: its name now.
        who: what it says of itself now.
        names: all configured names. What has one that is gone gets the new one of its meter.
        held: names that are read as this very meter too, and so keep it.

    """
    meter, label = _known(database, name, who)
    if label == name or label in held:
        return KnownMeter(meter)
    is_last = _last_of(database, str(label)) == meter
    database.execute("UPDATE meter SET name = ? WHERE id = ?", (name, meter))
    if names and label not in names:
        if is_last:  # those that were there before it, and what did not say who it was
            database.execute("UPDATE meter SET name = ? WHERE name = ?", (name, label))
        _log.info("Meter %s is now called %s; its history goes with it", label, name)
    return KnownMeter(meter, is_renamed=True)


def find_for_import(database: sqlite3.Connection, name: str, who: MeterIdentity) -> int:
    """The id of the meter of an imported readout; without a serial number, the only so named.

    Raises:
        UsageError: there are several.

    """
    if who.serial is None:
        known = database.execute(
            "SELECT id, serial FROM meter WHERE name = ? AND serial IS NOT NULL", (name,)
        ).fetchall()
        if len(known) > 1:
            serials = ", ".join(str(serial) for _, serial in known)
            raise UsageError(f"{name} was more than one meter: name one with --serial: {serials}")
        if known:
            return int(known[0][0])
    return _known(database, name, who, is_import=True)[0]


def nameless(database: sqlite3.Connection, name: str) -> int | None:
    """The id of what was read under this name while nobody told a serial number."""
    row = database.execute(
        "SELECT id FROM meter WHERE name = ? AND serial IS NULL ORDER BY latest DESC", (name,)
    ).fetchone()
    return row[0] if row else None


def lacking(database: sqlite3.Connection) -> Lacking:
    """What meters left out when they were asked, and when."""
    found: Lacking = {}
    for serial, revision, register, since in database.execute(
        "SELECT serial, revision, register, since FROM lacking"
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


def setting(database: sqlite3.Connection, name: str, key: str) -> str | None:
    """What was set at run time for the meter that was read last under this name, or None."""
    row = database.execute(
        "SELECT value FROM setting WHERE meter = ? AND name = ?", (_last_of(database, name), key)
    ).fetchone()
    return str(row[0]) if row else None


def set_setting(database: sqlite3.Connection, name: str, key: str, value: str) -> None:
    """Keep what was set at run time for the meter of this name; within a transaction."""
    meter = _last_of(database, name)
    if meter is None:  # it was not read yet
        meter, _ = _known(database, name, MeterIdentity())
    database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?, ?)", (meter, key, value))


def _last_of(database: sqlite3.Connection, name: str) -> int | None:
    """The id of the meter that was read last under this name, if one told who it is that one."""
    row = database.execute(
        "SELECT id FROM meter WHERE name = ? ORDER BY serial IS NULL, latest DESC, id DESC", (name,)
    ).fetchone()
    return row[0] if row else None


def _known(
    database: sqlite3.Connection, name: str, who: MeterIdentity, *, is_import: bool = False
) -> tuple[int, object]:
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
        return _add(database, name, who), name
    meter, serial, label, told = row
    if serial != who.serial:
        database.execute("REINDEX meter")
        database.execute("UPDATE meter SET serial = ? WHERE id = ?", (who.serial, meter))
        _log.warning("The history had a wrong byte in its table meter, which is mended")
    now = json.dumps(_merged(told, who, is_older=is_import).to_dict())
    if now != told:
        database.execute("UPDATE meter SET identity = ? WHERE id = ?", (now, meter))
    return int(meter), label


def _add(database: sqlite3.Connection, name: str, who: MeterIdentity) -> int:
    """A new meter; the first one of a name gets what was imported or set for it before.

    But no readout in which nobody said who it is: that may have been another one.
    """
    before, told = _last_of(database, name), json.dumps(who.to_dict())
    unread = "SELECT 1 FROM meter WHERE id = ? AND serial IS NULL AND latest IS NULL"
    if who.serial and before and database.execute(unread, (before,)).fetchone():
        database.execute(
            "UPDATE meter SET serial = ?, identity = ? WHERE id = ?", (who.serial, told, before)
        )
        return before
    added = database.execute(
        "INSERT INTO meter (serial, name, identity) VALUES (?, ?, ?)", (who.serial, name, told)
    ).lastrowid
    database.execute(  # what was set goes on, for it was set for whatever has that name
        "INSERT OR IGNORE INTO setting SELECT ?, name, value FROM setting WHERE meter = ?",
        (added, before),
    )
    return added or 0


def _merged(told: object, who: MeterIdentity, *, is_older: bool) -> MeterIdentity:
    """What a meter says of itself, with what it said before where it says nothing now."""
    try:
        before = identity(str(told))
    except RowError:
        return who
    if before.serial != who.serial:
        return who
    first, second = (before, who) if is_older else (who, before)
    return MeterIdentity(
        who.serial, first.type_code or second.type_code, first.revision or second.revision,
        first.model or second.model,
    )  # fmt: skip
