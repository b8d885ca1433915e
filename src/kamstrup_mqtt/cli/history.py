"""The commands on what is kept: `history`, `export` and `import`."""

import asyncio
import csv
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from kamstrup_mqtt.catalog import REGISTERS, register_name, register_number
from kamstrup_mqtt.cli.commands import config_option, debug_option
from kamstrup_mqtt.consumption import BYS, Archive, By, Consumption, Period, local_zone
from kamstrup_mqtt.consumption.exchange import columns_of, read_csv, to_json_line, write_csv
from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.store import History

T = TypeVar("T")

_LAST = re.compile(r"(\d+)(h|d|w|m|y)")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}
_USUAL = (60, 68)  # energy and volume
_BAR = 30
_LABELS = {"hour": "%Y-%m-%d %H:%M", "day": "%a %Y-%m-%d", "week": "%G week %V",
           "month": "%Y-%m", "year": "%Y"}  # fmt: skip
_EVER = datetime(1971, 1, 1)  # noqa: DTZ001 - gets the zone of the user
# Whatever a clock that was wrong may have said.
_NEVER_BEFORE, _NEVER_AFTER = datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 29, tzinfo=UTC)


def _last(_ctx: click.Context, _option: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    match = _LAST.fullmatch(text.strip().lower())
    if match is None:
        raise click.BadParameter(f"'{text}' is no time: expected such as 48h, 7d, 8w, 12m or 2y")
    count = int(match[1])
    if match[2] == "h":
        return timedelta(hours=count)
    return timedelta(days=count * _DAYS[match[2]])


def _moment(_ctx: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no day or time, such as 2026-11-24") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=local_zone())


def _archive(config: Path) -> Archive:
    from kamstrup_mqtt.gateway.config import load_config  # noqa: PLC0415 - loads the gateway

    return Archive(load_config(config).history.path)


def _meter(archive: Archive, wanted: str | None) -> str:
    """The name or serial number of the meter that is meant; without one, the only one there is."""
    meters = archive.meters()
    if not meters:
        raise KamstrupError("the history is empty: it begins with the first readout")
    if wanted is None and len(meters) == 1:
        return next(iter(meters))
    serials = {who.serial for its in meters.values() for who in its}
    if wanted is None or wanted not in {*meters, *serials}:
        asked = f"no meter '{wanted}'" if wanted else "several meters"
        raise UsageError(f"{asked} in the history: name one with --meter: {', '.join(meters)}")
    return wanted


@click.group("history", invoke_without_command=True)
@config_option
@click.option("--last", callback=_last, help="How far back: 48h, 7d, 8w, 12m or 2y.")
@click.option("--by", type=click.Choice(BYS), default="day", show_default=True)
@click.option("--parameter", "names", multiple=True, help="A counter; may be repeated.")
@click.option("--meter", help="Its name or serial number, where there are several.")
@click.option("--spread", is_flag=True, help="Divide what was used in a gap over its time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a counter.")
@debug_option
@click.pass_context
def history_command(
    context: click.Context, *, path: Path, last: timedelta | None, by: By,
    names: tuple[str, ...], meter: str | None, spread: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what was used: by hour, day, week, month or year.

    What is counted is the exact difference of the meter's counters. A period marked with * is not
    covered by readings from its beginning to its end.
    """
    if context.invoked_subcommand is not None:
        context.obj = path
        return
    now = datetime.now(local_zone())
    with _archive(path) as archive:
        meter = _meter(archive, meter)
        counters = [register_number(name) for name in names] or list(_USUAL)
        defaults = {"hour": 1, "day": 7, "week": 56, "month": 365, "year": 3650}
        begin = now - (last or timedelta(days=defaults[by]))
        found = [
            (register, *archive.used(meter, register, begin, now, by, spread=spread))
            for register in counters
        ]
    for _, _, total in found:  # the first one is cut off by `begin`
        del total.periods[: len(total.periods) > 1]
    if as_json:
        for register, unit, total in found:
            print(json.dumps(_as_json(meter, register, unit, by, total), ensure_ascii=False))
    else:
        _print_table(meter, found, by)


@history_command.command("rebuild")
@debug_option
@click.pass_obj
def rebuild(path: Path) -> None:
    """Sum up every hour again from the readouts; the gateway must not run meanwhile."""
    hours = asyncio.run(_with_history(path, lambda history: history.rebuild()))
    print(f"{hours} hours were rolled up again")


def _as_json(meter: str, register: int, unit: str, by: By, total: Consumption) -> dict[str, object]:
    return {
        "meter": meter, "parameter": register_name(register), "unit": unit, "by": by,
        "periods": [
            {
                "begin": period.begin.isoformat(), "end": period.end.isoformat(),
                "used": None if period.used is None else f"{period.used:f}",
                "complete": period.complete,
            }
            for period in total.periods
        ],
        "gaps": [
            {"begin": gap.begin.isoformat(), "end": gap.end.isoformat(), "used": f"{gap.used:f}"}
            for gap in total.gaps
        ],
    }  # fmt: skip


def _print_table(meter: str, found: list[tuple[int, str, Consumption]], by: By) -> None:
    from rich.console import Console  # noqa: PLC0415 - only drawing needs rich
    from rich.table import Table  # noqa: PLC0415

    known = [entry for entry in found if any(one.used is not None for one in entry[2].periods)]
    if not known:
        print("Nothing is known of that time")
        return
    table = Table(title=f"{meter}, by {by}", title_justify="left")
    table.add_column(by, no_wrap=True)
    for register, unit, _ in known:
        table.add_column(f"{register_name(register)} {unit}", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    periods = known[0][2].periods
    most = max((one.used for one in periods if one.used is not None), default=Decimal(0))
    for index, period in enumerate(periods):
        table.add_row(
            period.begin.strftime(_LABELS[by]),
            *(_shown(total.periods[index]) for _, _, total in known),
            "█" * int(_BAR * period.used / most) if period.used and most else "",
        )
    console = Console()
    console.print(table)
    for register, unit, total in known:
        for gap in total.gaps:
            console.print(
                f"{register_name(register)}: {gap.used:f} {unit} were used without readings from "
                f"{gap.begin:%Y-%m-%d %H:%M} to {gap.end:%Y-%m-%d %H:%M}; --spread divides them",
                highlight=False,
            )


def _shown(period: Period) -> str:
    used = "-" if period.used is None else f"{period.used:f}"
    return used if period.complete else f"{used} *"


@click.command("export")
@config_option
@click.option("--format", "kind", type=click.Choice(["csv", "json"]), default="csv",
              show_default=True, help="JSON is one object a line.")  # fmt: skip
@click.option("--from", "begin", callback=_moment, help="A day or time, such as 2026-11-01.")
@click.option("--to", "end", callback=_moment, help="A day or time; what is before it is exported.")
@click.option("--by", type=click.Choice(BYS), help="What was used, and means, by that.")
@click.option("--meter", help="Only this one, by its name or serial number.")
@debug_option
def export_command(
    *, path: Path, kind: str, begin: datetime | None, end: datetime | None, by: By | None,
    meter: str | None,
) -> None:  # fmt: skip
    """Write readouts to standard output, with every digit."""
    with _archive(path) as archive:
        names = [_meter(archive, meter)] if meter else list(archive.meters())
        if by is not None:
            zone = local_zone()
            begin = begin or _EVER.replace(tzinfo=zone)
            end = end or datetime.now(zone) + timedelta(days=1)
            _write(_summed(archive, names, begin, end, by), kind)
            return
        span = (meter, begin or _NEVER_BEFORE, end or _NEVER_AFTER)
        if kind == "json":
            for stored in archive.readouts(*span):
                print(to_json_line(stored))
        else:
            lines = write_csv(
                archive.readouts(*span),
                columns_of(archive.columns(*span)),
                misdated=archive.has_misdated(*span),
            )
            csv.writer(sys.stdout, lineterminator="\n").writerows(lines)


def _summed(
    archive: Archive, names: list[str], begin: datetime, end: datetime, by: By
) -> Iterator[dict[str, str]]:
    """A row for each period and meter: what counters counted, and the means of all else."""
    for name in names:
        span, latest = archive.span(name), archive.latest(name)
        if span is None or latest is None:
            continue
        first, last = max(begin, span[0].astimezone(begin.tzinfo)), min(end, span[1])
        rows: dict[datetime, dict[str, str]] = {}
        for reading in latest:
            known = REGISTERS.get(reading.register)
            if known is not None and known.kind == "total":
                unit, total = archive.used(name, reading.register, first, last, by)
                values = [(period.begin, period.used) for period in total.periods]
            elif isinstance(reading.value, Decimal):
                unit, series = archive.series(name, reading.register, first, last, by)
                values = [(sample.time, sample.value) for sample in series]
            else:
                continue
            for at, value in values:
                row = rows.setdefault(at, {"begin": at.isoformat(), "meter": name})
                row[f"{reading.name} [{unit}]"] = "" if value is None else f"{value:f}"
        yield from (rows[at] for at in sorted(rows))


def _write(rows: Iterator[dict[str, str]], kind: str) -> None:
    if kind == "json":
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    found = list(rows)
    names = dict.fromkeys(name for row in found for name in row)
    writer = csv.DictWriter(sys.stdout, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)


@click.command("import")
@config_option
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option("--meter", default="meter", show_default=True, help="Its name in the configuration.")
@click.option("--serial", help="Its serial number, where the file does not have it.")
@click.option("--parameter", help="What the states of a file of Home Assistant are.")
@click.option("--unit", help="Of values whose heading does not name one.")
@debug_option
def import_command(
    *, path: Path, file: TextIO, meter: str, serial: str | None, parameter: str | None,
    unit: str | None,
) -> None:  # fmt: skip
    """Add older readings from a CSV FILE: an export, a history of Home Assistant, or a table.

    A table has a column for the time and columns such as `energy [GJ]`. Nothing is added when a
    line is wrong, and nothing twice; the gateway must not run meanwhile.
    """
    zone = local_zone()
    lines = read_csv(
        file, zone, meter=meter, serial=serial, parameter=parameter, unit=unit
    )  # fmt: skip
    added, known = asyncio.run(_with_history(path, lambda history: history.take_in(lines)))
    print(f"{added} readouts were added, {known} were known already")


async def _with_history(path: Path, work: Callable[[History], Coroutine[Any, Any, T]]) -> T:
    """Do `work` on the history that belongs to the configuration at `path`."""
    from kamstrup_mqtt.gateway.config import load_config  # noqa: PLC0415 - loads the gateway

    config = load_config(path).history
    history = History(config.path, config.keep_s, config.max_bytes)
    await history.open()
    try:
        return await work(history)
    except UnicodeDecodeError as error:
        raise UsageError("the file is not text in UTF-8") from error
    except sqlite3.Error as error:
        raise KamstrupError(f"history {config.path} cannot be written: {error}") from error
    finally:
        await history.close()
