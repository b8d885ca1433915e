"""The commands `capture` and `replay`."""

import asyncio
import json
import sys
from pathlib import Path

import click

from kamstrup_mqtt.catalog import ALL, CLASSIC_PARAMETERS, register_numbers
from kamstrup_mqtt.cli import show
from kamstrup_mqtt.cli.commands import complete_port, debug_option
from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.files import check_ours
from kamstrup_mqtt.meter import open_meter
from kamstrup_mqtt.readout.capture import Passage, Recorder, is_capture, read_capture


def read_capture_file(path: Path) -> list[Passage]:
    """The passages in the file at `path`. Raises UsageError when it holds no capture."""
    try:
        with path.open(encoding="utf-8") as file:
            passages = read_capture(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if not passages:
        raise UsageError(f"{path} holds no telegrams")
    return passages


@click.command("capture")
@click.argument("port", shell_complete=complete_port)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("parameters", metavar="[PARAMETER]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every register of the catalog.")
@click.option("--raw", is_flag=True, help="Keep serial and customer numbers.")
@debug_option
def capture_command(
    port: str, path: Path, parameters: tuple[str, ...], *, everything: bool, raw: bool
) -> None:
    """Read the meter on PORT once, and write all that goes over the line to FILE.

    The file is text and safe to post: serial and customer numbers are zeros unless --raw is given.
    It is kept also when the reading fails, for that is when one wants it. A capture that is there
    is written over, and nothing else.
    """
    registers = register_numbers([ALL] if everything else parameters or CLASSIC_PARAMETERS)

    async def read_once(recorder: Recorder) -> int:
        async with open_meter(port, recorder.tap) as meter:
            return len(await meter.read(registers))

    try:
        check_ours(path, "capture", is_capture)
        with path.open("w", encoding="utf-8") as file:
            if raw:
                path.chmod(0o600)
            recorder = Recorder(file.write, port, raw=raw)
            try:
                count = asyncio.run(read_once(recorder))
            finally:
                recorder.flush()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    print(f"{count} values were read; all that was said is in {path}")


@click.command("replay")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a telegram.")
@debug_option
def replay_command(path: Path, *, as_json: bool) -> None:
    """Explain the telegrams of a capture in FILE, as `decode` does.

    Exit status 1 tells that one was not valid.
    """
    valid = True
    for passage in read_capture_file(path):
        explanation = show.explain(passage.data.hex())
        valid = valid and "error" not in explanation
        if as_json:
            print(json.dumps(explanation, ensure_ascii=False))
        else:
            print(f"{passage.time:%H:%M:%S.%f}"[:-3], show.explanation_text(explanation))
    if not valid:
        sys.exit(KamstrupError.exit_status)
