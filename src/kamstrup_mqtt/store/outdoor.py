"""The temperature outside, by the hour, where somebody publishes it."""

import sqlite3
from datetime import datetime
from decimal import Decimal

from kamstrup_mqtt.store.codec import number
from kamstrup_mqtt.store.rows import tell

_HEATING_C = Decimal(18)  # outside, below which houses are heated
_HOUR_S = 3600
_KNOWN_HOURS = 12
_WRONG = (ArithmeticError, AttributeError, TypeError, ValueError)  # what a wrong byte brings about


def note(database: sqlite3.Connection, value: Decimal, moment: datetime) -> None:
    """Add a temperature, in °C, to its hour; within a transaction."""
    hour = int(moment.timestamp()) // _HOUR_S
    total, count = database.execute(
        "SELECT total, count FROM outdoor WHERE hour = ?", (hour,)
    ).fetchone() or ("0", 0)
    try:
        total, count = number(total) + value, count + 1
    except _WRONG:  # the hour begins anew
        total, count = value, 1
    database.execute("INSERT OR REPLACE INTO outdoor VALUES (?, ?, ?)", (hour, str(total), count))


def colder(database: sqlite3.Connection, begin: datetime, end: datetime) -> Decimal | None:
    """How much colder than 18 °C a day was; None when less than half its hours are known.

    Hours are UTC hours: where midnight is within one, it counts in part for either day.
    """
    first, last = int(begin.timestamp()), int(end.timestamp())
    hours = database.execute(
        "SELECT hour, total, count FROM outdoor WHERE hour >= ? AND hour < ?",
        (first // _HOUR_S, -(-last // _HOUR_S)),
    )
    total_s = degree_s = Decimal(0)
    for hour, total, count in hours:
        its_s = min(last, (hour + 1) * _HOUR_S) - max(first, hour * _HOUR_S)
        try:
            degree_s += its_s * number(total) / count
        except _WRONG as error:
            tell(database, f"the temperature outside of hour {hour}", error)
        else:
            total_s += its_s
    if total_s < _KNOWN_HOURS * _HOUR_S:
        return None
    return max(Decimal(0), _HEATING_C - degree_s / total_s)
