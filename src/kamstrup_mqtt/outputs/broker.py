"""The connection to an MQTT broker: its settings, one session on it, and why it ended, in words.

The only module that knows aiomqtt and paho. It knows no topic.
"""

import asyncio
import contextlib
import logging
import math
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

from aiomqtt import Client, Message, MqttCodeError, MqttError, ProtocolVersion, Will
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import BaseModel, ConfigDict, Field, SecretStr

_DISCONNECTED = "Disconnected"  # as the library begins to say it
_AROUND = 16  # bytes of a message besides its topic and payload, at least
FAREWELL_S = 0.5  # what a broker may take to confirm our end
_QUEUE = 20_000  # messages from others that may wait; what is more is dropped
_ADVICE = {
    "Not authorized": "check username and password, and what the broker allows this user",
    "Bad user name or password": "check username and password",
    "Unsupported protocol version": "set mqtt.version to the other one of 3.1.1 and 5",
    "Client identifier not valid": "choose another name for mqtt.client",
}
_TLS_ADVICE = {
    "unable to get local issuer": "name the file of the broker's CA as mqtt.tls_ca_cert",
    "self-signed certificate": "name the file of the broker's CA as mqtt.tls_ca_cert",
    "Hostname mismatch": "use the name in the certificate as mqtt.host",
    "IP address mismatch": "use the name in the certificate as mqtt.host",
    "WRONG_VERSION_NUMBER": "this port is not encrypted; TLS is usually on port 8883",
}

_HUNG_UP = (
    "hung up before we were logged in; see that mqtt.port and mqtt.transport are right, and that "
    "it does not want a client certificate (mqtt.tls_cert and mqtt.tls_key)"
)
_NO_SUBSCRIBERS = 0x10  # a reason code of MQTT 5
_LOGIN = ("Not authorized", "Bad user name or password", "Banned")
_LOST = (MQTTErrorCode.MQTT_ERR_NO_CONN, MQTTErrorCode.MQTT_ERR_CONN_LOST)

# What the library logs besides raising it, with a traceback, nobody needs twice.
_library_log = logging.getLogger(f"{__name__}.library")
_library_log.setLevel(logging.CRITICAL)

T = TypeVar("T")

