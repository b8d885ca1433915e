"""Virtual time: a loop that jumps to the next moment instead of waiting, and a line in it.

What takes a day takes no time here, and nothing depends on how busy the machine is.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kamstrup_mqtt import PortError
from kamstrup_mqtt.kmp import BYTE_S, Direction, Frame, FrameReader, encode_frame
from kamstrup_mqtt.meter.link import Link
from kamstrup_mqtt.readout import Now
from kamstrup_mqtt.simulator import SimulatedMeter

BEGIN = 1_795_435_200.0  # 2026-11-23 12:00 UTC
_TURNAROUND_S = 0.08

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Lets time pass by `skip` where others wait."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is going to happen any more"
        events = super().select(0)
        if not events:
            self._skip(timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is that of its timers; what belongs in threads is done at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Selector(self._skip))

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            future.set_exception(error)
        return future

    def _skip(self, seconds: float) -> None:
        self.now += seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class VirtualClock:
    """Tells the time of the running loop; its wall clock may be set."""

    def __init__(self, begin: float = BEGIN) -> None:
        self._ahead_s = begin - 1000.0

    def __call__(self) -> Now:
        monotonic = asyncio.get_running_loop().time()
        return Now(self._ahead_s + monotonic, monotonic)

    def set(self, by_s: float) -> None:
        """Move the wall clock by so much."""
        self._ahead_s += by_s


class VirtualLink(Link):
    """A line to a simulated meter, at 1200 baud."""

    def __init__(self, meter: SimulatedMeter) -> None:
        super().__init__("virtual")
        self.plugged = True
        self._meter = meter
        self._open = False
        self._frames = FrameReader()
        self._coming: deque[tuple[float, bytes]] = deque()  # and when it is complete

    @property
    def is_open(self) -> bool:
        return self._open

    async def open(self) -> None:
        self._check()
        self._open = True

    async def close(self) -> None:
        self._open = False
        self._coming.clear()

    async def write(self, data: bytes) -> None:
        self._check()
        now = asyncio.get_running_loop().time()
        for found in self._frames.feed(data):
            if isinstance(found, Frame) and found.direction is Direction.REQUEST:
                reaction = self._meter.react(found, now)
                took_s = len(encode_frame(found)) * BYTE_S + _TURNAROUND_S
                if reaction.answer:
                    complete = now + took_s + len(reaction.answer) * BYTE_S
                    self._coming.append((complete, reaction.answer))
                if reaction.hang_up:
                    self._coming.append((now + took_s, b""))

    async def read(self, until: float) -> bytes:
        self._check()
        loop = asyncio.get_running_loop()
        if not self._coming or self._coming[0][0] > until:
            await asyncio.sleep(until - loop.time())
            return b""
        at, data = self._coming.popleft()
        await asyncio.sleep(at - loop.time())
        self._check()
        if not data:
            raise PortError("virtual hung up")
        return data

    def _check(self) -> None:
        if not self.plugged:
            raise PortError("virtual was lost: unplugged", "port_missing")
