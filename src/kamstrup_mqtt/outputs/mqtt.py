"""What is published over MQTT, where, and when; and who listens for what users ask.

It follows the boards, survives the broker, says `offline` when it ends, and never talks to a meter.
"""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from aiomqtt import Message, MqttError

from kamstrup_mqtt.outputs.announcer import Announcer
from kamstrup_mqtt.outputs.broker import BrokerError, MqttSettings, Session, connect, why
from kamstrup_mqtt.outputs.follower import Deliver, Follower, Note, Read, Resume, Wait
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice, HomeAssistantSettings
from kamstrup_mqtt.readout import MeterIdentity, Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, History, HistoryAwayError, Stored
from kamstrup_mqtt.tasks import run_together

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 15.0
# A connection that held so long lets the waits start over. One that is thrown out again and again,
# as by another client of the same name, does not.
_HELD_S = 5.0
_WELL_S = 15.0  # a connection that holds so long is well: a wait on the broker ends sooner
PROOF_S = 30.0
_TASKS = ("_follow_statuses", "_deliver", "_prove")  # that must get on
STALLED_S = 120.0  # longer than any single wait on a broker or disk that still works
_STALLED = "the publishing stalled"
_OUTPUT = "mqtt"  # the name of our cursor
_BACKLOG = "backlog"
_BATCH = 50  # readouts that are read from the history at a time
_AWAY_S = 5.0  # between two tries of a disk that failed
_LAST_S = 0.5  # what a delivery that has begun may take at the end
_HEARD_S = 1.0  # a broker that was silent for longer is asked before anything is delivered
_SETTLED_S = 86400.0  # after which a meter that was not read is not going to get another name
_POISONOUS = 3  # times in a row that a broker hangs up on the same readout
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
        self._follower = Follower(self._publications)
        self._seen = 0  # on the board
        self._unread = set(self._publications)  # meters that were not read since the start
        self._began_at = time.monotonic()
        self._progress_at = time.monotonic()  # when a delivery ended, or none was due
        # What the broker hung up on, and how often: readouts by number, and other topics.
        self._hung_up: dict[int, tuple[Stored, int]] = {}
        self._hung_up_on: Counter[str] = Counter()
        self._left_out: dict[str, int] = {}  # topics, from which length on
        self._failing: dict[str, str] = {}  # what nobody foresaw, by what it concerns
        self._is_late = False  # whether what was missed is being delivered
        # By meter: who it was, and the units by parameter.
        self._units: dict[str, tuple[MeterIdentity, dict[str, str]]] = {}
        self._units_said: dict[str, str] = {}  # on this connection
        self._said = ""
        self._warned: set[str] = set()  # topics

    @property
    def alive_at(self) -> float:
        """When the task of the publishing that is furthest behind last got on."""
        return min(self._progress_at, *self._got_on_at.values())

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the publishing, one line each."""
        found = [*self._announcer.complaints, *self._failing.values()]
        if not self.connected:
            found.append("the broker is not connected")
        elif time.monotonic() - self._progress_at > STALLED_S / 2:
            found.append("nothing is delivered any more, though there is something to deliver")
        elif self._said:  # not for long yet
            found.append(f"the broker was lost: {self._said}")
        return found

    def backlog(self) -> int:
        """How many readouts wait for the broker."""
        position = self._follower.position
        if position is None or (self.connected and self._follower.is_at_rest):
            return 0
        return max(0, self._history.last - position.cursor - len(position.ahead))

    async def run(self) -> None:
        """Publish until cancelled; reconnects for ever, and says `offline` at the end."""
        with contextlib.suppress(HistoryAwayError):
            await self._resume()
        try:
            await self._stay_connected()
        finally:
            position = self._follower.position
            if position is not None and not self._follower.is_noted:
                with contextlib.suppress(HistoryAwayError):
                    await self._history.note(_OUTPUT, position)

    async def _resume(self) -> None:
        """Go on where an earlier run ended. Raises HistoryAwayError where nobody knows that now."""
        self._follower.resume(await self._history.position(_OUTPUT))
        for meter in self._publications:
            last = await self._history.latest(meter)
            if last is not None and self._history.live.latest(meter) is None:
                self._announcer.resume(meter, last.readout)
                self._note_units(meter, last.readout)
                self._follower.offer(last)

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
                    self._progress_at = time.monotonic()
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
                if session.is_lost and session.in_flight:
                    self._note_hung_up(*session.in_flight)
                raise
            except BaseException:
                await session.say_goodbye(self._status_topic, "offline")
                raise
            finally:
                if not session.in_flight:
                    self._hung_up_on.clear()

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
                raise MqttError(_STALLED)

    def _got_on(self) -> None:
        """Note that the task that calls this gets on, if it must."""
        task = asyncio.current_task()
        if task is not None and task.get_name() in self._got_on_at:
            self._got_on_at[task.get_name()] = time.monotonic()

    async def _next(self, news: Awaitable[list[T]], seconds: float = PROOF_S) -> list[T]:
        """Wait for `news`, but not so long that nobody knows whether we still get on."""
        self._got_on()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await news
        return []

    async def _follow_statuses(self, session: Session) -> None:
        cursor = 0
        while True:
            for entry in await self._next(self._statuses.after(cursor)):
                cursor = entry.sequence
                topic = f"{self._publications[entry.meter].topic}/state"
                try:
                    payload = entry.content.to_json()
                except Exception as error:  # noqa: BLE001 - whatever it is, the others are told
                    self._note_failing(topic, f"the state of {entry.meter}", error)
                    continue
                self._failing.pop(topic, None)
                await self._say(session, topic, payload)

    async def _deliver(self, session: Session) -> None:
        """Deliver what the follower says, for ever."""
        follower, history = self._follower, self._history
        self._units_said.clear()  # a broker that restarted may have lost what it retained
        for meter in self._units:
            await self._publish_units(session, meter)
        follower.retry()
        for stored, count in self._hung_up.values():
            if count >= _POISONOUS:
                follower.put_off(stored)
        if self._settings.retain:
            follower.repeat()
        failed_at, changes = time.monotonic(), history.changes
        while True:
            self._got_on()
            self._look()
            if changes != history.changes:
                changes = history.changes
                follower.resume(await history.position(_OUTPUT))
            step = follower.next()
            try:
                match step:
                    case Resume():
                        await self._resume()
                    case Deliver(stored, is_live):
                        await self._delivered(session, stored, is_live=is_live)
                    case Note(position):
                        await history.note(_OUTPUT, position)
                        follower.noted(position)
                    case Read(sequence):
                        follower.found(await history.after(sequence, _BATCH))
                    case Wait():
                        self._is_late = False
                        wait_s = _AWAY_S if follower.needs_disk else PROOF_S
                        await self._next(history.live.after(self._seen), wait_s)
            except HistoryAwayError:
                follower.failed(step)
                failed_at = time.monotonic()
            self._progress_at = time.monotonic()
            if follower.needs_disk and time.monotonic() - failed_at > _AWAY_S:
                follower.retry()

    def _look(self) -> None:
        """See what is new in the history."""
        for entry in self._history.live.behind(self._seen):
            self._seen = entry.sequence
            self._follower.offer(entry.content)
            if entry.meter in self._unread:  # perhaps what was called otherwise until now
                self._unread.discard(entry.meter)
                self._follower.named(is_settled=not self._unread)
        if self._unread and time.monotonic() - self._began_at > _SETTLED_S:
            self._unread.clear()
            self._follower.named(is_settled=True)

    async def _delivered(self, session: Session, stored: Stored, *, is_live: bool) -> None:
        """Deliver a readout; one that has begun to be is not given up at the end."""
        if time.monotonic() - session.heard_at > _HEARD_S:
            await session.confirm()  # what is sent to one that hangs may arrive in the end
        publish = self._publish_values if is_live else self._publish_late
        publishing = asyncio.ensure_future(publish(session, stored))
        try:
            await asyncio.shield(publishing)
        except asyncio.CancelledError:
            await asyncio.wait({publishing}, timeout=_LAST_S)
            if not publishing.done() or publishing.cancelled() or publishing.exception():
                publishing.cancel()
                self._note_lost(session, stored)
                raise
            self._follower.delivered(stored)
            raise
        except BrokerError:
            self._note_lost(session, stored)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are delivered
            self._note_failing(stored.meter, f"what {stored.meter} measured", error)
            self._follower.delivered(stored)  # it would fail again, and stays in the history
            return
        self._follower.delivered(stored)
        self._failing.pop(stored.meter, None)
        self._hung_up.pop(stored.sequence, None)
        for one in self._follower.give_up():
            self._hung_up.pop(one.sequence, None)
            _log.error(
                "Broker %s closes the connection whenever the readout of %s at %s is sent, which "
                "stays in the history only: see the broker's log, and its limit for messages",
                self._settings.address, one.meter, one.readout.time.isoformat(),
            )  # fmt: skip

    def _note_lost(self, session: Session, stored: Stored) -> None:
        """Note that the broker hung up on a readout, if it did, perhaps again and again."""
        self._follower.postpone(stored)
        if session.is_lost:
            _, count = self._hung_up.get(stored.sequence, (stored, 0))
            self._hung_up[stored.sequence] = stored, count + 1

    async def _publish_late(self, session: Session, stored: Stored) -> None:
        if not self._is_late:
            _log.info("Delivering readouts that were missed to %s", _BACKLOG)
            self._is_late = True
        await self._say(
            session,
            f"{self._publications[stored.meter].topic}/{_BACKLOG}",
            stored.to_json(self._history.id),
            qos=max(1, self._settings.qos),
            retain=False,
        )

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

    async def _publish_values(self, session: Session, stored: Stored) -> None:
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

    def _note_hung_up(self, topic: str, size: int) -> None:
        """Note that the broker hung up on a message; after some times in a row it is left out."""
        self._hung_up_on[topic] += 1
        if self._hung_up_on[topic] >= _POISONOUS and topic not in self._readout_topics:
            self._left_out[topic] = size
            self._warn_once(
                topic,
                f"closes the connection whenever {size} bytes are sent to {topic}, which are left "
                "out from now on: see the broker's log, and its limit for messages",
            )

    async def _take(self, topic: str, message: Message) -> None:
        """Hand a message on; what goes wrong there costs that message."""
        try:
            async with asyncio.timeout(STALLED_S):
                payload = bytes(message.payload)
                await self._inbox.take(topic, payload, retained=message.retain)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._note_failing(topic, f"what others publish on {topic}", error)
        else:
            self._failing.pop(topic, None)

    def _note_failing(self, what: str, words: str, error: Exception) -> None:
        """Tell once that something goes wrong which nobody foresaw, and costs that alone."""
        said = f"{words} fails: {error!r}"
        if self._failing.get(what) != said:
            self._failing[what] = said
            _log.error("%s. All else goes on; please report it, --debug shows where", said,
                       exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)  # fmt: skip

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
        if len(payload) >= self._left_out.get(topic, math.inf):
            return
        refusal = await session.publish(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)
        self._got_on()
        if refusal:
            self._warn_once(topic, f"does not pass on what we publish to {topic}: {refusal}")

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            _log.warning("Broker %s %s", self._settings.address, message)
