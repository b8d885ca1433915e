"""The history on the command line: what was used, out to CSV and JSON, and in again."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamstrup_mqtt import MeterIdentity, MonthDay, Reading, Readout, UsageError
from kamstrup_mqtt.consumption import Archive
from kamstrup_mqtt.consumption.exchange import columns_of, read_csv, to_json_line, write_csv
from kamstrup_mqtt.kmp import within_max_digits
from kamstrup_mqtt.store import History, Stored
from kamstrup_mqtt.store.codec import encode

from .conftest import kamstrup_mqtt
from .test_history import readings

Edit = Callable[..., Path]
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "mqtt: {host: 127.0.0.1}\nserial_device: {com_port: /dev/ttyNOTTHERE}\n"
        "kamstrup: {parameters: [energy], poll_interval: 28}\n"
    )
    return path


async def filled(config: Path, count: int = 24 * 9) -> list[Readout]:
    made = [
        Readout(
            MeterIdentity("71343479", "0402", None, "402"), BEGIN + timedelta(hours=number),
            {
                60: Reading(60, "energy", Decimal("100.000") + number * Decimal("0.010"), "GJ"),
                86: Reading(86, "temp1", Decimal("67.50"), "°C"),
                123: Reading(123, "maxflowdate_y", date(2026, 1, 1) if number else None, "date"),
                98: Reading(98, "target_date", MonthDay(12, 31), "month-day"),
            },
            {},
        )
        for number in range(count)
    ]  # fmt: skip
    history = History(config.with_suffix(".history.db"), 1e9)
    await history.open()
    for one in made:
        await history.append("meter", one)
    await history.close()
    return made


def run(
    command: str, config: Path, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return kamstrup_mqtt(command, "-c", str(config), *arguments, stdin=stdin, env={"TZ": "UTC"})


def everything(config: Path) -> list[tuple[str, Readout]]:
    with Archive(config.with_suffix(".history.db")) as archive:
        found = archive.readouts(None, BEGIN, BEGIN + timedelta(days=99))
        return [(one.meter, one.readout) for one in found]


async def test_what_was_used_as_a_table_and_as_json(config: Path) -> None:
    await filled(config)
    days = (datetime.now(UTC) - BEGIN).days + 2
    table = run("history", config, "--last", f"{days}d").stdout
    assert "Thu 2026-01-01" in table
    assert " 0.240 │" in table
    assert "█" in table
    answer = json.loads(
        run("history", config, "--last", f"{days}d", "--parameter", "energy", "--json").stdout
    )
    assert (answer["parameter"], answer["unit"], answer["by"]) == ("energy", "GJ", "day")
    used = {period["begin"][:10]: period for period in answer["periods"]}
    assert used["2026-01-02"]["used"] == "0.240"
    assert used["2026-01-02"]["complete"]
    assert used["2026-01-20"]["used"] is None
    assert (
        run("history", config, "--last", f"{days}d", "--by", "month").stdout.count("2026-01") == 1
    )
    assert "Nothing is known" in run("history", config, "--last", "2d").stdout


async def test_export_and_import_give_the_same_history(config: Path, tmp_path: Path) -> None:
    made = await filled(config)
    out = run("export", config)
    assert out.returncode == 0
    rows = list(csv.DictReader(io.StringIO(out.stdout)))
    assert rows[1]["energy [GJ]"] == "100.010"
    assert (rows[0]["maxflowdate_y [date] (date)"], rows[0]["serial"]) == ("(none)", "71343479")
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text())
    assert "216 readouts were added" in run("import", other, "-", stdin=out.stdout).stdout
    assert everything(other) == everything(config) == [("meter", one) for one in made]
    assert "0 readouts were added, 216 were known" in (
        run("import", other, "-", stdin=out.stdout).stdout
    )
    assert run("export", other).stdout == out.stdout
    last = ["--last", f"{(datetime.now(UTC) - BEGIN).days + 2}d", "--json"]
    assert run("history", other, *last).stdout == run("history", config, *last).stdout


async def test_what_is_imported_is_never_published(config: Path) -> None:
    await filled(config, 3)
    assert run("import", config, "-", stdin="time,energy [GJ]\n2025-12-01,90.0\n").returncode == 0
    history = History(config.with_suffix(".history.db"), 1e9)
    await history.open()
    assert [one.sequence for one in await history.after(0, 99)] == [1, 2, 3]
    await history.close()


async def test_export_between_days_as_json_and_by_day(config: Path) -> None:
    await filled(config)
    lines = run(
        "export", config, "--format", "json", "--from", "2026-01-02", "--to", "2026-01-03"
    ).stdout.splitlines()
    assert len(lines) == 24
    first = json.loads(lines[0])
    assert first["values"]["energy"] == {"value": "100.240", "unit": "GJ"}
    assert first["timestamp"] == "2026-01-02T00:00:00+00:00"
    days = list(csv.DictReader(io.StringIO(run("export", config, "--by", "day").stdout)))
    assert [days[1][key] for key in ("begin", "energy [GJ]", "temp1 [°C]")] == [
        "2026-01-02T00:00:00+00:00", "0.240", "67.500",
    ]  # fmt: skip


async def test_rebuild_while_nobody_else_uses_it(config: Path) -> None:
    await filled(config)
    assert "215 hours were rolled up again" in run("history", config, "rebuild").stdout or (
        "hours were rolled up again"
        in kamstrup_mqtt("history", "-c", str(config), "rebuild").stdout
    )
    history = History(config.with_suffix(".history.db"), 1e9)
    await history.open()
    done = run("history", config, "rebuild")
    assert done.returncode == 2
    assert "in use by another kamstrup-mqtt" in done.stderr
    await history.close()


def test_nothing_to_show_yet(config: Path) -> None:
    for command in ("history", "export"):
        done = run(command, config)
        assert done.returncode == 2
        assert "begins with the first readout" in done.stderr
    assert run("history", config, "--last", "soon").returncode == 2
    assert run("export", config, "--from", "yesterday").returncode == 2


def lines(text: str, **more: str) -> list[tuple[str, Readout]]:
    return list(read_csv(io.StringIO(text), UTC, meter="meter", **more))


def test_a_table_of_a_spreadsheet() -> None:
    ((_, one), (_, two)) = lines(
        "Date;energy [GJ];V1_is_not_read [m³]\n".replace("V1_is_not_read", "volume")
        + "31-12-2025 23:59;227,445;2131,9\n01-01-2026;227,5;\n",
        serial="5",
    )
    assert one["energy"].text == "227.445"
    assert (one.time, one.meter.serial) == (datetime(2025, 12, 31, 23, 59, tzinfo=UTC), "5")
    assert list(two.readings) == [60]


def test_a_history_of_home_assistant() -> None:
    text = (
        "entity_id,state,last_changed\n"
        "sensor.heat,unknown,2026-01-01T00:00:00.000Z\n"
        "sensor.heat,227.445,2026-01-01T01:00:00.000Z\n"
    )
    ((_, one),) = lines(text, parameter="energy", unit="GJ")
    assert (one["energy"].text, one["energy"].unit) == ("227.445", "GJ")
    with pytest.raises(UsageError, match="--parameter"):
        lines(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column for the time"),
        ("time,enrgy\n", "did you mean 'energy'"),
        ("time,energy\n", r"unit is missing; write 'energy \[GJ\]'"),
        ("time,meter\n", "no column with a parameter"),
        ("time,energy [GJ] (colour)\n", "expected a parameter"),
        ("time,energy [GJ]\nsoon,1\n", "line 2: 'soon' is no time"),
        ("time,energy [GJ]\n2026-01-01,much\n", "line 2: 'much' is not a number"),
        ("time,energy [GJ]\n2026-01-01,NaN\n", "not a number"),
        ("time,energy [GJ]\n2026-01-01,1e99\n", "is not a number of at most 28 digits"),
        ("time,energy [GJ]\n2026-01-01,1e999999999\n", "is not a number"),
        ("time,98 (month-day)\n2026-01-01,1-2-3\n", "'1-2-3' is not a month-day"),
        ("time,energy [GJ]\n2026-01-01," + 200_000 * "1" + "\n", "line 2 is no line of a table"),
        ("time,energy [GJ]\n2026-01-01,5\n2026-01-02,4\n", "line 3: energy goes back from 5 to 4"),
    ],
)
def test_a_line_that_is_wrong_is_named(text: str, said: str, config: Path) -> None:
    with pytest.raises(UsageError, match=said):
        lines(text)


async def test_a_file_with_a_wrong_line_adds_nothing(config: Path) -> None:
    made = await filled(config, 3)
    text = "time,energy [GJ]\n2026-01-05,200\n2026-01-06,300\n2026-01-07,x\n"
    assert run("import", config, "-", stdin=text).returncode == 2
    assert [one for _, one in everything(config)] == made
    binary = config.with_suffix(".bin")
    binary.write_bytes(b"time,energy [GJ]\n\xff\xfe")
    done = run("import", config, str(binary))
    assert (done.returncode, "UTF-8" in done.stderr) == (2, True)


@given(st.lists(readings, min_size=1, max_size=6))
def test_any_readout_comes_back_from_csv(some: list[Reading]) -> None:
    named = {one.register: Reading(one.register, hex(one.register), one.value, "x") for one in some}
    out = Readout(MeterIdentity("1"), BEGIN, named, {})
    rows = io.StringIO()
    csv.writer(rows).writerows(write_csv([Stored(1, "m", out)], columns_of([encode(out).columns])))
    assert json.loads(to_json_line(Stored(1, "m", out)))["meter"] == "m"
    try:
        ((_, back),) = read_csv(io.StringIO(rows.getvalue(), newline=""), UTC, meter="other")
    except UsageError:  # what no meter sends: a number beyond all digits
        numbers = [one.value for one in some if isinstance(one.value, Decimal)]
        assert not all(map(within_max_digits, numbers))
        return
    assert {key: one.value for key, one in back.readings.items()} == {
        key: None if one.told is None else one.value for key, one in named.items()
    }
