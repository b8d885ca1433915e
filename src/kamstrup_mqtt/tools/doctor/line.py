"""Examines the line to one meter: from the port to what the meter says of itself."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from kamstrup_mqtt.catalog import INFO_CODE, info_words, register_number
from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError, TelegramError
from kamstrup_mqtt.meter import MeterSession, Tap, list_ports
from kamstrup_mqtt.meter.link import Link
from kamstrup_mqtt.meter.probe import Probe, Seen
from kamstrup_mqtt.polling.schedule import SLEEPY_S
from kamstrup_mqtt.readout import NOT_IN_METER, Readout
from kamstrup_mqtt.tools.doctor.finding import Finding

_TRIES = 5  # questions until an answer
_TELEGRAMS = 10
_HOPELESS = 4  # damaged answers in a row, after which asking on tells nothing new
_NAMED = 8  # parameters in one sentence
_SLOW_S = 1.0  # a real meter begins after 0.1 s, and its answer takes 0.15 s
_CLOCK = timedelta(minutes=75)  # summer time, which meters may not know, and a quarter of an hour
_DATE_TIME = register_number("date_time")
_CLOCK_PARTS = (register_number("date"), register_number("clock"))
_MOVE = "find the head's place with `kamstrup-mqtt align`"
_SILENCE = (
    "press a key on the meter, for it may be asleep; otherwise the head is not in its place "
    f"or this is the wrong port: {_MOVE}"
)

# Takes the name of a check, what was found, and a sentence.
Note = Callable[[str, Finding, str], None]


async def examine_line(
    line: str | Link,
    registers: tuple[int, ...],
    note: Note,
    last_readout: datetime | None = None,
    tap: Tap | None = None,
) -> None:
    """Examine the port, the line and the meter; whatever comes of it, the port is closed after.

    Args:
        line: a device or URL, or the line to it.
        registers: what is configured to be read.
        note: takes each finding.
        last_readout: when the meter was read last, as far as is known.
        tap: called with all bytes that pass.

    """
    port = line.port if isinstance(line, Link) else line
    network = "://" in port
    if not network and not _examine_device(port, note):
        return
    try:
        async with Probe(line, tap) as probe:
            if not network:
                note("free", Finding.OK, "no other program holds the port")
            opened = "it accepts connections" if network else "it opens with 1200 baud, 8N2"
            note("host" if network else "open", Finding.OK, opened)
            if await _examine_answers(probe, note, last_readout):
                await _examine_meter(MeterSession(probe.link), registers, note)
    except PortError as error:
        places = {
            "port_missing": "port", "no_permission": "permission", "port_busy": "free",
            "unreachable": "host",
        }  # fmt: skip
        note(places.get(error.kind, "open"), Finding(error.kind), str(error))


def _examine_device(port: str, note: Note) -> bool:
    """Whether the device exists and may be used."""
    found = list_ports()
    if not Path(port).exists():
        here = ", ".join(each.path for each in found) or "none"
        note(
            "port",
            Finding.PORT_MISSING,
            f"{port} does not exist: plug the head in, or use another name; found here: {here}",
        )
        return False
    stable = [each.path for each in found if each.device == os.path.realpath(port) != each.path]
    if stable and port not in stable:
        note("port", Finding.OK, f"{port} exists; better use {stable[0]}, which never changes")
    else:
        note("port", Finding.OK, f"{port} exists")
    if os.access(port, os.R_OK | os.W_OK):
        note("permission", Finding.OK, "we may read and write it")
    return True  # whether we may not is told with the advice that opening it gives


async def _examine_answers(probe: Probe, note: Note, last_readout: datetime | None) -> bool:
    """Whether the meter answers, and not only once."""
    seen: list[Seen] = []
    while len(seen) < _TRIES and Seen.GOOD not in seen:
        seen.append(await probe.ask())
    heard = "comes back, so that port and head work" if probe.echo else "is not heard; some do not"
    note("echo", Finding.OK, f"our own question {heard}")
    if Seen.GOOD not in seen:
        note("answer", *_without_answer(seen, probe, last_readout))
        return False
    before = set(seen[:-1])
    if len(seen) > 2 and before <= {Seen.NOTHING, Seen.ECHO}:
        note(
            "answer",
            Finding.ASLEEP,
            "it answers now and did not at first: it was asleep; a poll_interval up to 25m or "
            "keep_awake keeps it awake",
        )
    else:
        note("answer", Finding.OK, "the meter answers")
    return await _examine_telegrams(probe, note)


def _without_answer(
    seen: list[Seen], probe: Probe, last_readout: datetime | None
) -> tuple[Finding, str]:
    """What `seen` without a good answer means."""
    if Seen.BAD_CRC in seen:
        return Finding.BAD_CRC, f"every answer is damaged: the head is nearly right; {_MOVE}"
    if probe.other_program:
        return (
            Finding.OTHER_PROGRAM,
            "answers to somebody else are on the line: stop the other program that reads it",
        )
    if Seen.NOISE in seen:
        return (
            Finding.NOISE,
            (
                "what comes back is no answer: shade the head from strong light, see that the line "
                f"has 1200 baud and 8N2 also in ser2net, and {_MOVE}"
            ),
        )
    if last_readout and (datetime.now(UTC) - last_readout).total_seconds() > SLEEPY_S:
        when = last_readout.astimezone().isoformat(sep=" ", timespec="minutes")
        return Finding.ASLEEP, f"it was read last at {when}; {_SILENCE}"
    if Seen.ECHO in seen:
        return Finding.ECHO_ONLY, f"the head hears only itself, so port and head work: {_SILENCE}"
    return Finding.NOTHING_HEARD, f"nothing comes back: {_SILENCE}"


async def _examine_telegrams(probe: Probe, note: Note) -> bool:
    """Whether the meter answers well enough to be read at all."""
    seen: list[Seen] = []
    times = []
    for _ in range(_TELEGRAMS):
        seen.append(await probe.ask())
        if seen[-1] is Seen.GOOD:
            times.append(probe.took_s)
        elif len(seen) >= _HOPELESS and not times:
            break
    count = Counter(seen)
    bad = len(seen) - count[Seen.GOOD]
    told = f"{bad} of {len(seen)} questions got no good answer"
    if count[Seen.BAD_CRC]:
        note(
            "crc", Finding.BAD_CRC,
            f"{told}, {count[Seen.BAD_CRC]} a wrong checksum: the head is nearly right; {_MOVE}",
        )  # fmt: skip
    elif probe.other_program:
        note("crc", Finding.OTHER_PROGRAM, f"{told}: stop the other program that reads this meter")
    elif count[Seen.NOISE]:
        note("crc", Finding.NOISE, f"{told}, but fragments: {_MOVE}")
    elif bad:
        note("crc", Finding.NOTHING_HEARD, f"{told}: {_MOVE}")
    else:
        note("crc", Finding.OK, f"all of {len(seen)} answers are undamaged")
    if times:
        took = median(times)
        told = f"an answer takes {took * 1000:.0f} ms"
        if took < _SLOW_S:
            note("latency", Finding.OK, told)
        else:
            note("latency", Finding.SLOW, f"{told}: look at the network between here and the head")
    return bool(times)


async def _examine_meter(session: MeterSession, registers: tuple[int, ...], note: Note) -> None:
    """Who the meter is, what it says of itself, and whether it has what is configured."""
    try:
        readout = await session.read(registers or (INFO_CODE,))
    except PortError:
        raise
    except KamstrupError as error:
        note("meter", Finding.NOT_IDENTIFIED, f"reading it failed: {error}")
        return
    meter = readout.meter
    if meter.serial is None:
        note("meter", Finding.NOT_IDENTIFIED, f"it does not tell its serial number: {_MOVE}")
    else:
        model = f"MULTICAL {meter.model}" if meter.model else f"type {meter.type_code or 'unknown'}"
        note("meter", Finding.OK, f"serial number {meter.serial}, {model}")
    if registers:
        _examine_parameters(readout, note)
    with contextlib.suppress(NoAnswerError, TelegramError):  # from a meter that has none of them
        more = await session.read((INFO_CODE, *_CLOCK_PARTS, _DATE_TIME))
        _examine_clock(more, note)
        _examine_info_code(more, note)


def _examine_clock(readout: Readout, note: Note) -> None:
    told = None
    whole = readout.readings.get(_DATE_TIME)
    date, time = (readout.readings.get(number) for number in _CLOCK_PARTS)
    if whole and isinstance(whole.value, datetime):
        told = whole.value
    elif date and time and date.text and time.text:
        try:
            told = datetime.fromisoformat(f"{date.text}T{time.text}")
        except ValueError:
            told = None
    if told is None:
        note("clock", Finding.OK, "the meter does not tell its time")
        return
    away = told.replace(tzinfo=None) - readout.time.replace(tzinfo=None)
    text = f"the meter's clock says {told:%Y-%m-%d %H:%M}, ours {readout.time:%Y-%m-%d %H:%M}"
    if abs(away) <= _CLOCK:
        note("clock", Finding.OK, text)
    else:
        note(
            "clock",
            Finding.CLOCK_OFF,
            f"{text}: see date and time zone of this machine; only the utility sets the meter's",
        )


def _examine_parameters(readout: Readout, note: Note) -> None:
    unknown = [name for name, why in readout.missing.items() if why == NOT_IN_METER]
    lost = [name for name in readout.missing if name not in unknown]
    if unknown:
        note(
            "parameters",
            Finding.PARAMETER_UNKNOWN,
            f"this meter does not have {_some(unknown)}: take them out of the configuration",
        )
    elif lost:
        note("parameters", Finding.BAD_CRC, f"could not be read: {_some(lost)}; {_MOVE}")
    else:
        note("parameters", Finding.OK, f"all {len(readout)} configured parameters were read")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _examine_info_code(readout: Readout, note: Note) -> None:
    reading = readout.readings.get(INFO_CODE)
    code = int(reading.text) if reading and reading.text.isdigit() else None
    if not code:
        told = "the meter reports no fault" if code == 0 else "the meter has no info code"
        note("info_code", Finding.OK, told)
        return
    words = "; ".join(info_words(code, readout.meter.model or "")) or "see the meter's manual"
    note("info_code", Finding.METER_FAULT, f"the meter reports info code {code}: {words}")
