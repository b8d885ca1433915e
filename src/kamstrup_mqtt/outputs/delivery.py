"""Delivers readouts to a receiver as the follower says, from the history, and notes how far.

Thin: what comes next is decided by `follower.py`, how it is sent by the receiver.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from kamstrup_mqtt.outputs.broker import BrokerError
from kamstrup_mqtt.outputs.follower import Deliver, Follower, Note, Read, Resume, Wait
from kamstrup_mqtt.outputs.trouble import Trouble
from kamstrup_mqtt.store import Entry, History, HistoryAwayError, Stored

_BATCH = 50  # readouts that are read from the history at a time
_AWAY_S = 5.0  # between two tries of a disk that failed
_LAST_S = 0.5  # what a delivery that has begun may take at the end
_SETTLED_S = 86400.0  # after which a meter that was not read is not going to get another name
_POISONOUS = 3  # times that a receiver hangs up on the same readout

_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """A connection on which readouts are delivered."""

    @property
    def hung_up(self) -> bool:
        """Whether the other side hung up on the readout that is being delivered."""

    def got_on(self) -> None:
        """Note that the delivery gets on."""

    async def ready(self) -> None:
        """Make sure that the other side is there."""

    async def live(self, stored: Stored) -> None:
        """Deliver the newest readout of its meter."""

    async def late(self, stored: Stored) -> None:
        """Deliver one that was missed."""

    async def wait(self, news: Awaitable[list[Entry[Stored]]], seconds: float | None) -> None:
        """Wait for news, so long or as long as is usual."""


class Delivery:
    """The delivery of all readouts to one output, over all its connections.

    Args:
        output: its name in the history.
        receiver: its name for people.
        meters: the configured names of the meters that it gets.
        history: where the readouts are.
        trouble: what goes wrong in a way nobody foresaw.
        restored: is told the last readout of each meter of an earlier run.

    """

    def __init__(
        self, output: str, receiver: str, meters: Collection[str], history: History,
        *, trouble: Trouble, restored: Callable[[Stored], None],
    ) -> None:  # fmt: skip
        self.progress_at = time.monotonic()  # when a delivery ended, or none was due
        self._output = output
        self._receiver = receiver
        self._meters = meters
        self._history = history
        self._trouble = trouble
        self._restored = restored
        self._follower = Follower(meters)
        self._seen = 0  # on the board
        self._changes = history.changes  # that the follower knows of
        self._unread = set(meters)  # that were not read since the start
        self._began_at = time.monotonic()
        self._hung_up: dict[int, tuple[Stored, int]] = {}  # on what, by number, and how often
        self._is_late = False  # whether what was missed is being delivered

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left to deliver."""
        return self._follower.is_at_rest

    @property
    def backlog(self) -> int:
        """How many readouts wait, as far as is known."""
        position = self._follower.position
        if position is None:
            return 0
        return max(0, self._history.last - position.cursor - len(position.ahead))

    async def resume(self) -> None:
        """Go on where an earlier run ended. Raises HistoryAwayError where nobody knows that now."""
        position = await self._history.position(self._output)
        found = [await self._history.latest(meter) for meter in self._meters]
        self._follower.resume(position)
        for last in found:
            if last is not None and self._history.live.latest(last.meter) is None:
                self._restored(last)
                self._follower.offer(last)

    async def end(self) -> None:
        """Note what was delivered last. Raises HistoryAwayError when the disk fails."""
        position = self._follower.position
        if position is not None and not self._follower.is_noted:
            await self._history.note(self._output, position)

    async def run(self, receiver: Receiver, *, repeat: bool) -> None:
        """Deliver on one connection, until it is lost or this is cancelled.

        Args:
            receiver: the connection.
            repeat: whether the newest of each meter is delivered again.

        """
        follower, history = self._follower, self._history
        follower.retry()
        for stored, count in self._hung_up.values():
            if count >= _POISONOUS:
                follower.put_off(stored)
        if repeat:
            follower.repeat()
        failed_at = time.monotonic()
        while True:
            receiver.got_on()
            self._look()
            if self._changes != history.changes:
                self._changes = history.changes
                follower.resume(await history.position(self._output))
            step = follower.next()
            try:
                match step:
                    case Resume():
                        await self.resume()
                    case Deliver(stored, is_live):
                        await self._deliver(receiver, stored, is_live=is_live)
                    case Note(position):
                        await history.note(self._output, position)
                        follower.noted(position)
                    case Read(sequence):
                        follower.found(await history.after(sequence, _BATCH))
                    case Wait():
                        self._is_late = False
                        wait_s = _AWAY_S if follower.needs_disk else None
                        await receiver.wait(history.live.after(self._seen), wait_s)
            except HistoryAwayError:
                follower.failed(step)
                failed_at = time.monotonic()
            self.progress_at = time.monotonic()
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

    async def _deliver(self, receiver: Receiver, stored: Stored, *, is_live: bool) -> None:
        """Deliver a readout; one that has begun to be is not given up at the end."""
        await receiver.ready()
        if not is_live and not self._is_late:
            _log.info("Delivering readouts that were missed to backlog")
        self._is_late = self._is_late or not is_live
        send = receiver.live if is_live else receiver.late
        sending = asyncio.ensure_future(send(stored))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait({sending}, timeout=_LAST_S)
            if not sending.done() or sending.cancelled() or sending.exception():
                sending.cancel()
                self._note_lost(receiver, stored)
                raise
            self._follower.delivered(stored)
            raise
        except BrokerError:
            self._note_lost(receiver, stored)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are delivered
            self._trouble.note(stored.meter, f"what {stored.meter} measured fails", error)
            self._follower.delivered(stored)  # it would fail again, and stays in the history
            return
        self._follower.delivered(stored)
        self._trouble.clear(stored.meter)
        self._hung_up.pop(stored.sequence, None)
        for one in self._follower.give_up():
            self._hung_up.pop(one.sequence, None)
            _log.error(
                "%s closes the connection whenever the readout of %s at %s is sent, which stays "
                "in the history only: see the broker's log, and its limit for messages",
                self._receiver, one.meter, one.readout.time.isoformat(),
            )  # fmt: skip

    def _note_lost(self, receiver: Receiver, stored: Stored) -> None:
        """Note that the other side hung up on a readout, if it did, perhaps again and again."""
        self._follower.postpone(stored)
        if receiver.hung_up and stored.sequence:
            _, count = self._hung_up.get(stored.sequence, (stored, 0))
            self._hung_up[stored.sequence] = stored, count + 1
