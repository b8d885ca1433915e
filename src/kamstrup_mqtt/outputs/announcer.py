"""Tells Home Assistant of the meters over MQTT: when what it knows is no longer true.

What is said is decided by `homeassistant.py`. What goes wrong here costs Home Assistant alone.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime

from aiomqtt import Message, MqttError

from kamstrup_mqtt.outputs.broker import Session
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantDevice
from kamstrup_mqtt.outputs.trouble import Trouble
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, Stored
from kamstrup_mqtt.tasks import run_together

_BIRTH_TOPIC = "homeassistant/status"  # where Home Assistant tells its start, whatever its prefix
_RETRY_S = 30.0
_LOST_S = 2.0
_BIRTH_DELAY_S = 2.0  # at most, so that not all devices answer at once

_ALL = ("", "")  # what concerns all meters

_log = logging.getLogger(__name__)

# Publishes a retained message: the session, the topic, the payload.
Say = Callable[[Session, str, str], Awaitable[None]]


class Announcer:
    """The announcements of all meters.

    Args:
        devices: the meters as devices, by their configured name; none where that is not wanted.
        prefix: the prefix under which Home Assistant looks for them.
        readouts: what they measured.
        statuses: how they are doing.
        say: publishes.

    """

    def __init__(
        self,
        devices: Mapping[str, HomeAssistantDevice],
        prefix: str,
        readouts: Board[Stored],
        statuses: Board[MeterStatus],
        say: Say,
    ) -> None:
        self._devices = devices
        self._readouts = readouts
        self._statuses = statuses
        self._say = say
        self._births = {_BIRTH_TOPIC, f"{prefix}/status"} if devices else set()
        self._born = asyncio.Event()  # Home Assistant has just started
        self._turn = asyncio.Lock()
        self._announced: dict[str, str] = {}  # on this connection: payloads by topic
        self._watched: dict[str, str] = {}  # on this connection: discovery topics, whose meter
        self._trouble = Trouble(_log, logging.WARNING, "--debug shows where")

    @property
    def topics(self) -> list[str]:
        """The topics to listen to."""
        return sorted(self._births)

    @property
    def complaints(self) -> list[str]:
        """What went wrong last, one line each."""
        return self._trouble.lines

    def resume(self, meter: str, last: Readout) -> None:
        """Take what an earlier run read last for what a meter has, until it is read again."""
        if meter in self._devices:
            with self._told(meter, "its values"):
                self._devices[meter].note_readout(last)

    def reconnected(self) -> None:
        """Begin anew: a broker that restarted may have lost what it retained."""
        self._announced.clear()
        self._watched.clear()

    async def run(self, session: Session) -> None:
        """Tell of the meters until cancelled, or until the connection is lost."""
        await run_together(
            self._survive(self._follow_statuses, session),
            self._survive(self._follow_readouts, session),
            self._survive(self._answer_births, session),
        )

    async def _survive(self, work: Callable[[Session], Awaitable[None]], session: Session) -> None:
        """A message that the broker does not confirm costs Home Assistant alone."""
        while True:
            try:
                await work(session)
            except Exception as error:  # noqa: BLE001 - whatever it is, values are published
                await asyncio.sleep(_LOST_S)  # in which all is ended if the connection is lost
                shown = error if isinstance(error, MqttError) else repr(error)
                said = f"Home Assistant is not told of the meters: {shown}"
                if self._trouble.is_news(_ALL, said):
                    _log.warning("%s. All else goes on", said)
            await asyncio.sleep(_RETRY_S)

    async def _follow_statuses(self, session: Session) -> None:
        cursor = 0
        while True:
            for entry in await self._statuses.after(cursor):
                if entry.meter in self._devices:
                    with self._told(entry.meter, "its state"):
                        self._devices[entry.meter].note_status(entry.content)
                    await self.announce(session, entry.meter)
                cursor = entry.sequence

    async def _follow_readouts(self, session: Session) -> None:
        cursor = 0
        await self.announce_all(session)
        while True:
            for entry in await self._readouts.after(cursor):
                if entry.meter in self._devices:
                    with self._told(entry.meter, "its values"):
                        self._devices[entry.meter].note_readout(entry.content.readout)
                    await self.announce(session, entry.meter, states=True)
                cursor = entry.sequence

    async def note_message(self, session: Session, message: Message) -> None:
        """Take what came on a topic of Home Assistant."""
        topic = str(message.topic)
        if topic in self._births and message.payload == b"online":
            self._born.set()
        elif topic in self._watched and message.retain:
            meter = self._watched[topic]
            with self._told(meter, "what is gone"):
                self._devices[meter].note_announced(bytes(message.payload))
            await self.announce(session, meter)

    async def announce_all(self, session: Session) -> None:
        """Tell of every meter, with what it shows."""
        for meter in self._devices:
            await self.announce(session, meter, states=True)

    async def _answer_births(self, session: Session) -> None:
        """Tell a Home Assistant that has just started everything once more, for ever."""
        while True:
            await self._born.wait()
            await asyncio.sleep(random.uniform(0, _BIRTH_DELAY_S))  # noqa: S311 - spreads a load
            self._born.clear()
            self._announced.clear()
            await self.announce_all(session)

    async def announce(self, session: Session, meter: str, *, states: bool = False) -> None:
        """Tell of a meter if there is news, and, if wanted, what it shows now."""
        device = self._devices[meter]
        topic = device.topic
        if topic is None or not device.known:
            return
        async with self._turn:
            if topic not in self._watched:  # what an earlier run retained there comes back
                self._watched[topic] = meter
                try:
                    await session.subscribe([topic])
                except MqttError:
                    del self._watched[topic]
                    raise
            payload = shown = ""
            with self._told(meter, "its entities"):
                payload, shown = device.config(), device.states(datetime.now(UTC))
            if payload and self._announced.get(topic) != payload:
                await self._say(session, topic, payload)
                self._announced[topic] = payload
            if states and shown:
                await self._say(session, device.state_topic, shown)
            self._trouble.clear(_ALL)

    @contextlib.contextmanager
    def _told(self, meter: str, part: str) -> Iterator[None]:
        """What goes wrong is told once, and goes no further."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, values are published
            what = f"{meter}: Home Assistant is not told of {part}"
            self._trouble.note((meter, part), what, error)
        else:
            self._trouble.clear((meter, part))
