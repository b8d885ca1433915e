"""One connection to the page: nobody keeps it, and those of others, by being slow."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_S = 10.0  # for a request to be complete, body included
_STALL_S = 15.0  # in which at least something of an answer is taken
_MOST_WAITING = 120  # connections without a complete request


class Connection(H11Protocol):
    """A connection of uvicorn with a deadline for every request, the first and all that follow.

    It is closed when a request is not complete in time, when the peer takes nothing of an answer,
    and when it waits for a request the longest while too many others do as well. One whose request
    is complete lives as long as its answer, as that of `/events` does.
    """

    waiting_since: float | None = None  # on the loop's clock, while a request is to come
    _unsent = 0
    _deadline: asyncio.TimerHandle | None = None
    _next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait, where too many do in the place of the one that has waited longest."""
        super().connection_made(transport)
        self._look()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        self._done_waiting()
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, or all of it."""
        super().data_received(data)
        if not self._incomplete:
            self._done_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless all of it is there."""
        was_complete = not self._incomplete
        super().on_response_complete()
        if was_complete and self._incomplete:
            self._wait()

    @property
    def _incomplete(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _wait(self) -> None:
        self._done_waiting()
        self.waiting_since = self.loop.time()
        self._deadline = self.loop.call_later(_REQUEST_S, self.transport.close)
        self._make_room()

    def _done_waiting(self) -> None:
        self.waiting_since = None
        if self._deadline is not None:
            self._deadline.cancel()

    def _look(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if 0 < self._unsent <= unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._next_look = self.loop.call_later(_STALL_S, self._look)

    def _make_room(self) -> None:
        waiting = [
            one
            for one in self.connections
            if isinstance(one, Connection)
            and one.waiting_since is not None
            and not one.transport.is_closing()
        ]
        if len(waiting) > _MOST_WAITING:
            min(waiting, key=lambda one: one.waiting_since or 0.0).transport.close()
