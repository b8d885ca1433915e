"""A loop, a clock and a line on which hours pass in milliseconds, for tests that wait a lot.

Nothing sleeps: when all tasks wait, the time is at once that of the next timer. Everything else is
real: the session, its timeouts, the simulated meter, and each byte at its own moment.

    @virtual
    async def test_a_meter_is_read() -> None:
        session = MeterSession(VirtualLink(SimulatedMeter()), clock=VirtualClock())
        assert await session.read("energy")

It is not for ports, files that are waited for, and processes: their time is the real one. What is
sent through a pair of sockets is there at once, so that both ends may be on the loop.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from kamstrup_mqtt import PortError
from kamstrup_mqtt.kmp import Direction
from kamstrup_mqtt.meter.link import Link, Tap
from kamstrup_mqtt.readout import Now
from kamstrup_mqtt.simulator import Line, Meter, Sink, Source, converse

BEGIN = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
_BEGIN_S = 1000.0  # of the loop's time, which begins anywhere, but not at 0
_FULL = 65_536  # unread bytes that stop who writes, as a socket does

_P = ParamSpec("_P")
_T = TypeVar("_T")


def virtual(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run `test` on a loop of its own with virtual time."""

    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class StuckError(RuntimeError):
    """All tasks wait for something that cannot happen any more."""


class _Selector(selectors.DefaultSelector):
    """Lets time pass instead of waiting."""

    def __init__(self, let_pass: Callable[[float | None], None]) -> None:
        super().__init__()
        self._let_pass = let_pass

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._let_pass(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that jumps to the next timer when nothing is ready; threads' work it does itself."""

    def __init__(self) -> None:
        self._virtual_s = _BEGIN_S
        super().__init__(_Selector(self._let_pass))
        # How asyncio calls the time by which a timer may be early. The clock's nanosecond is less
        # than what a float holds of a year's seconds, and such a timer would never be due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._virtual_s

    def run_in_executor(  # type: ignore[override]  # a future of ours, already done
        self, executor: Any, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
            future.set_exception(error)
        return future

    def _let_pass(self, seconds: float | None) -> None:
        if seconds is None:
            waiting = ", ".join(map(repr, asyncio.all_tasks(self)))
            raise StuckError(f"nothing is scheduled, and so nothing will ever happen: {waiting}")
        self._virtual_s += seconds


class VirtualClock:
    """Tells the time of the running loop; the wall clock begins anywhere, and may be set."""

    def __init__(self, begin: datetime = BEGIN) -> None:
        self._offset_s = begin.timestamp() - asyncio.get_running_loop().time()
        self._ahead_s = 0.0

    def __call__(self) -> Now:
        monotonic = asyncio.get_running_loop().time()
        return Now(monotonic + self._offset_s + self._ahead_s, monotonic)

    def set(self, ahead_s: float) -> None:
        """Have the wall clock differ by so much from what it would say otherwise."""
        self._ahead_s = ahead_s


class Pipe:
    """Bytes on their way in one direction, without delay."""

    def __init__(self) -> None:
        self.closed = False
        self._unread = bytearray()
        self._readable, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()

    def write(self, data: bytes, /) -> None:
        if data and not self.closed:
            self._unread += data
            self._tell()

    async def drain(self) -> None:
        await self._writable.wait()
        if self.closed:
            raise ConnectionResetError

    async def read(self, most: int, /) -> bytes:
        await self._readable.wait()
        data = bytes(self._unread[:most])
        del self._unread[:most]
        self._tell()
        return data

    def close(self) -> None:
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        for event, is_so in (
            (self._readable, self.closed or self._unread),
            (self._writable, self.closed or len(self._unread) < _FULL),
        ):
            (event.set if is_so else event.clear)()


class VirtualLink(Link):
    """A line to `meter` without a port.

    Where a meter does what `Line` and `Reaction` cannot say, a test overrides `talk`.
    """

    def __init__(self, meter: Meter, line: Line | None = None, tap: Tap | None = None) -> None:
        super().__init__("virtual://meter", tap)
        self.meter = meter
        self.line = line or Line()
        self._plugged = True
        self._requests = self._answers = Pipe()
        self._is_open = False
        self._talks: set[asyncio.Task[None]] = set()

    async def talk(self, source: Source, sink: Sink) -> None:
        """Be at the other end until the line is closed."""
        await converse(self.meter, self.line, source, sink)

    def unplug(self) -> None:
        """Pull the plug: the line is lost, and cannot be opened."""
        self._plugged = False
        self._answers.close()

    def plug(self) -> None:
        """Put it back; the line must be opened anew."""
        self._plugged = True

    @property
    def is_open(self) -> bool:
        return self._is_open and not self._answers.closed  # as a real line notices it by itself

    async def open(self) -> None:
        if self.is_open:
            return
        await self.close()
        if not self._plugged:
            raise PortError(f"{self.port} does not exist: plug the head in", "port_missing")
        self._requests, self._answers = Pipe(), Pipe()
        self._is_open = True
        self.connection += 1
        talk = asyncio.create_task(self.talk(self._requests, self._answers))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def close(self) -> None:
        self._is_open = False
        self._requests.close()
        self._answers.close()

    async def write(self, data: bytes) -> None:
        self._check()
        self._requests.write(data)
        self.tap(Direction.REQUEST, data)

    async def read(self, until: float) -> bytes:
        self._check()
        try:
            async with asyncio.timeout_at(until):
                data = await self._answers.read(4096)
        except TimeoutError:
            return b""
        self._check()
        if not data:
            raise PortError(f"{self.port} hung up", "port_missing")
        self.tap(Direction.ANSWER, data)
        return data

    async def discard(self) -> None:
        while await self.read(until=0.0):
            pass

    def _check(self) -> None:
        if not self._plugged or not self._is_open:
            raise PortError(f"{self.port} is not open or not plugged in", "port_missing")