BrokerError = (MqttError, OSError)  # all that a connection fails with


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
    topics: Literal["json", "per_parameter"] = Field(
        default="json", description="json, or per_parameter for a topic each as well"
    )
    retain: bool = Field(default=False, description="true or false")
    qos: int = Field(default=0, ge=0, le=2, description="0, 1 or 2")
    version: Literal["3.1.1", "5"] = Field(default="3.1.1", description="3.1.1 or 5")
    transport: Literal["tcp", "websockets"] = Field(default="tcp", description="tcp or websockets")
    path: str = Field(
        default="/mqtt", pattern=r"^/\S*$", description="a path that begins with a slash"
    )
    keepalive: int = Field(default=60, ge=5, le=65535, description="seconds from 5 to 65535")
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

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS side, if there is one. Raises OSError for a file that cannot be used."""
        if not self.tls_enabled:
            return None
        context = ssl.create_default_context(cafile=self.tls_ca_cert)
        # From Python 3.13 on the default refuses most certificates of a CA made at home.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.tls_insecure:  # as ever: any host name, but still a certificate of a known CA
            context.check_hostname = False
        if self.tls_cert is not None:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        return context


class Session:
    """One connection, until it is lost. Made by `connect`."""

    def __init__(self, client: "_Client", user: str) -> None:
        self.heard_at = -math.inf  # the monotonic time at which the broker last confirmed anything
        # The topic and length of a message that is not confirmed yet.
        self.in_flight: tuple[str, int] | None = None
        self._client = client
        self._user = user
        self._turn = asyncio.Lock()

    @property
    def is_lost(self) -> bool:
        """Whether the broker hung up."""
        return self._client.lost.is_set()

    async def publish(
        self, topic: str, payload: str, *, qos: int = 1, retain: bool = False,
        expiry_s: float | None = None,
    ) -> str | None:  # fmt: skip
        """Publish, and wait until the broker confirms it where `qos` is 1 or 2.

        Args:
            topic: where to.
            payload: what.
            qos: quality of service.
            retain: whether the broker is to keep it.
            expiry_s: on MQTT 5, seconds after which nobody is to receive it any more.

        Returns:
            None when all is well, or in words why the broker does not pass it on, which MQTT 5
            tells from quality of service 1 on.

        """
        properties = None
        if expiry_s is not None and self._client.is_version_5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = max(1, math.ceil(expiry_s))
        async with self._turn:
            size, most = len(topic.encode()) + len(payload.encode()) + _AROUND, self._client.most
            if most is not None and size > most:
                return f"it has {size} bytes, and the broker takes {most} at most; raise that"
            if self.is_lost:
                raise MqttError(_DISCONNECTED)
            self._client.refusal = None
            self.in_flight = topic, len(payload)
            try:
                await self._heard(self._client.publish(topic, payload, qos, retain, properties))
            except ValueError as error:  # a topic that is none, or a payload of over 256 MB
                raise MqttError(f"{topic} cannot be published: {error}") from error
            if qos:
                self.in_flight = None
            else:  # which only `confirm` finds out
                self.heard_at = -math.inf
            refusal: str | None = self._client.refusal
            return f"{refusal}; allow {self._user} to write it" if refusal else None

    async def _heard(self, asking: Coroutine[Any, Any, T]) -> T:
        """What comes of it, or MqttError as soon as the connection is lost."""
        task = asyncio.ensure_future(asking)
        lost = asyncio.ensure_future(self._client.lost.wait())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise MqttError(_DISCONNECTED)
            result = task.result()
        finally:
            task.cancel()
            lost.cancel()
        self.heard_at = time.monotonic()
        return result

    async def has_listeners(self, topic: str) -> bool | None:
        """Whether anybody gets what is published on `topic`; None where the broker does not tell.

        An empty message that nobody keeps finds out, which only MQTT 5 answers.

        Raises:
            MqttError: the connection is lost, or the broker forbids the topic.

        """
        refusal = await self.publish(topic, "")
        if refusal:
            raise MqttError(refusal)
        return not self._client.unheard if self._client.is_version_5 else None

    async def confirm(self) -> None:
        """Wait until the broker has taken all that was published before, at any QoS.

        It works off one connection in order, and answers this with a message to us alone.
        """
        await self._heard(self._client.unsubscribe("$nothing"))
        self.in_flight = None

    async def subscribe(self, topics: list[str]) -> dict[str, str]:
        """Subscribe to `topics`; gives those the broker refused, each with the reason."""
        codes = await self._heard(self._client.subscribe([(topic, 1) for topic in topics]))
        return {
            topic: str(code)
            for topic, code in zip(topics, codes, strict=True)
            if isinstance(code, ReasonCode) and code.is_failure
        }

    async def messages(self) -> AsyncIterator[Message]:
        """What others publish. Raises MqttError as soon as the connection is lost."""
        async for message in self._client.messages:
            yield message

    async def say_goodbye(self, topic: str, payload: str) -> None:
        """Publish a last retained message, without waiting long for a broker that hangs."""
        self._client.timeout = FAREWELL_S
        with contextlib.suppress(MqttError):
            await self._client.publish(topic, payload, qos=1, retain=True)


class _Client(Client):
    """A client that also tells when the broker hangs up on us, or does not pass a message on."""

    is_version_5 = False
    refusal: str | None = None
    unheard = False
    most: int | None = None  # bytes of a message that the broker takes, where it says so

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lost = asyncio.Event()

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode,
        properties: Any = None,
    ) -> None:  # fmt: skip
        self.most = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.is_failure:
            self.refusal = str(reason_code)
        self.unheard = reason_code.value == _NO_SUBSCRIBERS
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(
        self,
        client: Any,
        userdata: Any,
        flags: Any,
        reason_code: ReasonCode,
        properties: Any = None,
    ) -> None:
        if not self._connected.done():  # the library would go on waiting for the login
            self._connected.set_exception(MqttError(_HUNG_UP))
        self.lost.set()
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def hang_up(self) -> None:
        """Close the socket; after some errors the library leaves it, and reads it for ever."""
        left = self._client.socket()
        if isinstance(left, socket.socket) and left.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(left)
            loop.remove_writer(left)
            left.close()


@contextlib.asynccontextmanager
async def connect(settings: MqttSettings, will_topic: str | None = None) -> AsyncIterator[Session]:
    """Connect and log in; the last will is `offline` on `will_topic`, retained, if one is given.

    Raises:
        MqttError, OSError: it failed; `why` puts that into words.

    """
    try:
        client = _client(settings, will_topic)
    except ValueError as error:  # what TLS or the library does not take
        raise MqttError(str(error)) from error
    try:
        async with client:
            yield Session(client, settings.credentials[0] or "anonymous users")
    finally:
        client.hang_up()


def _client(settings: MqttSettings, will_topic: str | None) -> _Client:
    username, password = settings.credentials
    version_5 = settings.version == "5"
    websockets = settings.transport == "websockets"
    client = _Client(
        settings.host,
        settings.port,
        identifier=settings.client,
        username=username,
        password=password,
        will=Will(will_topic, "offline", qos=1, retain=True) if will_topic else None,
        keepalive=settings.keepalive,
        protocol=ProtocolVersion.V5 if version_5 else ProtocolVersion.V311,
        transport=settings.transport,
        websocket_path=settings.path if websockets else None,
        tls_context=settings.tls_context,
        tls_insecure=True if settings.tls_enabled and settings.tls_insecure else None,
        max_queued_incoming_messages=_QUEUE,
        logger=_library_log,
    )
    client.is_version_5 = version_5
    return client


def why(errors: BaseException) -> str:
    """Why a connection failed or ended, in words, and what to do about it."""
    error = _first(errors)
    if isinstance(error, MqttCodeError) and isinstance(error.rc, ReasonCode):
        reason = str(error.rc)
        return _with_advice(f"refused us: {reason}", _ADVICE)
    if str(error).startswith("Disconnected") or getattr(error, "rc", None) in _LOST:
        return "connection lost"
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return _with_advice(text, _TLS_ADVICE)


def is_login_refused(errors: BaseException) -> bool:
    """Whether the broker was reached and did not accept user name and password."""
    error = _first(errors)
    return isinstance(error, MqttCodeError) and str(error.rc) in _LOGIN


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _with_advice(text: str, advice: dict[str, str]) -> str:
    found = next((advice[words] for words in advice if words in text), "")
    return f"{text}; {found}" if found else text
