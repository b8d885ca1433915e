"""What is fuzzed: bytes come in as from outside, and only our own errors may come out.

`make test` runs the targets over the seeds, `make fuzz` over whatever it can think of.
"""

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from kamstrup_mqtt import KamstrupError, MeterIdentity, Reading, Readout
from kamstrup_mqtt.catalog import FINE_REGISTERS, register_name, unit_symbol
from kamstrup_mqtt.cli.show import explain, explanation_text, readout_json
from kamstrup_mqtt.consumption.exchange import columns_of, read_csv, to_json_line, write_csv
from kamstrup_mqtt.gateway.commands import COMMANDS
from kamstrup_mqtt.gateway.config import load_config
from kamstrup_mqtt.kmp import (
    Frame,
    FrameReader,
    GetRegisterAnswer,
    RegisterValue,
    decode,
    decode_value,
    encode_frame,
    encode_value,
    within_max_digits,
)
from kamstrup_mqtt.kmp import encode as encode_telegram
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice, HomeAssistantSettings
from kamstrup_mqtt.polling.validation import Plausibility
from kamstrup_mqtt.readout.capture import mask, read_capture
from kamstrup_mqtt.simulator import ReplayedMeter
from kamstrup_mqtt.store import Stored, codec
from kamstrup_mqtt.store.rollup import Hour
from kamstrup_mqtt.web.figures import latest
from kamstrup_mqtt.web.metrics import exposition

Target = Callable[[bytes], None]

_METER = MeterIdentity("71343479", "0402", "F1", "403")
_NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
_FOLDER = tempfile.TemporaryDirectory(prefix="kamstrup-fuzz-")  # removed at the end
_CONFIG = Path(_FOLDER.name) / "config.yaml"


class Nobody:
    """Takes every command, and sees that it can be meant."""

    def request(self, registers: tuple[int, ...] = ()) -> None:
        assert all(0 <= number <= 0xFFFF for number in registers)

    def boost(self, seconds: float) -> None:
        assert 1 <= seconds <= 86400

    def set_interval(self, seconds: float | None) -> None:
        assert seconds is None or 1 <= seconds <= 7 * 86400


def telegrams(data: bytes) -> None:
    """A line full of bytes: explained, and a telegram that is understood is written back."""
    assert explanation_text(explain(data.hex()))
    reader = FrameReader()
    for found in reader.feed(data):
        if isinstance(found, Frame):
            with contextlib.suppress(KamstrupError):
                message = decode(found)
                assert encode_telegram(message, found.address) == encode_frame(found)
                if isinstance(message, GetRegisterAnswer):
                    values(message.to_data())
    reader.close()


def values(data: bytes) -> None:
    """The body of an answer to GetRegister, with all that the gateway does with what is in it."""
    with contextlib.suppress(KamstrupError):
        answer = GetRegisterAnswer.from_data(data)
        if not answer.values:
            return
        first = Readout(_METER, _NOON, {one.register: _reading(one) for one in answer.values}, {})
        again = {one.register: _reading(one) for one in reversed(answer.values)}
        second = replace(first, time=_NOON + timedelta(minutes=1), readings=again)
        for readout in (first, second):
            json.loads(readout.to_json())
            json.loads(readout_json(readout))
            json.dumps(latest(readout))
            exposition({"m": readout}, {}, connected=True, backlog=0)
            assert codec.decode(codec.encode(readout)) == readout
            _survives_csv(readout)
        _is_followed(first, second)


def _reading(one: RegisterValue) -> Reading:
    value = one.value
    if isinstance(value, Decimal):
        assert within_max_digits(value)
    code, data = encode_value(value, one.unit, len(one.data))
    assert decode_value(one.unit, code, data) == value
    return Reading(one.register, register_name(one.register), value, unit_symbol(one.unit))


def _survives_csv(readout: Readout) -> None:
    rows = io.StringIO()
    columns = columns_of([codec.encode(readout).columns])
    csv.writer(rows).writerows(write_csv([Stored(1, "m", readout)], columns))
    if any(one.text in ("(none)", "(empty)") for one in readout):
        return  # so a table says that there is nothing
    for _, back in read_csv(io.StringIO(rows.getvalue(), newline=""), UTC, meter="m"):
        assert [one.told for one in back] == [one.told for one in readout]
    json.loads(to_json_line(Stored(1, "m", readout)))


def _is_followed(first: Readout, second: Readout) -> None:
    """What is told of two readouts after one another."""
    coarse = tuple(FINE_REGISTERS.values())
    device = HomeAssistantDevice(
        HomeAssistantSettings(), "", "t", "t/status", (*first.readings, *coarse)
    )
    plausibility = Plausibility()
    rows = []
    for minute, readout in enumerate((first, second)):
        plausibility.doubtful(readout, minute * 60)
        plausibility.accept(readout, minute * 60)
        device.note_readout(readout)
        json.loads(device.config())
        json.loads(device.states(readout.time))
        row = codec.encode(readout)
        rows.append((row.columns, row.taken, row.digits))
    sums: dict[tuple[int, str], Hour] = {}
    for columns, taken, digits in rows:
        for register, unit, value in codec.numbers(columns, digits):
            if (hour := sums.get((register, unit))) is not None:
                hour.add(value, taken)
                assert Fraction(hour.total) == Fraction(hour.first) + Fraction(value)
            else:
                sums[register, unit] = Hour(
                    unit, value, taken, value, taken, value, value, value, 1
                )


def commands(data: bytes) -> None:
    """Messages on the topics that we listen to."""
    for command in COMMANDS.values():
        with contextlib.suppress(KamstrupError):
            command(Nobody(), data)
    HomeAssistantDevice(HomeAssistantSettings(), "", "t", "t/status", (60,)).note_announced(data)


def config(data: bytes) -> None:
    """A configuration file."""
    _CONFIG.write_bytes(data)
    with contextlib.suppress(KamstrupError):
        load_config(_CONFIG, {})


def captures(data: bytes) -> None:
    """A capture that somebody posted, and the bytes of a line that one of ours is made of."""
    with contextlib.suppress(KamstrupError):
        passages = read_capture(data.decode(errors="replace").splitlines())
        meter = ReplayedMeter(passages)
        for passage in passages:
            assert explanation_text(explain(passage.data.hex()))
            for found in FrameReader().feed(passage.data):
                if isinstance(found, Frame):
                    meter.react(found, 0)
    for asked in (False, True):
        masked = mask(data, asked=asked)
        assert mask(masked, asked=asked) == masked


def tables(data: bytes) -> None:
    """A CSV file to import."""
    with contextlib.suppress(KamstrupError):
        for meter, readout in read_csv(io.StringIO(data.decode(errors="replace")), UTC, meter="m"):
            assert to_json_line(Stored(1, meter, readout))
            assert codec.decode(codec.encode(readout)).readings.keys() == readout.readings.keys()


TARGETS: Mapping[str, Target] = {
    target.__name__: target for target in (telegrams, values, commands, config, captures, tables)
}
