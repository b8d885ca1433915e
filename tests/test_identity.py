"""The serial number is the meter: whatever it is called, and whatever line it is on."""

import asyncio
import contextlib
import json
import random
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from kamstrup_mqtt import KamstrupError, MeterIdentity, MeterSession, Reading, Readout
from kamstrup_mqtt.catalog import register_numbers
from kamstrup_mqtt.consumption import Archive
from kamstrup_mqtt.kmp import Frame, GetRegisterRequest, GetSerialNoRequest
from kamstrup_mqtt.polling.acquisition import Acquisition
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.polling.validation import Plausibility
from kamstrup_mqtt.simulator import Reaction, SimulatedMeter
from kamstrup_mqtt.store import History
from kamstrup_mqtt.store.codec import encode
from kamstrup_mqtt.store.rollup import begin_of, hour_of

from .virtual import VirtualClock, VirtualLink, virtual

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
EVER = (BEGIN - timedelta(days=1), BEGIN + timedelta(days=40))
HOUR = timedelta(hours=1)


def readout(hour: int, serial: str | None = "1", **more: str) -> Readout:
    value = Decimal("100.000") + hour * Decimal("0.017")
    return Readout(
        MeterIdentity(serial, **more), BEGIN + hour * HOUR,
        {60: Reading(60, "energy", value, "GJ")}, {},
    )  # fmt: skip


async def history(path: Path, *names: str) -> History:
    found = History(path, 1e9, names=names)
    await found.open()
    return found


def used(path: Path, meter: str) -> Decimal:
    with Archive(path) as archive:
        _, found = archive.used(meter, 60, *EVER, "month")
    gaps = sum((gap.used for gap in found.gaps), Decimal(0))
    return sum((period.used or Decimal(0) for period in found.periods), gaps)


