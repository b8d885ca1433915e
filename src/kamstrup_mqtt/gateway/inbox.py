"""What comes in over MQTT: hands it to whom it is meant for, and never publishes.

An interval that was set lives in the history, so that it outlives a restart. A broker repeats what
it retained at each connection: that counts only when it is news, for it must not beat a newer
command.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.commands import COMMANDS, Commanded
from kamstrup_mqtt.gateway.log import printable
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.store import History, HistoryAwayError

LASTING = "poll_interval"  # the command that is kept
_LATEST = 200  # messages on its topic that are remembered; any of them may be what is retained
_LONGEST = 100  # bytes of one that are kept as they are
_RETRY_S = 5.0
_TOLD_S = 3600.0  # after which what is wrong is told again
_MOST_TOLD = 5  # wrong messages on a topic in that time
_OUTDOORS = 80  # °C, below and above which it is nowhere
_OUTDOOR_S = 60.0  # no more often is it written

_log = logging.getLogger(__name__)


def interval_of(kept: str | None) -> tuple[list[bytes], bytes]:
    """What was set, the last one is valid, and what the broker repeated last.

    Of what is damaged there is nothing.
    """
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(kept or "{}")
        if isinstance(found, dict):
            latest = found.get("latest")
            texts = latest if isinstance(latest, list) else []
            return [str(text).encode() for text in texts], str(found.get("retained", "")).encode()
    return [], b""


class Inbox:
    """The messages of others.

    Args:
        meters: who may be told to do something.
        pollers: who carries that out, by the meter's configured name.
        history: where what is to last is kept.
        outdoor_topic: where somebody publishes the temperature outside, which is kept too.

    """

    def __init__(
        self, meters: tuple[MeterConfig, ...], pollers: Mapping[str, Commanded], history: History,
        outdoor_topic: str | None = None,
    ) -> None:  # fmt: skip
        self._commands = {
            f"{meter.topic}/{command}": (meter.name, command)
            for meter in meters
            for command in COMMANDS
        }
        self._pollers = pollers
        self._history = history
        self._outdoor_topic = outdoor_topic
        self._outdoor_at = -_OUTDOOR_S  # when the last one was kept
        self._retained: dict[str, bytes] = {}  # by meter: what the broker repeated last
        self._latest: dict[str, list[bytes]] = {}  # by meter: what was set, the last one is valid
        self._unread = set(pollers)  # meters of which nobody knows yet what was set
        self._deferred: dict[str, bytes] = {}  # what was retained for them
        self._told: dict[str, tuple[float, set[str]]] = {}  # what was told of each, and since when

    @property
    def topics(self) -> list[str]:
        """The topics to listen to."""
        return [*self._commands, *([self._outdoor_topic] if self._outdoor_topic else [])]

    async def restore(self) -> None:
        """Have the pollers go on with what was set before the start."""
        for meter in self._pollers:
            await self.restore_meter(meter)

    async def restore_meter(self, meter: str) -> None:
        """Have its poller go on with what was set, perhaps under an earlier name of the meter."""
        before = self._latest.get(meter, [])
        try:
            kept = await self._history.setting(meter, LASTING)
        except HistoryAwayError:  # tried again
            self._unread.add(meter)
            return
        known, mark = interval_of(kept)
        had = self._latest.get(meter, [])
        if meter in self._unread and had:  # what came meanwhile is newer than all that is kept
            self._unread.discard(meter)
            self._retained.setdefault(meter, mark)
            self._latest[meter] = [*(one for one in known if one not in had), *had]
            await self._keep(meter)
            return
        self._unread.discard(meter)
        if had != before:  # a command came while that was read
            return
        self._latest[meter], self._retained[meter] = known, mark
        latest = (self._latest[meter] or [b""])[-1]
        if self._carry_out(meter, LASTING, latest) and latest.strip() and latest not in had:
            _log.info(
                "%s: poll_interval %s, which a command has set, takes the place of the configured "
                "one; an empty message there goes back to that",
                meter,
                printable(latest.decode(errors="replace")),
            )

    async def keep_restoring(self) -> None:
        """Restore what could not be read at the start, as soon as it can, until cancelled."""
        while True:
            await asyncio.sleep(_RETRY_S)
            for meter in list(self._unread):
                await self.restore_meter(meter)
                if meter not in self._unread and meter in self._deferred:
                    await self._take_lasting(meter, self._deferred.pop(meter), retained=True)

    async def take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Take a message; what cannot be meant is logged once.

        Args:
            topic: where it came, one of `topics`.
            payload: what it says.
            retained: whether it is one that the broker kept.

        """
        if topic == self._outdoor_topic:
            await self._take_outdoor(topic, payload, retained=retained)
            return
        meter, command = self._commands[topic]
        if command == LASTING:
            await self._take_lasting(meter, payload, retained=retained)
        elif retained:
            self._warn(topic, f"a retained message on {topic} is ignored: clear it")
        else:
            self._carry_out(meter, command, payload)

    async def _take_lasting(self, meter: str, payload: bytes, *, retained: bool) -> None:
        if meter in self._unread and retained and payload not in self._latest.get(meter, []):
            self._deferred[meter] = payload
            return
        if meter in self._deferred:  # which the broker had before this command
            self._retained[meter] = _short(self._deferred.pop(meter))
        latest = self._latest.get(meter, [])
        if retained:
            mark = _short(payload)
            known = mark == self._retained.get(meter) or payload in latest
            self._retained[meter] = mark
            if known:  # and what was set before that is not what the broker keeps
                self._latest[meter] = [payload, *latest[-1:]] if payload in latest else latest
                return
        if self._carry_out(meter, LASTING, payload):
            latest = [*(one for one in latest if one != payload), payload]
            self._latest[meter] = [payload] if retained else latest[-_LATEST:]
            if meter not in self._unread:  # else it is put together with what is kept
                await self._keep(meter)

    async def _keep(self, meter: str) -> None:
        """Have what was set last."""
        kept = {
            "latest": [one.decode() for one in self._latest[meter][-_LATEST:]],
            "retained": self._retained.get(meter, b"").decode(errors="replace"),
        }
        await self._history.set_setting(meter, LASTING, json.dumps(kept))

    async def _take_outdoor(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Keep a temperature outside; one that the broker kept may be old, and is not taken."""
        if retained or time.monotonic() < self._outdoor_at + _OUTDOOR_S:
            return
        try:
            value = Decimal(payload.decode("ascii").strip())
        except (InvalidOperation, UnicodeDecodeError):
            value = Decimal("NaN")
        if value.is_finite() and -_OUTDOORS <= value <= _OUTDOORS:
            self._outdoor_at = time.monotonic()
            await self._history.note_outdoor(value, datetime.now(UTC))
        else:
            self._warn(topic, f"no temperature comes on {topic}: expected a number in °C")

    def _carry_out(self, meter: str, command: str, payload: bytes) -> bool:
        what = f"{meter}: a message on {command}"
        try:
            COMMANDS[command](self._pollers[meter], payload)
        except UsageError as error:
            self._warn(what, f"{what} is ignored: {printable(str(error))}")
            return False
        return True

    def _warn(self, what: str, message: str) -> None:
        """Log what is wrong, each thing once, and of many the first ones."""
        now = time.monotonic()
        since, told = self._told.get(what, (now, set()))
        if now - since > _TOLD_S:
            since, told = now, set()
        self._told[what] = since, told
        if message not in told and len(told) < _MOST_TOLD:
            told.add(message)
            _log.warning("%s", message)


def _short(payload: bytes) -> bytes:
    """A payload, or what stands for a long one."""
    return payload if len(payload) <= _LONGEST else hashlib.sha256(payload).hexdigest().encode()
