"""The page, its API and the metrics as a Starlette application. It only ever reads."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from importlib.resources import files
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from kamstrup_mqtt.catalog import register_number
from kamstrup_mqtt.consumption import BYS, Archive, By, Price, local_zone
from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.readout import Readout
from kamstrup_mqtt.readout.status import MeterStatus
from kamstrup_mqtt.store import Board, History
from kamstrup_mqtt.web import figures
from kamstrup_mqtt.web.metrics import exposition
from kamstrup_mqtt.web.settings import WebSettings
from kamstrup_mqtt.web.shield import Shield

_HEARTBEAT_S = 15.0
_MOST_LISTENERS = 50
_MOST_POINTS = 3000
_FIRST_YEAR, _LAST_YEAR = 1971, 9000  # before and after that no meter counts
_LONGEST = {
    None: timedelta(days=8),
    "hour": timedelta(days=400),
}  # all others: as long as one likes
_log = logging.getLogger(__name__)
_STATIC = Path(str(files(__package__).joinpath("static")))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class House:
    """What the page shows, and where it comes from.

    Args:
        settings: of the page.
        path: the file of the history.
        history: for the latest readouts as they come.
        statuses: how the meters are doing.
        names: the configured names.
        prices: what heat costs.
        currency: of the prices.
        complaints: what is wrong with the gateway, one line each.
        stuck: what does not get on any more, one line each.
        connected: whether the broker is connected.
        backlog: how many readouts wait for the broker.

    """

    settings: WebSettings
    path: Path
    history: History
    statuses: Board[MeterStatus]
    names: Sequence[str]
    prices: Sequence[Price]
    currency: str
    complaints: Callable[[], list[str]]
    stuck: Callable[[], list[str]]
    connected: Callable[[], bool]
    backlog: Callable[[], int]


def make_app(house: House) -> Starlette:
    """The application that serves `house`."""
    pages = _Pages(house)
    app = Starlette(
        routes=[
            Route("/", pages.index),
            Route("/api/meters", pages.meters),
            Route("/api/meters/{serial}/latest", pages.latest),
            Route("/api/meters/{serial}/series", pages.series),
            Route("/api/meters/{serial}/efficiency", pages.efficiency),
            Route("/api/openapi.json", pages.openapi),
            Route("/events", pages.events),
            Route("/healthz", pages.healthz),
            Route("/livez", pages.livez),
            Route("/metrics", pages.metrics),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={
            HTTPException: _refuse,
            UsageError: _refuse_usage,
            Exception: _fail,
        },
    )
    app.add_middleware(Shield, settings=house.settings)
    return app


class _Pages:
    def __init__(self, house: House) -> None:
        self._house = house
        self._listeners = 0
        self._zone = local_zone()

    async def index(self, _request: Request) -> Response:
        text = await asyncio.to_thread((_STATIC / "index.html").read_text, "utf-8")
        return Response(text, media_type="text/html")

    async def openapi(self, _request: Request) -> Response:
        text = await asyncio.to_thread((_STATIC / "openapi.json").read_text, "utf-8")
        return Response(text, media_type="application/json")

    async def meters(self, _request: Request) -> Response:
        found = []
        kept = await self._try_to_read(lambda one: (self._kept(one), one.latest_of_each()))
        latest, each = kept or ({}, [])
        now = self._with_live(latest)
        for name, readout in each:
            current = now.get(name)
            is_current = current is not None and current.meter.serial == readout.meter.serial
            status = self._house.statuses.latest(name) if is_current else None
            shown = current if current is not None and is_current else readout
            found.append(
                {
                    "name": name,
                    **shown.meter.to_dict(),
                    "state": status.state if status else None,
                    "last_readout": shown.time.isoformat(timespec="seconds"),
                    "current": is_current,
                }
            )
        house = self._house
        return JSONResponse({"meters": found, "currency": house.currency if house.prices else None})

    async def latest(self, request: Request) -> Response:
        name, wanted = await self._meter(request)
        stored = self._house.history.live.latest(name)
        if stored is not None and wanted in (name, stored.readout.meter.serial):
            return JSONResponse(self._now(name, stored.readout))
        readout = await self._read(lambda kept: kept.latest(wanted))
        if readout is None:
            raise HTTPException(404, "no readout of this meter")
        return JSONResponse(self._now(name, readout))

    async def series(self, request: Request) -> Response:
        _, wanted = await self._meter(request)
        register = register_number(request.query_params.get("parameter") or "energy")
        step = _by(request, "reading")
        begin, end = self._span(request, step)
        prices = self._house.prices
        return JSONResponse(
            await self._read(
                lambda archive: figures.series(
                    archive, wanted, register, begin, end, by=step, prices=prices
                )
            )
        )

    async def efficiency(self, request: Request) -> Response:
        _, wanted = await self._meter(request)
        step = _by(request) or "day"
        begin, end = self._span(request, step)
        return JSONResponse(
            await self._read(lambda archive: figures.efficiency(archive, wanted, begin, end, step))
        )

    async def healthz(self, _request: Request) -> Response:
        return _health(self._house.complaints())

    async def livez(self, _request: Request) -> Response:
        return _health(self._house.stuck())

    async def metrics(self, _request: Request) -> Response:
        readouts = await self._latest()
        found = {name: self._house.statuses.latest(name) for name in readouts}
        text = exposition(
            readouts,
            {name: status for name, status in found.items() if status is not None},
            connected=self._house.connected(),
            backlog=self._house.backlog(),
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def events(self, _request: Request) -> ASGIApp:
        if self._listeners >= _MOST_LISTENERS:
            raise HTTPException(503, "too many listen already")
        stream = StreamingResponse(
            self._events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self._listeners += 1  # before anybody else can be asked about
            try:
                await stream(scope, receive, send)
            finally:
                self._listeners -= 1

        return counted

    async def _events(self) -> AsyncIterator[str]:
        """Each readout and status as it comes, and now and then a sign of life."""
        readouts, statuses = 0, 0
        live, board = self._house.history.live, self._house.statuses
        yield "retry: 3000\n\n"
        while True:
            waits = {
                asyncio.create_task(live.after(readouts)),
                asyncio.create_task(board.after(statuses)),
            }
            try:
                await asyncio.wait(waits, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            taken, told = live.behind(readouts), board.behind(statuses)
            readouts = max([readouts, *(entry.sequence for entry in taken)])
            statuses = max([statuses, *(entry.sequence for entry in told)])
            names = dict.fromkeys([one.meter for one in taken] + [one.meter for one in told])
            for name in names:
                stored = live.latest(name)
                shown = self._now(name, stored.readout if stored else None)
                yield f"event: meter\ndata: {json.dumps(shown, ensure_ascii=False)}\n\n"
            if not names:
                yield ": still here\n\n"

    def _now(self, name: str, readout: Readout | None) -> dict[str, object]:
        status = self._house.statuses.latest(name)
        if status and readout and readout.meter.is_other_than(status.meter):
            status = None  # of the one that came after it
        return {
            "name": name,
            "broker": self._house.connected(),
            "state": json.loads(status.to_json()) if status else None,
            **(figures.latest(readout) if readout else {}),
        }

    async def _latest(self) -> dict[str, Readout]:
        """The latest readout of each configured meter, also where none was read since the start."""
        return self._with_live(await self._try_to_read(self._kept) or {})

    def _kept(self, archive: Archive) -> dict[str, Readout | None]:
        return {name: archive.latest(name) for name in self._house.names}

    def _with_live(self, kept: dict[str, Readout | None]) -> dict[str, Readout]:
        """The latest readouts, those of this run where there are any."""
        live = ((name, self._house.history.live.latest(name)) for name in self._house.names)
        found = kept | {name: stored.readout for name, stored in live if stored is not None}
        return {name: readout for name, readout in found.items() if readout is not None}

    async def _meter(self, request: Request) -> tuple[str, str]:
        """The configured name of the meter that is asked for, and by what: that, or its serial."""
        wanted = request.path_params["serial"]
        known = await self._try_to_read(lambda archive: archive.meters()) or {}
        if wanted in known:
            return wanted, wanted
        for name, who in known.items():
            if any(one.serial == wanted for one in who):
                return name, wanted
        raise HTTPException(404, "no such meter")

    async def _try_to_read(self, work: Callable[[Archive], T]) -> T | None:
        """What `work` gives; None where there is no file yet."""
        try:
            return await self._read(work)
        except UsageError:
            return None

    async def _read(self, work: Callable[[Archive], T]) -> T:
        def read() -> T:
            with contextlib.closing(Archive(self._house.path)) as archive:
                return work(archive)

        return await asyncio.to_thread(read)

    def _span(self, request: Request, by: By | None) -> tuple[datetime, datetime]:
        """The time that is asked for; by default the last week, and never more than is of use."""
        zone = self._zone_of(request)
        end = _time(request, "to", zone) or datetime.now(zone)
        begin = _time(request, "from", zone) or end - timedelta(days=7)
        if not begin < end:
            raise UsageError("from: expected a time before to")
        if end - begin > _LONGEST.get(by, timedelta(days=36600)):
            raise UsageError("that is more than can be drawn: choose a shorter time, or another by")
        if by == "day" and (end - begin).days > _MOST_POINTS:
            raise UsageError("that is more than can be drawn: choose a longer by")
        return begin, end

    def _zone_of(self, request: Request) -> tzinfo:
        """The zone whose days and months are meant: that of whoever looks, or of this machine."""
        name = request.query_params.get("zone")
        if not name:
            return self._zone
        with contextlib.suppress(ValueError, OSError, ZoneInfoNotFoundError):
            return ZoneInfo(name)
        raise UsageError("zone: expected a name such as Europe/Amsterdam")


def _health(complaints: list[str]) -> Response:
    return JSONResponse(
        {"status": "failing" if complaints else "ok", "complaints": complaints},
        status_code=503 if complaints else 200,
    )


def _by(request: Request, *others: str) -> By | None:
    """The kind of period that is asked for, or None for one of `others`."""
    wanted = request.query_params.get("by") or "day"
    for known in BYS:
        if known == wanted:
            return known
    if wanted in others:
        return None
    expected = ", ".join((*others, *BYS))
    raise UsageError(f"by: '{wanted[:20]}' is unknown; expected one of {expected}")


def _time(request: Request, name: str, zone: tzinfo) -> datetime | None:
    text = request.query_params.get(name)
    if not text:
        return None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        if _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
            return moment.astimezone(zone)
    raise UsageError(f"{name}: expected a day or time such as 2026-11-24")


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _refuse_usage(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


async def _fail(request: Request, error: Exception) -> Response:
    shown = error if _log.isEnabledFor(logging.DEBUG) else None
    _log.warning(
        "The page failed at %s: %r; --debug shows where", request.url.path, error, exc_info=shown
    )
    return JSONResponse({"error": "that failed; the gateway's log says why"}, status_code=500)