async def test_a_meter_that_is_renamed_keeps_one_history(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for name, hours in (("meter", range(30)), ("flat", range(30, 60))):
        store = await history(path, name)
        for hour in hours:
            await store.append(name, readout(hour))
        await store.set_setting("meter", "poll_interval", "{}")
        found = await store.after(0, 99)
        await store.close()
    assert [one.meter for one in found] == ["flat"] * 60
    assert [one.meter_sequence for one in found] == list(range(1, 61))
    with Archive(path) as archive:
        assert list(archive.meters()) == ["flat"]
    assert used(path, "flat") == used(path, "1") == 59 * Decimal("0.017")


async def test_names_that_are_swapped_go_with_their_meters(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for names in (("a", "b"), ("b", "a")):
        store = await history(path, "a", "b")
        for hour in range(3):
            for name, serial in zip(names, ("1", "2"), strict=True):
                await store.append(name, readout(hour + 5 * (names == ("b", "a")), serial))
        await store.close()
    with Archive(path) as archive:
        whose = {name: [one.serial for one in its] for name, its in archive.meters().items()}
    assert whose == {"b": ["1"], "a": ["2"]}


async def test_what_did_not_say_who_it_was_goes_with_the_name(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    store = await history(path, "meter")
    for hour, serial in enumerate((None, "1", None)):
        await store.append("meter", readout(hour, serial))
    await store.set_setting("meter", "poll_interval", "old")
    await store.close()
    store = await history(path, "flat")
    renamed = []

    async def note(name: str) -> None:
        renamed.append((name, await store.setting(name, "poll_interval")))

    store.on_renamed = note
    for hour, serial in ((3, None), (4, "1"), (5, None)):
        await store.append("flat", readout(hour, serial))
    found = await store.after(0, 99)
    assert await store.setting("meter", "poll_interval") is None
    await store.close()
    assert renamed == [("flat", "old")]  # and "meter" is nobody any more
    assert [(one.meter, one.readout.time) for one in found] == [
        ("flat", readout(hour).time) for hour in range(6)
    ]
    assert used(path, "flat") == 3 * Decimal("0.017")  # from the first to the last of the meter


async def test_a_name_that_is_the_serial_number_of_another_meter_means_the_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.db"
    store = await history(path, "2", "b")
    for hour in range(3):
        await store.append("2", readout(hour, "1"))
        await store.append("b", readout(hour + 10, "2"))
    await store.close()
    with Archive(path) as archive:
        latest = archive.latest("2")
        listed = {name: one.meter.serial for name, one in archive.latest_of_each()}
        found = list(archive.readouts("2", *EVER))
    assert latest is not None
    assert latest.meter.serial == "1"
    assert listed == {"2": "1", "b": "2"}
    assert {one.readout.meter.serial for one in found} == {"1"}


async def test_two_names_of_one_meter_are_told_and_do_not_take_its_history_in_turns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await history(tmp_path / "history.db", "a", "b")
    for hour in range(8):
        await store.append("ab"[hour % 2], readout(hour))
    assert {one.meter for one in await store.after(0, 99)} == {"a"}
    await store.close()
    assert caplog.text.count("a and b are the same meter, serial number 1") == 1


async def test_meters_that_follow_one_another_add_up_by_name_and_not_by_serial(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.db"
    store = await history(path, "meter")
    for hour in range(10):
        await store.append("meter", readout(hour, "1" if hour < 5 else "2"))
    await store.close()
    assert used(path, "1") == used(path, "2") == 4 * Decimal("0.017")
    assert used(path, "meter") == 8 * Decimal("0.017")


def write_version_3(path: Path, lines: list[tuple[str, Readout, bool]]) -> None:
    """A history as the version before made it: a meter was a name with all that it said."""
    folder = files("kamstrup_mqtt.store")
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for step in (1, 2, 3):
            database.executescript(folder.joinpath(f"schema-{step}.sql").read_text("utf-8"))
        database.execute("PRAGMA user_version = 3")
        meters: dict[tuple[str, str], int] = {}
        for number, (name, one, rolled) in enumerate(lines, 1):
            row = encode(one)
            database.execute("INSERT OR IGNORE INTO layout VALUES (1, ?)", (row.columns,))
            meter = meters.setdefault((name, row.identity), len(meters) + 1)
            database.execute(
                "INSERT OR IGNORE INTO meter (id, name, identity) VALUES (?, ?, ?)",
                (meter, name, row.identity),
            )
            database.execute(
                "INSERT INTO readout (meter, layout, taken, utc_offset, digits) "
                "VALUES (?, 1, ?, ?, ?)", (meter, row.taken, row.utc_offset, row.digits),
            )  # fmt: skip
            database.execute("UPDATE meter SET latest = ? WHERE id = ?", (number, meter))
            if rolled:
                hour = hour_of(row.taken)
                database.execute(
                    "INSERT OR REPLACE INTO hour VALUES (?, 60, ?, 'GJ', ?, ?, ?, ?, ?, ?, ?, 1)",
                    (meter, hour, row.digits, row.taken, row.digits, row.taken,
                     row.digits, row.digits, row.digits),
                )  # fmt: skip
                database.execute("UPDATE meter SET rolled = ? WHERE id = ?", (hour, meter))
        database.execute("INSERT INTO cursor VALUES ('mqtt', ?)", (len(lines) - 3,))


@pytest.mark.parametrize("rolled", [True, False])
async def test_a_history_of_the_version_before_becomes_one_of_meters(
    tmp_path: Path, *, rolled: bool
) -> None:
    path = tmp_path / "history.db"
    parts: list[tuple[str, dict[str, Any]]] = [
        ("meter", {"serial": None}), ("meter", {}), ("meter", {"type_code": "0402"}),
        ("flat", {"type_code": "0402"}), ("flat", {"type_code": "0402", "revision": "A1"}),
    ]  # fmt: skip
    lines = [
        (name, readout(5 * part + hour, **{"serial": "1"} | more), rolled)
        for part, (name, more) in enumerate(parts)
        for hour in range(5)
    ]
    write_version_3(path, lines)
    store = await history(path, "flat")
    found = await store.after(0, 99)
    assert [(one.readout.time, one.readout["energy"].text) for one in found] == [
        (one.time, one["energy"].text) for _, one, _ in lines
    ]
    assert {one.meter for one in found} == {"flat"}
    assert {one.readout.meter for one in found} == {MeterIdentity("1", "0402", "A1")}
    assert [one.meter_sequence for one in found] == [None] * 22 + [1, 2, 3]
    assert store.id is not None
    await store.append("flat", readout(25))
    await store.close()
    assert used(path, "flat") == used(path, "1") == 25 * Decimal("0.017")
    with Archive(path) as archive:
        _, series = archive.series("flat", 60, *EVER, "hour")
    assert len(series) >= 25


async def test_readouts_of_the_same_microsecond_are_moved_apart_in_their_order(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.db"
    write_version_3(path, [("meter", readout(0), False)] * 5000 + [("meter", readout(1), False)])
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE readout SET taken = taken + 3 WHERE sequence = 2500")
        database.execute("INSERT INTO doubt VALUES ('meter', 1, 2, 3, 4, 5, 6, 1)")
        database.execute("INSERT INTO meter (name, identity) VALUES ('flat', '{}')")
        database.execute("UPDATE meter SET identity = (SELECT identity FROM meter WHERE id = 1)")
        database.execute("UPDATE meter SET latest = 9999 WHERE name = 'flat'")
    store = await history(path)
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT sequence, taken FROM readout ORDER BY taken").fetchall()
        assert database.execute("SELECT name FROM meter").fetchall() == [("flat",)]
        assert database.execute("SELECT after FROM doubt").fetchall() == [(1,)]
    begin = rows[0][1]
    assert [taken - begin for _, taken in rows[:-1]] == list(range(5000))
    assert {number for number, _ in rows[:4]} == {1, 2, 3, 4}


async def test_an_hour_is_never_replaced_by_less(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    store = await history(path, "meter")
    begin = begin_of(hour_of(int(BEGIN.timestamp() * 1e6)) + 1)
    moment = datetime.fromtimestamp(begin / 1e6, UTC)
    for minute in range(130):
        one = readout(0)
        value = Decimal(100) + minute
        await store.append(
            "meter",
            Readout(one.meter, moment + timedelta(minutes=minute),
                    {60: Reading(60, "energy", value, "GJ")}, {}),
        )  # fmt: skip
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM readout WHERE sequence <= 60")  # as what is too old
    before = used(path, "meter")
    store = await history(path, "meter")
    late = Readout(
        MeterIdentity("1"), moment + timedelta(minutes=30, seconds=5),
        {60: Reading(60, "energy", Decimal(130), "GJ")}, {},
    )  # fmt: skip
    assert await store.take_in([("meter", late)]) == (1, 0)
    volume = Readout(late.meter, late.time, {68: Reading(68, "volume", Decimal(7), "m³")}, {})
    assert await store.take_in([("meter", volume)]) == (1, 0)  # added to the same moment
    assert await store.take_in([("meter", volume), ("meter", late)]) == (0, 2)
    await store.close()
    assert used(path, "meter") == before
    with Archive(path) as archive:
        found = [one for one in archive.readouts("1", *EVER) if one.source == "import"]
    assert [sorted(one.readout.readings) for one in found] == [[60, 68]]
    with contextlib.closing(sqlite3.connect(path)) as database:
        (count,) = database.execute("SELECT max(count) FROM hour").fetchone()
    assert count == 60


class Swapped(VirtualLink):
    """The line hangs up amid a readout, and then another meter is there."""

    async def write(self, data: bytes) -> None:
        await super().write(data)
        if self.connection == 1 and len(self.meter.requests) == 2:  # type: ignore[attr-defined]
            self.unplug()
            self.plug()
            self.meter = SimulatedMeter(serial=2, speed=0.0)


@virtual
async def test_another_meter_after_a_hang_up_amid_a_readout_is_not_mixed_in() -> None:
    link = Swapped(SimulatedMeter(serial=1, speed=0.0))
    link.meter.house.energy_kwh = 1.0  # type: ignore[attr-defined]
    session = MeterSession(link)
    found = await session.read([*range(60, 70), 72, 74, 80, 86, 87, 89])
    assert link.connection >= 2
    assert found.meter.serial == "2"
    assert found["energy"].value != Decimal("0.004")
    await session.close()


@virtual
async def test_a_ping_on_another_connection_does_not_vouch_for_the_meter() -> None:
    link = VirtualLink(SimulatedMeter(serial=1))
    session = MeterSession(link)
    await session.read(["energy"])
    link.unplug()
    link.plug()
    link.meter = SimulatedMeter(serial=2)
    await session.ping()
    assert (await session.read(["energy"])).meter.serial == "2"
    await session.close()


@virtual
async def test_what_a_meter_lacks_is_told_to_the_next_session() -> None:
    simulated = SimulatedMeter("402")
    session = MeterSession(VirtualLink(simulated))
    await session.read("all")
    first = len(simulated.requests)
    lacking = session.lacking
    await session.close()
    assert {serial for serial, _ in lacking} == {str(simulated.serial)}
    session = MeterSession(VirtualLink(simulated))
    session.lacking = lacking
    readout = await session.read("all")
    assert "not in this meter" in readout.missing.values()
    assert len(simulated.requests) - first <= first / 3
    registers = [r for r in simulated.requests if isinstance(r, GetRegisterRequest)]
    assert registers
    await session.close()


def test_a_readout_without_serial_number_is_checked_too() -> None:
    plausible = Plausibility()
    plausible.accept(readout(0), 0.0)
    nameless = Readout(MeterIdentity(), BEGIN, {60: Reading(60, "energy", Decimal(50), "GJ")}, {})
    assert plausible.doubtful(nameless, 60.0)
    other = readout(0, "2").only([60])
    assert not plausible.doubtful(other, 60.0)
    assert plausible.doubtful(Readout(MeterIdentity("1"), BEGIN, nameless.readings, {}), 60.0)


def test_units_and_state_say_where_they_come_from() -> None:
    told = json.loads(readout(3).to_json(sequence=4, history="ab"))
    assert told["serial"] == "1"
    assert told["sequence"] == 4
    assert told["timestamp"] == "2026-03-01T03:00:00.000+00:00"


class Relay(VirtualLink):
    """Hangs up after some answers, and each time the next meter is there."""

    def __init__(self, serials: list[int], every: int) -> None:
        self.meters = [SimulatedMeter(serial=serial, speed=0.0) for serial in serials]
        super().__init__(self.meters[0])
        self.every = every

    async def write(self, data: bytes) -> None:
        await super().write(data)
        if sum(len(meter.requests) for meter in self.meters) % self.every == self.every - 1:
            self.meter = self.meters[self.connection % len(self.meters)]
            self.unplug()
            self.plug()


@pytest.mark.parametrize(
    "serials", [[1, 1], [1, 2, 2, 2], [1, 2, 1], [1, 2, 3], [1, 2], [1, 1, 2, 1]]
)
@pytest.mark.parametrize("every", range(2, 12))
@virtual
async def test_whoever_comes_and_goes_no_readout_has_two_meters(
    serials: list[int], every: int
) -> None:
    link = Relay(serials, every)
    for meter in link.meters:
        meter.house.energy_kwh = 1000.0 * meter.serial
        meter.house.volume_l = 1e6 * meter.serial
    session = MeterSession(link)
    with contextlib.suppress(KamstrupError):
        found = await session.read([60, *range(61, 68), 68, 72, 74, 80, 86, 87, 89])
        whose = {
            round(value / of_one)
            for name, of_one in (("energy", Decimal("3.6")), ("volume", Decimal(1000)))
            if name not in found.missing and isinstance(value := found[name].value, Decimal)
        }
        assert whose in ({int(found.meter.serial or 0)}, set())
        assert whose or every < 4
    await session.close()


class Fidgety(VirtualLink):
    """Hangs up at any byte, and then any of the meters is there."""

    def __init__(self, meters: list[SimulatedMeter], chance: random.Random) -> None:
        super().__init__(meters[0])
        self.meters, self.chance = meters, chance

    def maybe(self, share: float) -> None:
        if self.chance.random() < share:
            self.meter = self.chance.choice(self.meters)
            self.unplug()
            self.plug()

    async def write(self, data: bytes) -> None:
        self.maybe(0.05)
        await super().write(data)
        self.maybe(0.05)

    async def read(self, until: float) -> bytes:
        data = await super().read(until)
        self.maybe(0.05 if data else 0.0)
        return data


class Nameless(SimulatedMeter):
    """Tells its serial number in no way."""

    def react(self, frame: Frame, now: float) -> Reaction:
        if frame.command == GetSerialNoRequest.command:
            return Reaction()
        return super().react(frame, now)


@pytest.mark.parametrize("kind", [SimulatedMeter, Nameless])
@pytest.mark.parametrize("seed", range(25))
@virtual
async def test_no_readout_that_is_put_together_is_of_two_meters(
    seed: int, kind: type[SimulatedMeter]
) -> None:
    """Among them what is held of earlier readouts, and doubtful totals that are asked for again."""
    chance, clock = random.Random(seed), VirtualClock()
    meters = [kind("402", serial=one, speed=0.0) for one in (1, 2, 3)]
    for one in meters:
        house = one.house
        house.energy_kwh, house.volume_l = one.serial * 1e6, one.serial * 1e6
        house.max_power_kw = house.supply_c = float(10 * one.serial)
        if kind is Nameless:
            one.registers -= {1001}
    names = ("energy", "volume", "temp1", "maxpower_y")
    settings = MeterConfig("meter", "virtual", register_numbers(names), 600.0, "t")
    session = MeterSession(Fidgety(meters, chance), clock=clock)
    acquisition = Acquisition(settings, session, UTC, clock)
    found = 0
    for _ in range(20):
        await asyncio.sleep(chance.choice([20.0, 900.0]))
        with contextlib.suppress(KamstrupError):
            readout = await acquisition.take()
            energy = {readout["energy"].text[:2]} if "energy" not in readout.missing else set()
            assert energy <= {"36", "72", "10"}  # of 3.6 GJ for 1 MWh
            whose = {reading.text[0] for reading in readout if reading.name in names[1:]} | {
                {"36": "1", "72": "2", "10": "3"}[one] for one in energy
            }
            assert len(whose) == 1
            assert readout.meter.serial in (None, *whose)
            found += 1
    assert found >= 5
    await session.close()


class Closing(VirtualLink):
    """Hangs up behind each answer, as some bridges do."""

    async def open(self) -> None:
        if self.meter.requests:  # type: ignore[attr-defined]
            await self.close()
        await super().open()


@pytest.mark.parametrize("model", ["402", "603"])
@pytest.mark.parametrize("parameters", [["energy"], "all"])
@virtual
async def test_a_line_that_closes_behind_each_answer_is_read(
    model: str, parameters: list[str]
) -> None:
    meter = SimulatedMeter(model)
    session = MeterSession(Closing(meter))
    found = await session.read(parameters)
    assert found.meter.serial == str(meter.serial)
    assert set(found.missing.values()) <= {"not in this meter"}
    await session.close()


@pytest.mark.parametrize("count", [1, 4, 7])
@virtual
async def test_a_meter_that_takes_the_place_of_another_is_noticed_without_any_total(
    count: int,
) -> None:
    meter = SimulatedMeter(serial=1)
    session = MeterSession(VirtualLink(meter))
    parameters = ["power", "flow", "temp1", "temp2", "tempdiff", "info_code", "date"][:count]
    for serial in (1, 2, 2, 3, 1):
        meter.serial = serial
        assert (await session.read(parameters)).meter.serial == str(serial)
    await session.close()


class Mute(SimulatedMeter):
    """Does not say who it is, from some time on."""

    is_mute = False

    def react(self, frame: Frame, now: float) -> Reaction:
        if self.is_mute and frame.command == GetSerialNoRequest.command:
            return Reaction()
        return super().react(frame, now)


@virtual
async def test_who_does_not_say_who_it_is_after_a_pause_is_not_taken_for_the_one_before() -> None:
    meter = Mute(serial=1)
    session = MeterSession(VirtualLink(meter))
    assert (await session.read(["energy"])).meter.serial == "1"
    meter.is_mute, meter.registers = True, frozenset({60, 68})
    await asyncio.sleep(400)
    found = await session.read(["energy"])
    assert found.meter.serial is None
    assert len(found) == 1
    await session.close()


async def test_a_row_that_cannot_be_read_stops_no_writing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    store = await history(path, "meter")
    await store.append("meter", readout(0))
    await store.take_in([("meter", readout(-1))])
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE readout SET digits = 'garbled'")
        database.execute("UPDATE meter SET last_sequence = 'x'")
        database.execute("UPDATE history SET id = x'ff'")
    store = await history(path, "meter")
    for hour in range(2):
        await store.append("meter", readout(hour, "" if hour else "1"))
    assert await store.take_in([("meter", readout(-1))]) == (1, 0)
    found = await store.after(-(1 << 60), 9)
    assert [one.readout.time for one in found] == [readout(hour).time for hour in (-1, 0, 1)] or (
        found[1].readout.time == readout(0).time + timedelta(microseconds=1)
    )
    assert [one.meter_sequence for one in found] == [None, 2, 1]
    assert isinstance(store.id, str)
    await store.close()
