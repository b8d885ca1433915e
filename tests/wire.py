"""A wire to a broker that can be cut, and what comes at its end, counted; for tests and proof."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator


class Heard:
    """What came on the topics of a meter, by the number of each readout."""

    def __init__(self) -> None:
        self.live: list[int] = []
        self.late: list[int] = []
        self.histories: set[str] = set()

    def take(self, topic: str, payload: str) -> None:
        found = json.loads(payload)
        assert found["sequence"] is not None
        self.histories.add(found["history"])
        (self.live if topic.endswith("/values") else self.late).append(found["sequence"])

    @property
    def all(self) -> list[int]:
        return [*self.live, *self.late]

    def assert_once(self, most_twice: int = 0) -> None:
        """Each one came, and on one topic; some of them twice, after a kill."""
        counts = Counter(self.all)
        assert sorted(counts) == list(range(1, max(counts) + 1))
        twice = {number for number, count in counts.items() if count > 1}
        assert len(twice) <= most_twice, twice
        assert self.late == sorted(self.late) or most_twice


class Wire:
    """Between the gateway and its broker, so that the one is cut off and others are not."""

    def __init__(self, broker: int) -> None:
        self.port = 0
        self.is_cut = False
        self._broker = broker
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def laid(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self.pass_on, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        self.cut()

    def cut(self) -> None:
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self.is_cut = False

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        onward, outward = await asyncio.open_connection("127.0.0.1", self._broker)
        self._writers |= {writer, outward}
        await asyncio.gather(self._copy(reader, outward), self._copy(onward, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
        writer.transport.abort()
