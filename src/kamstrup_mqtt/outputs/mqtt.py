"""What is published over MQTT, where, and when; and who listens for what users ask.

It follows the boards, survives the broker, says `offline` when it ends, and never talks to a meter.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from aiomqtt import Message, MqttError

from kamstrup_mqtt.outputs.announcer import Announcer
from kamstrup_mqtt.outputs.broker import BrokerError, MqttSettings, Session, connect, why
from kamstrup_mqtt.outputs.delivery import Delivery
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice, HomeAssistantSettings
from kamstrup_mqtt.outputs.trouble import Trouble
from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, Entry, History, HistoryAwayError, Stored
from kamstrup_mqtt.tasks import run_together

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 15.0
# A connection that held so long lets the waits start over. One that is thrown out again and again,
# as by another client of the same name, does not.
_HELD_S = 5.0
_WELL_S = 15.0  # a connection that holds so long is well: a wait on the broker ends sooner
_TASKS = ("_follow_statuses", "_deliver", "_prove")  # that must get on
STALLED_S = 120.0  # longer than any single wait on a broker or disk that still works
_STALLED = "the publishing stalled"
PROOF_S = 30.0
_OUTPUT = "mqtt"  # the name of our cursor
_BACKLOG = "backlog"
_HEARD_S = 1.0  # a broker that was silent for longer is asked before anything is delivered
_LONG = 200  # bytes of a message that a broker may find too long
_LEFT_OUT_S = 3600.0  # for so long it gets none of that length
_POISONOUS = 3  # times in a row that a broker hangs up on a message
LONGEST_SUBTOPIC = 64  # bytes of what comes behind a meter's topic, or Home Assistant's prefix
_FRESH_INTERVALS = 2  # a live value is stale when the next ones are overdue

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Inbox(Protocol):
    """Who takes what others publish."""

    @property
    def topics(self) -> Sequence[str]:
        """Where."""

    async def take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Take a message, one that the broker kept or a new one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A meter to publish: its configured name, base topic, and registers."""

    meter: str
    topic: str
    registers: tuple[int, ...]


class _Topics:
    """The topics of the meters on one connection, as the receiver of readouts."""

    def __init__(self, output: "MqttOutput", session: Session) -> None:
        self._output = output
        self._session = session
        self.got_on = output.got_on

    @property
    def hung_up(self) -> bool:
        return self._output.hung_up_on_readout(self._session)

    async def ready(self) -> None:
        if time.monotonic() - self._session.heard_at > _HEARD_S:
            await self._session.confirm()  # what is sent to one that hangs may arrive in the end

    async def live(self, stored: Stored) -> None:
        await self._output.publish_values(self._session, stored)

    async def late(self, stored: Stored) -> None:
        await self._output.publish_late(self._session, stored)

    async def wait(self, news: Awaitable[list[Entry[Stored]]], seconds: float | None) -> None:
        await self._output.next(news, seconds)


