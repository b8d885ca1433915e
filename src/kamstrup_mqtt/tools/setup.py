"""What `setup` makes: a configuration, a systemd service, and a first readout at the broker.

It asks nobody anything; the questions are the command's.
"""

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import yaml

from kamstrup_mqtt.errors import KamstrupError
from kamstrup_mqtt.files import has_content
from kamstrup_mqtt.gateway.config import Config, load_config
from kamstrup_mqtt.outputs.broker import BrokerError, MqttSettings, Session, connect, why
from kamstrup_mqtt.readout import Readout

SERVICE = "kamstrup-mqtt"
UNIT = Path("/etc/systemd/system/kamstrup-mqtt.service")
SERVICE_CONFIG = Path("/etc/kamstrup-mqtt/config.yaml")
_PROGRAM = "/opt/kamstrup-mqtt/bin/kamstrup-mqtt"  # as the unit names it
_HEAD = "# Made by `kamstrup-mqtt setup`. See the README for all that can be set here.\n"
_SHELL = "/usr/sbin/nologin"


def write_config(path: Path, settings: dict[str, object]) -> Config:
    """Write a configuration that only its owner can read, once it is found to be valid.

    Raises:
        ConfigError: it is not valid.
        UsageError: a folder, a pipe or a device is there.
        KamstrupError: it cannot be written.

    """
    text = _HEAD + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    try:
        has_content(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".config-", suffix=".yaml")
        try:  # mkstemp lets nobody else read it
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            load_config(Path(name), {})
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise KamstrupError(f"{path} cannot be written: {error.strerror}") from error
    return load_config(path, {})


async def try_broker(settings: MqttSettings) -> None:
    """Connect and log in. Raises KamstrupError with the reason when that fails."""
    async with _session(settings):
        pass


async def publish_first(settings: MqttSettings, readout: Readout) -> str:
    """Publish a readout, and give its topic. Raises KamstrupError when that fails."""
    topic = f"{settings.topic}/values"
    async with _session(settings) as session:
        refusal = await session.publish(topic, readout.to_json(), retain=settings.retain)
    if refusal:
        raise KamstrupError(f"broker {settings.address} does not take it on {topic}: {refusal}")
    return topic


@contextlib.asynccontextmanager
async def _session(settings: MqttSettings) -> AsyncIterator[Session]:
    """A connection under another name, so that a gateway that runs is not thrown out."""
    settings = settings.model_copy(update={"client": f"{settings.client}-setup"})
    try:
        async with connect(settings) as session:
            yield session
    except (*BrokerError, ExceptionGroup) as error:
        raise KamstrupError(f"broker {settings.address}: {why(error)}") from error


def service_unit(config: Path) -> str:
    """The systemd unit for this installation and the configuration at `config`."""
    unit = files("kamstrup_mqtt.gateway").joinpath("kamstrup-mqtt.service").read_text("utf-8")
    program = Path(sys.argv[0]).resolve()
    unit = unit.replace(_PROGRAM, str(program)).replace(str(SERVICE_CONFIG), str(config.resolve()))
    if any(Path(folder) in program.parents for folder in ("/home", "/root")):
        unit = unit.replace("ProtectHome=yes", "ProtectHome=read-only")
    return unit


def require_service() -> None:
    """Raise KamstrupError where no service can be installed: not root, or no systemd."""
    if os.geteuid() != 0:
        raise KamstrupError("only root can install the service: run `sudo kamstrup-mqtt setup`")
    if not Path("/run/systemd/system").is_dir():
        raise KamstrupError("systemd does not run here; start the gateway in another way")


def install_service(config: Path) -> None:
    """Install and start the systemd service with the configuration at `config`.

    Raises:
        KamstrupError: we are not root, systemd does not run, or a command of it failed.

    """
    require_service()
    try:
        pwd.getpwnam(SERVICE)
    except KeyError:
        groups = [name for name in ("dialout",) if _has_group(name)]
        _run("useradd", "--system", "--shell", _SHELL, "--groups", ",".join(groups), SERVICE)
    shutil.chown(config, SERVICE)
    UNIT.write_text(service_unit(config), encoding="utf-8")
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", "--now", SERVICE)


def _has_group(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(grp.getgrnam(name))
    return False


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise KamstrupError(f"`{' '.join(command)}` failed: {reason[0]}")
