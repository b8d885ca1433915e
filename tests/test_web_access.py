"""How slow one may be, and who may see the page."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from .test_web import Background, running


async def head_of(url: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and, unless all is fine, the text of an answer."""
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", url + path, headers=headers) as answer,
    ):
        if answer.status_code == 200:
            return 200, ""
        return answer.status_code, (await answer.aread()).decode()


GET = b"GET /api/meters HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"GET /api/meters HTTP/1.1\r\nHost: loc"
BODY = b"POST /api/meters HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"


@contextlib.asynccontextmanager
async def held(
    url: str, first: bytes, then: bytes = b"", drip: bytes = b"", count: int = 110
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Connections that begin a request and do not end it; the tasks end when they are closed."""

    async def hold(started: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        with contextlib.suppress(ConnectionError):
            writer.write(first)
            if then:
                await reader.read(9999)
                writer.write(then)
            started.set()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        if not await reader.read(9999):
                            break
                writer.write(drip)
        started.set()
        writer.close()

    tasks = []
    for _ in range(count):
        started = asyncio.Event()
        tasks.append(asyncio.create_task(hold(started)))
        await started.wait()
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("first", "then", "drip"),
    [
        (HALF, b"", b""),
        (b"G", b"", b"E"),
        (HALF, b"", b"a"),
        (GET, HALF, b""),
        (GET, HALF, b"a"),
        (BODY, b"", b""),
        (BODY, b"", b"a"),
    ],
    ids=["half", "line", "slow", "second", "second-slow", "body", "body-slow"],
)
async def test_slow_requests_do_not_shut_the_page(
    tmp_path: Path, background: Background, first: bytes, then: bytes, drip: bytes
) -> None:
    async with running(tmp_path, background) as url, held(url, first, then, drip) as slow:
        assert (await head_of(url, "api/meters"))[0] == 200
        async with asyncio.timeout(60):
            await asyncio.gather(*slow)  # every one of them was closed
        assert (await head_of(url, "api/meters"))[0] == 200


async def test_a_flood_of_connections_does_not_shut_the_page(
    tmp_path: Path, background: Background
) -> None:
    async with running(tmp_path, background) as url, held(url, HALF, count=400) as flood:
        assert (await head_of(url, "api/meters"))[0] == 200
        assert sum(task.done() for task in flood) > 200
        assert not flood[-1].done()


async def test_who_listens_stays(tmp_path: Path, background: Background) -> None:
    """An event stream outlives the deadline, beside idle connections that do not."""
    async with (
        running(tmp_path, background) as url,
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", f"{url}events") as answer,
        held(url, GET, count=5) as idle,
    ):
        lines = answer.aiter_lines()
        began = time.monotonic()
        while time.monotonic() < began + 22:
            assert isinstance(await anext(lines), str)
        async with asyncio.timeout(60):
            await asyncio.gather(*idle)
        assert isinstance(await anext(lines), str)


async def test_who_takes_no_answer_is_let_go(tmp_path: Path, background: Background) -> None:
    """One that asks and asks, and reads nothing of what comes back."""
    async with running(tmp_path, background, days=2) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, limit=1)
        request = GET.replace(b"/api/meters", b"/static/uPlot-1.6.32.iife.min.js")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(90):
                while True:
                    writer.write(request)
                    await asyncio.sleep(0.01)
                    if writer.transport.is_closing():
                        break
        assert writer.transport.is_closing()
        assert (await head_of(url, "api/meters"))[0] == 200


async def test_no_more_listen_than_there_are_places(tmp_path: Path, background: Background) -> None:
    """Also where all ask at once; the page stays open for everybody else."""
    async with running(tmp_path, background) as url, contextlib.AsyncExitStack() as stack:
        port = httpx.URL(url).port
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(90)]
        for _, writer in streams:
            stack.callback(writer.close)
            writer.write(GET.replace(b"/api/meters", b"/events"))
        async with asyncio.timeout(60):
            found = [(await reader.readline()).split()[1] for reader, _ in streams]
        assert sorted(found) == [b"200"] * 50 + [b"503"] * 40
        assert (await head_of(url, "api/meters"))[0] == 200
