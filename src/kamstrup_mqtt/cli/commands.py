"""The commands for a real meter: parse, call, print; nothing else.

What only one command needs is imported by that command, so that the others start fast.
"""
# ruff: noqa: PLC0415

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from kamstrup_mqtt import catalog
from kamstrup_mqtt.cli import show
from kamstrup_mqtt.errors import KamstrupError, TelegramError
from kamstrup_mqtt.meter import list_ports, open_meter
from kamstrup_mqtt.readout import NOT_IN_METER, Readout


def _start_debugging(_ctx: click.Context, _option: click.Parameter, given: bool) -> None:  # noqa: FBT001
    if given:
        from kamstrup_mqtt.gateway.log import log_to_stderr

        log_to_stderr("debug")


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_start_debugging,
    help="Log every telegram, and show a traceback when something fails.",
)


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option -c to a command."""
    return click.option(
        "-c",
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=Path("config.yaml"),
        show_default=True,
        help="The configuration file.",
    )(command)


def complete_port(
    _ctx: click.Context, _argument: click.Parameter, begun: str
) -> list[CompletionItem]:
    """The ports of this machine, for the shell to complete."""
    found = [CompletionItem(port.path, help=port.description) for port in list_ports()]
    return [item for item in found if item.value.startswith(begun)]


def _complete_parameter(
    _ctx: click.Context, _argument: click.Parameter, begun: str
) -> list[CompletionItem]:
    known = catalog.REGISTERS.values()
    found = [CompletionItem(register.name, help=register.title) for register in known]
    return [item for item in found if item.value.lower().startswith(begun.lower())]


@click.command("run")
@config_option
@click.option(
    "--capture",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Record all that goes over the lines, with numbers masked, up to 10 MB.",
)
@debug_option
def run_command(path: Path, capture: Path | None) -> None:
    """Run the gateway: read the meters at their interval and publish over MQTT.

    It stays in the foreground and ends cleanly on SIGTERM or Ctrl-C. A broker or meter that is
    absent is waited for; the log on standard error says what is wrong.
    """
    from kamstrup_mqtt.gateway.config import load_config
    from kamstrup_mqtt.gateway.log import log_to_file, log_to_stderr
    from kamstrup_mqtt.gateway.run import run_gateway, until_signal

    _share_memory()
    config = load_config(path)
    log_to_stderr("debug" if "--debug" in sys.argv else config.log.level)
    if config.log.file is not None:
        log_to_file(config.log.file)
    for warning in config.warnings:
        logging.getLogger(__name__).warning(warning)
    asyncio.Runner().run(until_signal(run_gateway(config, capture)))
    logging.getLogger(__name__).info("Stopped")
    # Everything is closed, but for a thread that may still wait for an unreachable broker, and
    # that a normal exit would wait for in turn.
    logging.shutdown()
    os._exit(0)


def _share_memory() -> None:
    """Have all threads allocate from one pool, which spares some 300 kB with glibc."""
    import ctypes

    arena_max = -8  # of malloc.h
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(arena_max, 1)


@click.command("read")
@click.argument("port", shell_complete=complete_port)
@click.argument(
    "parameters", metavar="[PARAMETER]...", nargs=-1, shell_complete=_complete_parameter
)
@click.option("--all", "everything", is_flag=True, help="Every register of the catalog.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@debug_option
def read_command(
    port: str, parameters: tuple[str, ...], *, everything: bool, as_json: bool
) -> None:
    """Read the meter on PORT once.

    PORT is a device such as /dev/ttyUSB0, or socket://host:port. PARAMETER is a name such as
    energy, or a register number such as 60 or 0x10A; without any, the 31 usual ones are read.
    """
    wanted = [catalog.ALL] if everything else parameters or catalog.CLASSIC_PARAMETERS
    registers = catalog.register_numbers(wanted)

    async def read_once() -> Readout:
        async with open_meter(port) as meter:
            return await meter.read(registers)

    readout = asyncio.run(read_once())
    if as_json:
        print(show.readout_json(readout))
    else:
        show.print_readout(readout)
    lost = [name for name, reason in readout.missing.items() if reason != NOT_IN_METER]
    if lost:
        raise TelegramError(
            f"could not be read: {', '.join(lost)} ({readout.missing[lost[0]]}); try again"
        )
    if not readout.readings:
        raise KamstrupError("the meter has none of these registers; try `--all`")


@click.command("check")
@config_option
@debug_option
def check_command(path: Path) -> None:
    """Check the configuration, without touching a port or the broker."""
    from kamstrup_mqtt.gateway.config import load_config
    from kamstrup_mqtt.quantities import duration

    config = load_config(path)
    for warning in config.warnings:
        show.complain(warning)
    print(f"{path} is fine: broker {config.mqtt.address}, topic {config.mqtt.topic}")
    intervals = _intervals_set(config.history.path, [meter.name for meter in config.meters])
    for meter in config.meters:
        when = f"at {meter.poll_at}" if meter.poll_at else f"every {duration(meter.interval_s)}"
        print(
            f"{meter.name}: {len(meter.registers)} registers from {meter.port} "
            f"{when} to {meter.topic}/values"
        )
        if seconds := intervals.get(meter.name):
            print(
                f"{meter.name}: every {duration(seconds)}, which a command has set, takes the "
                f"place of that; an empty message on {meter.topic}/poll_interval goes back to it"
            )


def _intervals_set(history: Path, meters: Sequence[str]) -> dict[str, float]:
    """The intervals, in seconds, that somebody set while the gateway ran, by meter."""
    from kamstrup_mqtt.consumption import Archive
    from kamstrup_mqtt.gateway.commands import wanted_interval
    from kamstrup_mqtt.gateway.inbox import LASTING, interval_of

    found = {}
    with contextlib.suppress(KamstrupError), Archive(history) as archive:
        for meter in meters:
            latest, _ = interval_of(archive.setting(meter, LASTING))
            with contextlib.suppress(KamstrupError):  # what is damaged counts as none
                if latest and (seconds := wanted_interval(latest[-1])) is not None:
                    found[meter] = seconds
    return found


@click.command("health")
@config_option
@click.option("--live", is_flag=True, help="Only whether it is alive, and needs no restart.")
@debug_option
def health_command(path: Path, *, live: bool) -> None:
    """Ask the running gateway how it is: exit status 0 when all is well, 1 when not.

    All is well when it reads every meter, writes the history, and is connected to the broker. A
    meter that sleeps or a broker that is away does not count with --live.
    """
    from kamstrup_mqtt.gateway.service import ask_health

    complaints = asyncio.run(ask_health(path, live=live))
    for line in complaints or ["all is well"]:
        print(line)
    if complaints:
        sys.exit(KamstrupError.exit_status)


@click.command("ports")
@debug_option
def ports_command() -> None:
    """List the serial ports, those with a stable name first, with what is plugged in."""
    found = list_ports()
    if not found:
        show.complain("no serial ports: plug the head in, then see what `dmesg` says of it")
    show.print_ports(found)


@click.command("decode")
@click.argument("telegrams", metavar="[HEX]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a telegram.")
@debug_option
def decode_command(telegrams: tuple[str, ...], *, as_json: bool) -> None:
    """Explain telegrams given in hex.

    Each HEX is a telegram; without any, they are read from standard input, one a line. Exit status
    1 tells that one was not valid.
    """
    lines: Iterable[str] = telegrams
    if not telegrams:
        if sys.stdin.isatty():
            show.complain("reading telegrams in hex, one a line; Ctrl-D ends")
        text = (line.decode("ascii", "replace") for line in sys.stdin.buffer)
        lines = (line for line in text if line.strip())
    elif all(len(part.lower().removeprefix("0x")) <= 2 for part in telegrams):
        lines = [" ".join(telegrams)]  # single bytes: 80 3F 01 05 8A 0D
    valid = True
    for line in lines:
        explanation = show.explain(line)
        valid = valid and "error" not in explanation
        as_text = json.dumps(explanation, ensure_ascii=False)
        print(as_text if as_json else show.explanation_text(explanation), flush=True)
    if not valid:
        sys.exit(KamstrupError.exit_status)
