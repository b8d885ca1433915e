"""Publishes readouts over MQTT: follows the history, survives the broker, says when it is gone.

`<topic>/values` carries readouts, `<topic>/status` says online or offline and is the last will. It
never talks to a meter.
"""

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Mapping
from pathlib import Path

from aiomqtt import Client, MqttCodeError, MqttError, Will
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from kamstrup_mqtt.store import History

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 15.0
# A connection that held so long lets the waits start over. One that is thrown out again and again,
# as by another client of the same name, does not.
_HELD_S = 5.0
_FAREWELL_S = 0.5  # what a broker may take to confirm our end

_log = logging.getLogger(__name__)


class MqttSettings(BaseModel):
    """The section `mqtt` of the configuration. Descriptions say what is expected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        pattern=r"^[^\s/]+$", description="the broker's host name or address, without mqtt://"
    )
    port: int = Field(default=1883, ge=1, le=65535, description="a port number from 1 to 65535")
    client: str = Field(default="kamstrup-mqtt", min_length=1, description="a client name")
    topic: str = Field(
        default="kamstrup",
        pattern=r"^[^+#\x00]+$",
        description="a topic without the wildcards + and #",
    )
    retain: bool = Field(default=False, description="true or false")
    qos: int = Field(default=0, ge=0, le=2, description="0, 1 or 2")
    authentication: bool | None = Field(default=None, description="true or false")
    username: str | None = Field(default=None, description="a user name")
    password: SecretStr | None = Field(default=None, description="a password")
    password_file: Path | None = Field(default=None, description="a file that holds the password")
    tls_enabled: bool = Field(default=False, description="true or false")
    tls_ca_cert: Path | None = Field(default=None, description="a file with CA certificates")
    tls_cert: Path | None = Field(default=None, description="a file with the client certificate")
    tls_key: Path | None = Field(default=None, description="a file with the client's key")
    tls_insecure: bool = Field(default=False, description="true or false")

    @property
    def address(self) -> str:
        """Host and port, as logs show them."""
        return f"{self.host}:{self.port}"

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """User name and password to log in with, or None for each that is not used."""
        if self.username is None or self.authentication is False:
            return None, None
        return self.username, self.password.get_secret_value() if self.password else None


class MqttOutput:
    """The connection to one broker, for as long as the gateway runs.

    Args:
        settings: where and how to publish.
        history: what to publish from.
        topics: the base topic of each meter, by its configured name.

    """

    def __init__(self, settings: MqttSettings, history: History, topics: Mapping[str, str]) -> None:
        self._settings = settings
        self._history = history
        self._topics = topics
        self._cursor = 0
        self._said = ""

    async def run(self) -> None:
        """Publish until cancelled; reconnects for ever, and says `offline` at the end."""
        loop = asyncio.get_running_loop()
        retry_s = _FIRST_RETRY_S
        while True:
            began, reason = loop.time(), ""
            try:
                await self._connection()
            except* (MqttError, OSError, ValueError) as errors:  # a certificate, a host name
                reason = _reason(errors)
            if reason != self._said:
                _log.warning(
                    "Broker %s: %s. Trying again; readings go on meanwhile",
                    self._settings.address,
                    reason,
                )
                self._said = reason
            if loop.time() - began > _HELD_S:
                retry_s = _FIRST_RETRY_S
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _connection(self) -> None:
        """One connection, until it is lost."""
        settings = self._settings
        status = f"{settings.topic}/status"
        username, password = settings.credentials
        async with Client(
            settings.host,
            settings.port,
            identifier=settings.client,
            username=username,
            password=password,
            will=Will(status, "offline", qos=1, retain=True),
            tls_context=_tls_context(settings) if settings.tls_enabled else None,
            tls_insecure=True if settings.tls_enabled and settings.tls_insecure else None,
        ) as client:
            try:
                await client.publish(status, "online", qos=1, retain=True)
                _log.info(
                    "Connected to broker %s%s; QoS %d, retain %s",
                    settings.address,
                    f" as {username}" if username else "",
                    settings.qos,
                    str(settings.retain).lower(),
                )
                self._said = ""
                # The iterator ends as soon as the connection does, and so cancels a publish
                # that would wait for its confirmation.
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(client))
                    tasks.create_task(_until_lost(client))
            except asyncio.CancelledError:
                client.timeout = _FAREWELL_S
                with contextlib.suppress(MqttError):
                    await client.publish(status, "offline", qos=1, retain=True)
                raise

    async def _follow(self, client: Client) -> None:
        settings = self._settings
        # A broker that restarted may have lost what it retained: it gets the latest again.
        cursor = 0 if settings.retain else self._cursor
        while True:
            for entry in await self._history.after(cursor):
                topic = f"{self._topics[entry.meter]}/values"
                payload = entry.readout.to_json()
                _log.info("Publishing '%s' '%s' to %s", topic, payload, settings.address)
                await client.publish(topic, payload, qos=settings.qos, retain=settings.retain)
                cursor = self._cursor = entry.sequence


async def _until_lost(client: Client) -> None:
    """Wait for the end of the connection, which raises MqttError."""
    async for _ in client.messages:
        pass


def _tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """The TLS side of the settings. Raises OSError for a file that cannot be used."""
    context = ssl.create_default_context(cafile=settings.tls_ca_cert)
    if settings.tls_insecure:  # as ever: any host name, but still a certificate of a known CA
        context.check_hostname = False
    if settings.tls_cert is not None:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


def _reason(errors: BaseExceptionGroup[BaseException]) -> str:
    """Why the connection failed or ended, in words."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MqttCodeError) and isinstance(error.rc, ReasonCode):
        return f"refused us: {error.rc}"
    if str(error).startswith("Disconnected"):
        return "connection lost"
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
