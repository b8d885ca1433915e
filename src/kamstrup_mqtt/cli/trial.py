"""The commands that need no meter: `simulate` and `demo`."""

import asyncio
import contextlib
import sys
from pathlib import Path

import click

from kamstrup_mqtt.cli.captures import read_capture_file
from kamstrup_mqtt.cli.commands import debug_option
from kamstrup_mqtt.cli.show import complain
from kamstrup_mqtt.errors import KamstrupError
from kamstrup_mqtt.simulator import (
    DEFAULT_SERIAL,
    MODELS,
    Fault,
    Line,
    Meter,
    ReplayedMeter,
    SimulatedMeter,
    fault_rate,
    serve_control,
    serve_pty,
    serve_tcp,
)


def _address(
    _ctx: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise click.BadParameter(f"'{text}' is not HOST:PORT, such as 127.0.0.1:4001")
    return host.strip("[]"), int(port)


def _rates(
    _ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> dict[Fault, float]:
    try:
        return dict(fault_rate(text) for text in given)
    except ValueError as error:
        known = ", ".join(Fault)
        raise click.BadParameter(
            f"'{' '.join(given)}' is not FAULT=RATE with a rate 0 to 1 of {known}"
        ) from error


@click.command("simulate")
@click.option(
    "--listen",
    "address",
    metavar="HOST:PORT",
    default="127.0.0.1:4001",
    show_default=True,
    callback=_address,
    help="Serve on TCP, as ser2net would; port 0 takes any free one.",
)
@click.option("--pty", is_flag=True, help="Serve on a pseudo terminal, as a serial port would.")
@click.option("--model", type=click.Choice(list(MODELS)), default="402", show_default=True)
@click.option(
    "--serial",
    type=click.IntRange(0, 0xFFFFFFFF),
    default=DEFAULT_SERIAL,
    show_default=True,
    help="Its serial number.",
)
@click.option("--pace", is_flag=True, help="Let bytes take their time at 1200 baud.")
@click.option("--echo", is_flag=True, help="Mirror requests, as most heads do.")
@click.option(
    "--delay",
    type=click.FloatRange(0, 1.6),
    default=0.07,
    show_default=True,
    help="Seconds the meter thinks before it answers.",
)
@click.option(
    "--fault",
    "faults",
    metavar="FAULT=RATE",
    multiple=True,
    callback=_rates,
    help=f"How often a fault strikes, such as bad-crc=0.3; may be repeated: {', '.join(Fault)}.",
)
@click.option(
    "--head",
    metavar="AWAY",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="How far the head is from its place, 0 to 1: first damage, then lost bytes.",
)
@click.option("--drift", metavar="SECONDS", type=float, help="Let the head slip in so long.")
@click.option(
    "--control",
    metavar="HOST:PORT",
    callback=_address,
    help="Listen there for lines such as key, head 0.3, drift 60 and fault bad-crc=0.3.",
)
@click.option(
    "--replay",
    "capture",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Be the meter of a capture instead.",
)
@click.option("--seed", type=int, help="Makes faults strike the same way each time.")
@debug_option
def simulate_command(
    *,
    address: tuple[str, int],
    pty: bool,
    model: str,
    serial: int,
    pace: bool,
    echo: bool,
    delay: float,
    faults: dict[Fault, float],
    head: float,
    drift: float | None,
    control: tuple[str, int] | None,
    capture: Path | None,
    seed: int | None,
) -> None:
    """Run a simulated meter in a simulated house, until Ctrl-C.

    The first line of output is the port to give to `read` or to config.yaml, the second one the
    address of --control. With the fault asleep, Enter presses a key of the meter.
    """
    from kamstrup_mqtt.gateway.run import until_signal  # noqa: PLC0415 - loads the whole gateway

    if pty and Fault.HANG_UP in faults:
        raise click.UsageError("a pseudo terminal cannot hang up: use --listen for that fault")
    meter = SimulatedMeter(model, serial, faults, seed)
    meter.place_head(head)
    if drift is not None:
        meter.drift(max(0.001, drift))
    served: Meter = meter
    if capture is not None:
        served = ReplayedMeter(read_capture_file(capture))
    line = Line(pace=pace, echo=echo, turnaround_s=delay)

    def press_button() -> None:
        sys.stdin.readline()
        meter.wake()

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            serving = serve_pty(served, line) if pty else serve_tcp(served, *address, line)
            print(await stack.enter_async_context(serving), flush=True)
            if control is not None:
                at = await stack.enter_async_context(serve_control(meter, *control))
                print(f"control: {at}", flush=True)
            if sys.stdin.isatty():
                asyncio.get_running_loop().add_reader(sys.stdin, press_button)
            await asyncio.Event().wait()

    try:
        asyncio.run(until_signal(serve()))
    except OSError as error:
        raise KamstrupError(f"cannot listen: {error}") from error


@click.command("demo")
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so long.")
@click.option(
    "--broker-port",
    type=click.IntRange(1, 65535),
    default=18830,
    show_default=True,
    help="Where the demo's broker listens, for other clients to watch.",
)
@debug_option
def demo_command(seconds: float | None, broker_port: int) -> None:
    """Show it all without hardware: a simulated meter, a broker and the gateway, until Ctrl-C."""
    from kamstrup_mqtt.gateway.run import until_signal  # noqa: PLC0415
    from kamstrup_mqtt.tools.demo import PAGE, run_demo  # noqa: PLC0415 - loads the whole gateway

    def message(topic: str, payload: str) -> None:
        print(f"{topic} {payload}", flush=True)

    async def for_a_while() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await run_demo(broker_port, message)

    complain(
        "a simulated MULTICAL 402 is read every 5 seconds; its house lives a minute each second"
    )
    complain(f"its page is at http://{PAGE}/")
    complain(f"watch it too: mosquitto_sub -p {broker_port} -v -t 'kamstrup/#'; Ctrl-C ends it")
    asyncio.run(until_signal(for_a_while()))
