"""Looks whether a file is sound. A row that cannot be read does not make it unsound."""

import logging
import sqlite3

_UNREADABLE = "database disk image is malformed"  # of one row, for pages are checked before rows
_INDEXED = ("readout", "cursor")  # the index of others tells what a wrong byte has changed
_STRUCTURE = "***"  # how findings about pages begin

_log = logging.getLogger(__name__)


def check(database: sqlite3.Connection) -> None:
    """Look for damage, remove rows of which nothing can be read, and mend the index of the others.

    Raises:
        sqlite3.DatabaseError: the file is damaged beyond single rows.

    """
    found = _finding(database)
    if found == _UNREADABLE:
        _remove_unreadable(database)
        found = _finding(database)
    if found.startswith(_STRUCTURE) or found == _UNREADABLE:
        raise sqlite3.DatabaseError(f"malformed: {found}")
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
    for (table,) in database.execute(tables, _INDEXED).fetchall():
        findings = database.execute(f"PRAGMA integrity_check({table})").fetchall()
        if found := next((str(one) for (one,) in findings if "index" in str(one)), ""):
            database.execute(f"REINDEX {table}")
            _log.warning("The index of the history had a wrong byte (%s), and is made anew", found)


def _finding(database: sqlite3.Connection) -> str:
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    return str(found)


def _remove_unreadable(database: sqlite3.Connection) -> None:
    numbers = database.execute("SELECT sequence FROM readout NOT INDEXED").fetchall()
    lost = [number for number in numbers if not _is_readable(database, number)]
    indexes = database.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'readout'"
    ).fetchall()
    database.execute("BEGIN IMMEDIATE")
    for name, _ in indexes:  # they are made from the rows, and removing from them would read those
        database.execute(f"DROP INDEX {name}")
    database.executemany("DELETE FROM readout WHERE sequence = ?", lost)
    for _, sql in indexes:
        database.execute(sql)
    database.execute("COMMIT")
    shown = ", ".join(str(number) for (number,) in lost[:20])
    _log.warning("Of the history %d readouts were damaged and are lost: %s", len(lost), shown)


def _is_readable(database: sqlite3.Connection, number: tuple[int]) -> bool:
    try:
        database.execute("SELECT * FROM readout WHERE sequence = ?", number).fetchone()
    except sqlite3.DatabaseError:
        return False
    return True