class MqttOutput:
    """The publishing to one broker, for as long as the gateway runs.

    Args:
        settings: where and how to publish.
        homeassistant: whether and how to announce the meters to Home Assistant.
        publications: the meters.
        history: what they measured.
        statuses: how they are doing.
        inbox: takes what others publish.

    """

    def __init__(
        self,
        settings: MqttSettings,
        homeassistant: HomeAssistantSettings,
        publications: Sequence[Publication],
        history: History,
        statuses: Board[MeterStatus],
        *,
        inbox: Inbox,
    ) -> None:
        self.connected = False
        self._got_on_at = {"run": time.monotonic()}  # by task of the publishing
        self._settings = settings
        self._publications = {meter.meter: meter for meter in publications}
        self._readout_topics = {
            f"{meter.topic}/{last}" for meter in publications for last in ("values", _BACKLOG)
        }
        self._history = history
        self._statuses = statuses
        self._inbox = inbox
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
        advice = "please report it, --debug shows where"
        self._trouble = Trouble(_log, logging.ERROR, advice)
        self._delivery = Delivery(
            _OUTPUT, f"Broker {settings.address}", self._publications, history,
            trouble=self._trouble, restored=self._restored,
        )  # fmt: skip
        self._hung_up_on: Counter[str] = Counter()  # topics, on whose message, in a row
        self._left_out: dict[str, tuple[int, float]] = {}  # topics, from which length on, how long
        # By meter: who it was, and the units by parameter.
        self._units: dict[str, tuple[MeterIdentity, dict[str, str]]] = {}
        self._units_said: dict[str, str] = {}  # on this connection
        self._said = ""
        self._warned: set[str] = set()  # topics

    @property
    def alive_at(self) -> float:
        """When the task of the publishing that is furthest behind last got on."""
        return min(self._delivery.progress_at, *self._got_on_at.values())

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the publishing, one line each."""
        found = [*self._announcer.complaints, *self._trouble.lines]
        if not self.connected:
            found.append("the broker is not connected")
        elif time.monotonic() - self._delivery.progress_at > STALLED_S / 2:
            found.append("nothing is delivered any more, though there is something to deliver")
        elif self._said:  # not for long yet
            found.append(f"the broker was lost: {self._said}")
        return found

    def backlog(self) -> int:
        """How many readouts wait for the broker."""
        is_at_rest = self.connected and self._delivery.is_at_rest
        return 0 if is_at_rest else self._delivery.backlog

    async def run(self) -> None:
        """Publish until cancelled; reconnects for ever, and says `offline` at the end."""
        with contextlib.suppress(HistoryAwayError):
            await self._delivery.resume()
        try:
            await self._stay_connected()
        finally:
            with contextlib.suppress(HistoryAwayError):
                await self._delivery.end()

    def _restored(self, last: Stored) -> None:
        """Take what an earlier run read last for what a meter has, until it is read again."""
        self._announcer.resume(last.meter, last.readout)
        self._note_units(last.meter, last.readout)

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        retry_s = _FIRST_RETRY_S
        while True:
            self._got_on_at = {"run": time.monotonic()}
            began, reason = loop.time(), ""
            try:
                await self._connection()
            except BrokerError as error:
                reason = why(error)
                if reason != _STALLED:  # a broker that is away is nothing that a restart mends
                    self._delivery.progress_at = time.monotonic()
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
                    self._deliver(session),
                    self._announcer.run(session),
                    self._prove(session),
                )
            except BrokerError:
                if session.is_lost and session.in_flight and not self.hung_up_on_readout(session):
                    self._note_hung_up(*session.in_flight)
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
            self.got_on()
            await asyncio.sleep(PROOF_S)
            if self.alive_at < time.monotonic() - STALLED_S:
                raise MqttError(_STALLED)

    def got_on(self) -> None:
        """Note that the task that calls this gets on, if it must."""
        task = asyncio.current_task()
        if task is not None and task.get_name() in self._got_on_at:
            self._got_on_at[task.get_name()] = time.monotonic()

    async def next(self, news: Awaitable[list[T]], seconds: float | None = None) -> list[T]:
        """Wait for `news`, but not so long that nobody knows whether we still get on."""
        self.got_on()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROOF_S if seconds is None else seconds):
                return await news
        return []

    async def _follow_statuses(self, session: Session) -> None:
        cursor = 0
        while True:
            for entry in await self.next(self._statuses.after(cursor)):
                cursor = entry.sequence
                topic = f"{self._publications[entry.meter].topic}/state"
                try:
                    payload = entry.content.to_json()
                except Exception as error:  # noqa: BLE001 - whatever it is, the others are told
                    self._trouble.note(topic, f"the state of {entry.meter} fails", error)
                    continue
                self._trouble.clear(topic)
                await self._say(session, topic, payload)

    async def _deliver(self, session: Session) -> None:
        """Deliver readouts, for ever."""
        self._units_said.clear()  # a broker that restarted may have lost what it retained
        for meter in self._units:
            await self._publish_units(session, meter)
        await self._delivery.run(_Topics(self, session), repeat=self._settings.retain)

    def _note_units(self, meter: str, readout: Readout) -> None:
        units = {reading.name: reading.unit for reading in readout}
        before, known = self._units.get(meter, (readout.meter, {}))
        kept = {} if readout.meter.is_other_than(before) else known
        self._units[meter] = (readout.meter, kept | units)

    async def _publish_units(self, session: Session, meter: str) -> None:
        """Publish the units of a meter where they are news, as those of a new parameter."""
        _, units = self._units[meter]
        payload = json.dumps(units, ensure_ascii=False)
        if units and self._units_said.get(meter) != payload:
            await self._say(session, f"{self._publications[meter].topic}/units", payload)
            self._units_said[meter] = payload

    async def publish_late(self, session: Session, stored: Stored) -> None:
        """Publish a readout that was missed."""
        await self._say(
            session,
            f"{self._publications[stored.meter].topic}/{_BACKLOG}",
            stored.to_json(self._history.id),
            qos=max(1, self._settings.qos),
            retain=False,
        )

    async def publish_values(self, session: Session, stored: Stored) -> None:
        """Publish the newest readout of its meter."""
        settings, meter, readout = self._settings, stored.meter, stored.readout
        publication = self._publications[meter]
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
        commands = set(self._inbox.topics)
        topics = [*commands, *self._announcer.topics]
        for topic, reason in (await session.subscribe(topics)).items():
            self._warn_once(topic, f"does not let us listen to {topic}: {reason}")
        async for message in session.messages():
            topic = str(message.topic)
            if topic in commands:
                await self._take(topic, message)
            else:
                await self._announcer.note_message(session, message)

    def hung_up_on_readout(self, session: Session) -> bool:
        """Whether the broker hung up while a readout was on its way."""
        topic, _ = session.in_flight or ("", 0)
        return session.is_lost and topic in self._readout_topics

    def _note_hung_up(self, topic: str, size: int) -> None:
        """Note that the broker hung up on a message; a long one is left out after some times."""
        self._hung_up_on[topic] += 1
        if self._hung_up_on[topic] >= _POISONOUS and size >= _LONG:
            self._left_out[topic] = size, time.monotonic() + _LEFT_OUT_S
            self._warn_once(
                topic,
                f"closes the connection whenever {size} bytes are sent to {topic}, which are left "
                "out from now on, and tried again in an hour: see the broker's log, and its limit "
                "for messages",
            )

    async def _take(self, topic: str, message: Message) -> None:
        """Hand a message on; what goes wrong there costs that message."""
        try:
            async with asyncio.timeout(STALLED_S):
                payload = bytes(message.payload)
                await self._inbox.take(topic, payload, retained=message.retain)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._trouble.note(topic, f"what others publish on {topic} fails", error)
        else:
            self._trouble.clear(topic)

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
        size, until = self._left_out.get(topic, (0, 0.0))
        if time.monotonic() < until and len(payload) >= size:
            return
        refusal = await session.publish(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)
        self._hung_up_on.pop(topic, None)
        self.got_on()
        if refusal:
            self._warn_once(topic, f"does not pass on what we publish to {topic}: {refusal}")

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            _log.warning("Broker %s %s", self._settings.address, message)
