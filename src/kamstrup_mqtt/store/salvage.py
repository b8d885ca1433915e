"""Copies what can be read of a damaged history into a new one, around what is damaged in it."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kamstrup_mqtt.store.codec import RowError, registers_in
from kamstrup_mqtt.store.file import FILE_ERRORS, opened_to_read
from kamstrup_mqtt.store.rows import as_text

# In the order in which they are needed. A new history has an id of its own.
_NUMBERED = ("layout", "meter", "doubt", "outdoor", "cursor", "readout")  # tables with a rowid
_OTHERS = ("setting", "lacking", "ahead")
# The newest version that has each of these is that of the file.
_SIGNS = (("ahead", 5), ("history", 4), ("setting", 3), ("hour", 2), ("readout", 1))
_FIRST, _LAST = -(1 << 62), 1 << 62  # numbers of rows

Row = tuple[Any, ...]


def version_of(damaged: Path) -> int:
    """The version of a damaged history, by its tables; 0 when not even they can be read."""
    with contextlib.suppress(*FILE_ERRORS), _opened(damaged) as old:
        tables = {name for (name,) in old.execute("SELECT name FROM sqlite_master")}
        return next((version for table, version in _SIGNS if table in tables), 0)
    return 0


def salvage(damaged: Path, new: sqlite3.Connection) -> int:
    """Copy all that can be read; gives how many readouts that were.

    Args:
        damaged: the file.
        new: an empty history of the same version, within a transaction.

    """
    with _opened(damaged) as old:
        for table in _NUMBERED:
            columns = _columns(new, table)
            query = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid >= ? "  # noqa: S608
            rows = _around_holes(old, f"{query} ORDER BY rowid")
            _write(new, table, columns, (row[1:] for row in rows))
        for table in _OTHERS:
            columns = _columns(new, table)
            _write(new, table, columns, _from_both_ends(old, table, columns))
        columns = _columns(new, "hour")
        for meter, register in _counters(new) if columns else []:
            query = f"SELECT hour, {columns} FROM hour WHERE meter = ? AND register = ? "  # noqa: S608
            rows = _around_holes(old, f"{query} AND hour >= ? ORDER BY hour", meter, register)
            _write(new, "hour", columns, (row[1:] for row in rows))
    (count,) = new.execute("SELECT count(*) FROM readout").fetchone()
    return int(count)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with opened_to_read(path) as database:
        database.text_factory = as_text
        database.execute("PRAGMA writable_schema = ON")  # of a damaged schema, what is right
        yield database


def _columns(database: sqlite3.Connection, table: str) -> str:
    """The columns of a table; "" in a version that did not have it."""
    return ", ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})"))


def _counters(database: sqlite3.Connection) -> list[tuple[int, int]]:
    """The meters and registers of which there may be hours."""
    registers: set[int] = set()
    for (columns,) in database.execute("SELECT columns FROM layout"):
        with contextlib.suppress(RowError):
            registers |= registers_in(columns)
    meters = database.execute("SELECT id FROM meter").fetchall()
    return [(meter, register) for (meter,) in meters for register in sorted(registers)]


def _write(
    database: sqlite3.Connection, table: str, columns: str, rows: Iterator[Sequence[Any]]
) -> None:
    if not columns:
        return
    marks = ", ".join("?" * (columns.count(",") + 1))
    insert = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - our own
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):
            database.execute(insert, row)


def _from_both_ends(old: sqlite3.Connection, table: str, columns: str) -> Iterator[Row]:
    """The rows of a table before and behind what is damaged."""
    first = columns.partition(",")[0]
    for order in ("", f" ORDER BY {first} DESC"):
        with contextlib.suppress(*FILE_ERRORS):
            yield from old.execute(f"SELECT {columns} FROM {table}{order}")  # noqa: S608 - our own
            return


def _around_holes(old: sqlite3.Connection, query: str, *arguments: object) -> Iterator[Row]:
    """The rows of a query by a rising number, their first column, without what is unreadable.

    Args:
        old: the damaged file.
        query: its last argument is the number to begin with.
        arguments: all others.

    """
    begin = _FIRST
    while True:
        try:
            for row in old.execute(query, (*arguments, begin)):
                yield row
                begin = int(row[0]) + 1
        except FILE_ERRORS:
            # The last row before a hole is lost to who reads on: once more, and only that one.
            row = _first(old, query, (*arguments, begin))
            if row is not None:
                yield row
                begin = int(row[0]) + 1
                continue
            found = _behind_hole(old, query, arguments, begin)
            if found is None:
                return
            begin = found
        else:
            return


def _behind_hole(
    old: sqlite3.Connection, query: str, arguments: Sequence[object], begin: int
) -> int | None:
    """The first number behind `begin` from which on something can be read."""
    step = 1
    while begin + step <= _LAST and not _is_readable(old, query, (*arguments, begin + step)):
        step *= 2
    if begin + step > _LAST:
        return None
    first, last = begin + step // 2, begin + step
    while first < last:
        middle = (first + last) // 2
        if _is_readable(old, query, (*arguments, middle)):
            last = middle
        else:
            first = middle + 1
    return last


def _first(old: sqlite3.Connection, query: str, arguments: Sequence[object]) -> Row | None:
    """The first row of a query; None where it cannot be read, or there is none."""
    with contextlib.suppress(*FILE_ERRORS):
        row: Row | None = old.execute(f"{query} LIMIT 1", arguments).fetchone()
        return row
    return None


def _is_readable(old: sqlite3.Connection, query: str, arguments: Sequence[object]) -> bool:
    """Whether the first row of a query can be read, or there is none."""
    try:
        old.execute(f"{query} LIMIT 1", arguments).fetchone()
    except FILE_ERRORS:
        return False
    return True
