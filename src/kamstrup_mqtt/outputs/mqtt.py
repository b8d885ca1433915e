"""What is published over MQTT, where, and when; and who listens for what users ask.

It follows the boards, survives the broker, says `offline` when it ends, and never talks to a meter.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TypeVar

from aiomqtt import Message, MqttError

from kamstrup_mqtt.outputs.announcer import Announcer
from kamstrup_mqtt.outputs.broker import BrokerError, MqttSettings, Session, connect, why
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice, HomeAssistantSettings
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, History, Stored
from kamstrup_mqtt.tasks import run_together

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 15.0
# A connection that held so long lets the waits start over. One that is thrown out again and again,
# as by another client of the same name, does not.
_HELD_S = 5.0
_WELL_S = 15.0  # a connection that holds so long is well: a wait on the broker ends sooner
PROOF_S = 30.0
_TASKS = ("_follow_statuses", "_follow_readouts", "_drain", "_prove")  # that must get on
STALLED_S = 120.0  # longer than any single wait on a broker or disk that still works
_OUTPUT = "mqtt"  # the name of our cursor
_BACKLOG = "backlog"
_BATCH = 50  # readouts that are delivered between two notes of how far we are
COMMAND_TOPICS = ("read", "poll_interval")  # the last parts of their topics
LONGEST_SUBTOPIC = 64  # bytes of what comes behind a meter's topic, or Home Assistant's prefix
_LASTING = ("poll_interval",)  # what a retained message may say as well
_OUTDOORS = 80  # °C, below and above which it is nowhere
_OUTDOOR_S = 60.0  # no more often is it written
_FRESH_INTERVALS = 2  # a live value is stale when the next ones are overdue

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Carries out a command of a user: the meter's name, the command, the payload, whether the broker
# had kept it.
Command = Callable[[str, str, bytes, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Publication:
    """A meter to publish: its configured name, base topic, and registers."""

    meter: str
    topic: str
    registers: tuple[int, ...]


class MqttOutput:
    """The publishing to one broker, for as long as the gateway runs.

    Args:
        settings: where and how to publish.
        homeassistant: whether and how to announce the meters to Home Assistant.
        publications: the meters.
        history: what they measured.
        statuses: how they are doing.
        command: carries out what users ask for.
        outdoor_topic: where somebody publishes the temperature outside, which is kept too.

    """

    def __init__(
        self,
        settings: MqttSettings,
        homeassistant: HomeAssistantSettings,
        publications: Sequence[Publication],
        history: History,
        statuses: Board[MeterStatus],
        *,
        command: Command,
        outdoor_topic: str | None = None,
    ) -> None:
        self.connected = False
        self._got_on_at = {"run": time.monotonic()}  # by task of the publishing
        self._settings = settings
        self._publications = {meter.meter: meter for meter in publications}
        self._history = history
        self._statuses = statuses
        self._command = command
        self._outdoor_topic = outdoor_topic
        self._outdoor_at = -_OUTDOOR_S  # when the last one was kept
        self._status_topic = f"{settings.topic}/status"
        devices = {
            meter.meter: HomeAssistantDevice(
                homeassistant,
                "Heat meter" if meter.topic == settings.topic else f"Heat meter {meter.meter}",
                meter.topic,
                self._status_topic,
                meter.registers,
            )
            for meter in publications
            if homeassistant.discovery
        }
        self._announcer = Announcer(
            devices, homeassistant.prefix, history.live, statuses, self._say
        )
        self._cursor = 0  # on the board
        self._delivered: set[int] = set()  # sequence numbers published live
        self._late_until = 0  # up to this sequence number, what is undelivered is late
        self._news = asyncio.Event()
        self._units: dict[str, dict[str, str]] = {}  # by meter and parameter
        self._units_said: dict[str, str] = {}  # on this connection
        self._said = ""
        self._warned: set[str] = set()  # topics

    @property
    def alive_at(self) -> float:
        """When the task of the publishing that is furthest behind last got on."""
        return min(self._got_on_at.values())

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the publishing, one line each."""
        found = self._announcer.complaints
        if not self.connected:
            found.append("the broker is not connected")
        elif self._said:  # not for long yet
            found.append(f"the broker was lost: {self._said}")
        return found

    async def backlog(self) -> int:
        """How many readouts wait for the broker."""
        return max(0, await self._history.head() - await self._history.cursor(_OUTPUT))

    async def run(self) -> None:
        """Publish until cancelled; reconnects for ever, and says `offline` at the end."""
        loop = asyncio.get_running_loop()
        retry_s = _FIRST_RETRY_S
        for meter in self._publications:
            if (last := await self._history.latest(meter)) is not None:
                self._announcer.resume(meter, last)
                self._note_units(meter, last)
        while True:
            self._got_on_at = {"run": time.monotonic()}
            began, reason = loop.time(), ""
            try:
                await self._connection()
            except BrokerError as error:
                reason = why(error)
            finally:
                self.connected = False
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
        async with connect(settings, self._status_topic) as session:
            try:
                await self._say(session, self._status_topic, "online")
                username, _ = settings.credentials
                _log.info(
                    "Connected to broker %s%s; QoS %d, retain %s",
                    settings.address,
                    f" as {username}" if username else "",
                    settings.qos,
                    str(settings.retain).lower(),
                )
                self.connected = True
                self._announcer.reconnected()
                self._got_on_at = dict.fromkeys(_TASKS, time.monotonic())
                # The listening ends as soon as the connection does, and so cancels a publish
                # that would wait for its confirmation.
                await run_together(
                    self._listen(session),
                    self._follow_statuses(session),
                    self._follow_readouts(session),
                    self._drain(session),
                    self._announcer.run(session),
                    self._prove(session),
                )
            except BrokerError:
                raise
            except BaseException:
                await session.say_goodbye(self._status_topic, "offline")
                raise

    async def _prove(self, session: Session) -> None:
        """See now and then that the broker still takes what we say, and that all tasks get on."""
        await session.confirm()
        await asyncio.sleep(_WELL_S)
        self._said = ""
        while True:
            await session.confirm()
            self._got_on()
            await asyncio.sleep(PROOF_S)
            if self.alive_at < time.monotonic() - STALLED_S:
                raise MqttError("the publishing stalled")

    def _got_on(self) -> None:
        """Note that the task that calls this gets on, if it must."""
        task = asyncio.current_task()
        if task is not None and task.get_name() in self._got_on_at:
            self._got_on_at[task.get_name()] = time.monotonic()

    async def _next(self, news: Awaitable[T], otherwise: T) -> T:
        """Wait for `news`, but not so long that nobody knows whether we still get on."""
        self._got_on()
        try:
            async with asyncio.timeout(PROOF_S):
                return await news
        except TimeoutError:
            return otherwise

    async def _follow_statuses(self, session: Session) -> None:
        cursor = 0
        while True:
            for entry in await self._next(self._statuses.after(cursor), []):
                topic = f"{self._publications[entry.meter].topic}/state"
                await self._say(session, topic, entry.content.to_json())
                cursor = entry.sequence

    async def _follow_readouts(self, session: Session) -> None:
        """Publish the latest readout of each meter as soon as it is there."""
        self._units_said.clear()  # a broker that restarted may have lost what it retained
        for meter in self._units:
            await self._publish_units(session, meter)
        cursor = 0 if self._settings.retain else self._cursor
        while True:
            for entry in await self._next(self._history.live.after(cursor), []):
                await self._publish_values(session, entry.meter, entry.content)
                if entry.content.sequence:
                    self._delivered.add(entry.content.sequence)
                    self._late_until = max(self._late_until, entry.content.sequence)
                    self._news.set()
                cursor = self._cursor = entry.sequence

    async def _drain(self, session: Session) -> None:
        """Deliver what was missed, oldest first, and note for good how far that has got."""
        history = self._history
        cursor = await history.cursor(_OUTPUT)
        self._late_until = max(self._late_until, await history.head())
        told = False
        while True:
            self._got_on()
            self._news.clear()
            begun = cursor
            for stored in await history.after(cursor, _BATCH):
                if stored.sequence > self._late_until:
                    break  # its turn on the live topic is still to come
                publication = self._publications.get(stored.meter)
                if stored.sequence not in self._delivered and publication is not None:
                    if not told:
                        _log.info("Delivering readouts that were missed to %s", _BACKLOG)
                        told = True
                    await self._say(
                        session,
                        f"{publication.topic}/{_BACKLOG}",
                        stored.to_json(history.id),
                        qos=max(1, self._settings.qos),
                        retain=False,
                    )
                cursor = stored.sequence
            if cursor > begun:
                await history.advance(_OUTPUT, cursor)
                self._delivered = {number for number in self._delivered if number > cursor}
            else:
                told = False
                await self._next(self._news.wait(), otherwise=True)

    def _note_units(self, meter: str, readout: Readout) -> None:
        units = {reading.name: reading.unit for reading in readout}
        self._units[meter] = self._units.get(meter, {}) | units

    async def _publish_units(self, session: Session, meter: str) -> None:
        """Publish the units of a meter where they are news, as those of a new parameter."""
        payload = json.dumps(self._units[meter], ensure_ascii=False)
        if self._units[meter] and self._units_said.get(meter) != payload:
            await self._say(session, f"{self._publications[meter].topic}/units", payload)
            self._units_said[meter] = payload

    async def _publish_values(self, session: Session, meter: str, stored: Stored) -> None:
        settings, publication, readout = self._settings, self._publications[meter], stored.readout
        self._note_units(meter, readout)
        await self._publish_units(session, meter)
        messages = {f"{publication.topic}/values": stored.to_json(self._history.id)}
        _log.info("Publishing '%s' '%s' to %s", *next(iter(messages.items())), settings.address)
        if settings.topics == "per_parameter":
            messages |= {f"{publication.topic}/{r.name}": r.told or "null" for r in readout}
        status = self._statuses.latest(meter)
        expiry_s = None
        if status is not None:
            age_s = (datetime.now(UTC) - readout.time).total_seconds()
            expiry_s = _FRESH_INTERVALS * status.interval_s - age_s
        # What was asked for by the way must not take the place of a full set.
        retain = settings.retain and readout.covers(publication.registers)
        for topic, payload in messages.items():
            await self._say(
                session, topic, payload, qos=settings.qos, retain=retain, expiry_s=expiry_s
            )
        if settings.qos == 0:
            await session.confirm()

    async def _listen(self, session: Session) -> None:
        """Take messages of others until the connection is lost, which raises MqttError."""
        commands = {
            f"{publication.topic}/{command}": (meter, command)
            for meter, publication in self._publications.items()
            for command in COMMAND_TOPICS
        }
        outdoor = [self._outdoor_topic] if self._outdoor_topic else []
        topics = [*commands, *self._announcer.topics, *outdoor]
        for topic, reason in (await session.subscribe(topics)).items():
            self._warn_once(topic, f"does not let us listen to {topic}: {reason}")
        async for message in session.messages():
            topic = str(message.topic)
            if topic in commands:
                await self._obey(*commands[topic], message)
            elif topic == self._outdoor_topic:
                await self._note_outdoor(message)
            else:
                await self._announcer.note_message(session, message)

    async def _note_outdoor(self, message: Message) -> None:
        """Keep a temperature outside; one that the broker kept may be old, and is not taken."""
        if message.retain or time.monotonic() < self._outdoor_at + _OUTDOOR_S:
            return
        try:
            value = Decimal(bytes(message.payload).decode("ascii").strip())
        except (InvalidOperation, UnicodeDecodeError):
            value = Decimal("NaN")
        if value.is_finite() and -_OUTDOORS <= value <= _OUTDOORS:
            self._outdoor_at = time.monotonic()
            await self._history.note_outdoor(value, datetime.now(UTC))
        else:
            topic = str(message.topic)
            self._warn_once(topic, f"brings no temperature on {topic}: expected a number in °C")

    async def _obey(self, meter: str, command: str, message: Message) -> None:
        """Carry out a command; only what is to last counts also where the broker kept it."""
        topic, payload = str(message.topic), bytes(message.payload)
        if message.retain and command not in _LASTING:
            self._warn_once(topic, f"keeps a message on {topic}, which is ignored")
            return
        async with asyncio.timeout(STALLED_S):
            await self._command(meter, command, payload, message.retain)

    async def _say(
        self,
        session: Session,
        topic: str,
        payload: str,
        *,
        qos: int = 1,
        retain: bool = True,
        expiry_s: float | None = None,
    ) -> None:
        refusal = await session.publish(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)
        self._got_on()
        if refusal:
            user = self._settings.credentials[0] or "anonymous users"
            self._warn_once(
                topic,
                f"does not pass on what we publish to {topic}: {refusal}; allow {user} to write it",
            )

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            _log.warning("Broker %s %s", self._settings.address, message)
