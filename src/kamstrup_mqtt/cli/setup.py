"""The command `setup`: a few questions, and at the end a readout at the broker."""

import asyncio
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS, register_numbers
from kamstrup_mqtt.cli import show
from kamstrup_mqtt.cli.commands import complete_port, debug_option
from kamstrup_mqtt.errors import KamstrupError, NoAnswerError, PortError, UsageError
from kamstrup_mqtt.files import has_content
from kamstrup_mqtt.meter import list_ports, open_meter
from kamstrup_mqtt.meter.probe import Probe, Seen
from kamstrup_mqtt.readout import Readout

_LET_GO_S = 1.0
_TRIES = 3  # questions at each port
_USUAL = "energy, volume, power, flow, temp1, temp2"
_INTERVAL = "28m"

T = TypeVar("T")


@click.command("setup")
@click.option(
    "-c", "--config", "path", type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration to write.  [default: config.yaml, or in /etc with --service]",
)  # fmt: skip
@click.option("--port", shell_complete=complete_port, help="The head's port; tried out otherwise.")
@click.option("--host", help="The broker's host name or address.")
@click.option("--broker-port", type=click.IntRange(1, 65535), default=1883, show_default=True)
@click.option("--username", help="The user name at the broker, if it wants one.")
@click.option(
    "--password", envvar="KAMSTRUP_MQTT__PASSWORD", help="Its password; better in the environment."
)
@click.option("--topic", default="kamstrup", show_default=True)
@click.option("--parameters", help="Names with commas between, or all.")
@click.option("--interval", help="Time between readings: 30s, 5m, 1h, or minutes.")
@click.option("--service/--no-service", default=None, help="Whether to install a systemd service.")
@click.option("--force", is_flag=True, help="Overwrite the configuration without asking.")
@debug_option
def setup_command(
    *,
    path: Path | None,
    port: str | None,
    host: str | None,
    broker_port: int,
    username: str | None,
    password: str | None,
    topic: str,
    parameters: str | None,
    interval: str | None,
    service: bool | None,
    force: bool,
) -> None:
    """Find the meter, write config.yaml, and publish a first readout.

    It asks what it needs to know where it runs in a terminal, and takes what options say.
    """
    from kamstrup_mqtt.outputs import MqttSettings  # noqa: PLC0415
    from kamstrup_mqtt.tools import setup as work  # noqa: PLC0415 - loads the whole gateway

    ask = sys.stdin.isatty()
    path = path or (work.SERVICE_CONFIG if service else Path("config.yaml"))
    try:
        exists = has_content(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    if exists and not force:
        if not ask:
            raise UsageError(f"{path} exists already: name another one with -c, or use --force")
        if not click.confirm(f"{path} exists already. Overwrite it?"):
            raise UsageError(f"{path} is left as it is; name another one with -c")
    if host is None and not ask:
        raise UsageError("name the broker with --host")

    if service:
        work.require_service()
    _parameters(parameters or _USUAL)  # before anything takes time
    _interval(interval or _INTERVAL)
    found = _find_meter(port, ask=ask)
    readout = asyncio.run(_read(found))
    show.print_readout(readout)
    wanted, registers = _until_right(
        _parameters,
        parameters or _USUAL,
        "Parameters to publish (names with commas, or all)" if ask and not parameters else None,
    )
    every = _until_right(
        _interval,
        interval or _INTERVAL,
        "Time between readings" if ask and not interval else None,
    )

    def login(given: str) -> MqttSettings:
        name = username or (ask and click.prompt("User name (empty for none)", default="")) or None
        secret = password
        if name and secret is None and ask:
            secret = click.prompt("Password", hide_input=True, default="", show_default=False)
        details = {"host": given, "port": broker_port, "topic": topic}
        if name:
            details |= {"username": name, "password": secret or ""}
        try:
            settings = MqttSettings.model_validate(details)
        except ValueError:
            raise UsageError(f"'{given}' is no host name, or '{topic}' no topic") from None
        asyncio.run(work.try_broker(settings))
        return settings

    prompt = "Address of the MQTT broker" if ask and host is None else None
    settings = _until_right(login, host or "localhost", prompt)
    name, secret = settings.credentials
    config = work.write_config(
        path,
        {
            "mqtt": {
                "host": settings.host, "port": settings.port, "topic": topic, "qos": 1,
                "retain": True,
                **({"username": name} if name else {}), **({"password": secret} if secret else {}),
            },
            "serial_device": {"com_port": found},
            "kamstrup": {"parameters": _words(wanted), "poll_interval": every},
        },
    )  # fmt: skip
    print(f"{path} is written; only its owner can read it.")
    if set(registers) - set(readout.readings):
        readout = asyncio.run(_read(found, registers))
    at = asyncio.run(work.publish_first(config.mqtt, readout.only(registers)))
    print(f"Published on {at}: {readout.only(registers).to_json()}")
    login_words = f" -u {shlex.quote(name)} -P ..." if name else ""
    print(
        f"See it: mosquitto_sub -h {config.mqtt.host} -p {config.mqtt.port}{login_words} -v "
        f"-t '{topic}/#'. Home Assistant finds the meter by itself once the gateway runs."
    )
    if service is None and ask:
        service = click.confirm("Install a systemd service, so that it always runs?", default=False)
    if service:
        work.install_service(path)
        print("The service runs: journalctl -fu kamstrup-mqtt")
    else:
        print(f"Start the gateway: kamstrup-mqtt run -c {shlex.quote(str(path))}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _parameters(given: str) -> tuple[str, tuple[int, ...]]:
    return given, register_numbers(_words(given))


def _interval(given: str) -> str:
    from kamstrup_mqtt.quantities import INTERVAL, interval_seconds  # noqa: PLC0415

    try:
        interval_seconds(given)
    except ValueError:
        raise UsageError(f"'{given}' is no interval: expected {INTERVAL}") from None
    return given


def _until_right(work: Callable[[str], T], given: str, prompt: str | None) -> T:
    """What `work` makes of an answer; where there is a `prompt`, it is asked until it works."""
    while True:
        if prompt is not None:
            given = click.prompt(prompt, default=given)
        try:
            return work(given)
        except KamstrupError as error:
            if prompt is None:
                raise
            show.complain(str(error))


def _find_meter(port: str | None, *, ask: bool) -> str:
    """The port where a meter answers: the one that was named, or one of all there are."""
    candidates = [port] if port else [each.path for each in list_ports()]
    while True:
        heard: NoAnswerError | None = None
        for candidate in candidates:
            print(f"Trying {candidate} ... ", end="", flush=True)
            try:
                seen = asyncio.run(_hear(candidate))
            except PortError as error:
                print(error)
                if port and not ask:
                    raise
                continue
            print("a meter answers" if seen is Seen.GOOD else f"no meter ({seen})")
            if seen is Seen.GOOD:
                return candidate
            heard = NoAnswerError(echo=seen is Seen.ECHO)
        if not ask:
            raise heard or PortError(
                "there is no serial port: name one with --port", "port_missing"
            )
        show.complain(
            "no meter answers: press a key on it, place the head with `kamstrup-mqtt align`, or "
            "name another port"
        )
        candidates = [click.prompt("Port, or socket://host:port", default=port or None)]


async def _hear(port: str) -> Seen:
    async with Probe(port) as probe:
        for _ in range(_TRIES):
            if (seen := await probe.ask()) is Seen.GOOD:
                break
        return seen


async def _read(port: str, registers: tuple[int, ...] | None = None) -> Readout:
    wanted = registers or CLASSIC_PARAMETERS
    try:
        async with open_meter(port) as meter:
            return await meter.read(wanted)
    except PortError as error:
        if error.kind != "port_busy":
            raise
    await asyncio.sleep(_LET_GO_S)  # ser2net takes a moment to let go of what we just closed
    async with open_meter(port) as meter:
        return await meter.read(wanted)
