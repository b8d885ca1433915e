"""Coverage-guided fuzzing of all that takes bytes from outside: `make fuzz`.

    python fuzz/fuzz.py TARGET [options of libFuzzer] [CORPUS]

Targets are telegrams, commands, config, captures and tables. Whatever comes in, only our own errors
may come out.
"""

import contextlib
import io
import sys
import tempfile
from datetime import UTC
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kamstrup_mqtt"]):
    from kamstrup_mqtt import KamstrupError, Reading
    from kamstrup_mqtt.capture import mask, read_capture
    from kamstrup_mqtt.gateway.commands import COMMANDS
    from kamstrup_mqtt.gateway.config import load_config
    from kamstrup_mqtt.kmp import Direction, Frame, FrameReader, GetRegisterAnswer, decode
    from kamstrup_mqtt.kmp import encode as encode_telegram
    from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice, HomeAssistantSettings
    from kamstrup_mqtt.simulator import ReplayedMeter
    from kamstrup_mqtt.store.exchange import read_csv, to_json_line

_CONFIG = Path(tempfile.mkdtemp(prefix="kamstrup-fuzz-")) / "config.yaml"


class Nobody:
    """Takes every command, and sees that it can be meant."""

    def read_now(self, registers: tuple[int, ...] | None = None) -> None:
        assert registers is None or all(0 <= number <= 0xFFFF for number in registers)

    def read_faster(self, seconds: float) -> None:
        assert 1 <= seconds <= 86400

    def set_interval(self, seconds: float | None) -> None:
        assert seconds is None or 1 <= seconds <= 7 * 86400


def telegrams(data: bytes) -> None:
    """A line full of bytes; a telegram that is understood is written back the same."""
    reader = FrameReader()
    for found in reader.feed(data):
        if isinstance(found, Frame):
            with contextlib.suppress(KamstrupError):
                message = decode(found)
                if found.direction is Direction.ANSWER and isinstance(message, GetRegisterAnswer):
                    for value in message.values:
                        assert Reading(value.register, "x", value.value, "").json
                assert isinstance(encode_telegram(message), bytes)
    reader.close()


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
        ReplayedMeter(read_capture(data.decode(errors="replace").splitlines()))
    for asked in (False, True):
        mask(data, asked=asked)


def tables(data: bytes) -> None:
    """A CSV file to import."""
    with contextlib.suppress(KamstrupError):
        for meter, readout in read_csv(io.StringIO(data.decode(errors="replace")), UTC, meter="m"):
            assert to_json_line(meter, readout)


TARGETS = {target.__name__: target for target in (telegrams, commands, config, captures, tables)}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
