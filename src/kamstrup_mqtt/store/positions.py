"""What each output has got: all up to a cursor, and of what is behind it some."""

import sqlite3
from dataclasses import dataclass

from kamstrup_mqtt.store.write import transaction


@dataclass(frozen=True, slots=True)
class Position:
    """What an output has got: all up to `cursor`, and of what is behind it those in `ahead`."""

    cursor: int = 0
    ahead: frozenset[int] = frozenset()


def position(database: sqlite3.Connection, output: str) -> Position:
    """What an output has got; nothing where that was never noted."""
    row = database.execute(
        "SELECT sequence FROM cursor WHERE output = ?", (output,)
    ).fetchone()  # fmt: skip
    cursor = row[0] if row and isinstance(row[0], int) else 0
    ahead = database.execute("SELECT sequence FROM ahead WHERE output = ?", (output,))
    return Position(cursor, frozenset(one for (one,) in ahead if isinstance(one, int)))


def note(
    database: sqlite3.Connection, output: str, now: Position, before: Position | None = None
) -> None:
    """Note what an output has got now, and had when that was noted before, if that is known.

    The disk is not waited for: a power cut may take the last ones, and then some come again.
    """
    database.execute("PRAGMA synchronous = NORMAL")
    try:
        with transaction(database):
            write(database, output, now, before)
    finally:
        database.execute("PRAGMA synchronous = FULL")


def write(
    database: sqlite3.Connection, output: str, now: Position, before: Position | None = None
) -> None:
    """Write what an output has got; within a transaction, or before there are others."""
    database.execute(
        "INSERT INTO cursor VALUES (?, ?) ON CONFLICT (output) DO UPDATE "
        "SET sequence = max(sequence, excluded.sequence)",
        (output, now.cursor),
    )
    database.execute("DELETE FROM ahead WHERE output = ? AND sequence <= ?", (output, now.cursor))
    database.executemany(
        "INSERT OR IGNORE INTO ahead VALUES (?, ?)",
        [(output, one) for one in now.ahead - (before.ahead if before else frozenset())],
    )
