"""Runs the page beside everything else; when it fails, it says so and tries again."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from kamstrup_mqtt.web.app import House, make_app

_RETRY_S = 30.0
_HEADERS_S = 10.0  # for a request to be complete
_HEADER_BYTES = 16384
_MOST_REQUESTS = 100

_log = logging.getLogger(__name__)


async def serve_web(house: House) -> None:
    """Serve the page until cancelled."""
    host, port = house.settings.address
    while True:
        try:
            with _listening(host, port) as listener:
                _log.info("The page is at http://%s/", house.settings.listen)
                await _serve(house, listener)
        except OSError as error:
            _log.warning(
                "The page cannot listen on %s: %s. Reading and publishing go on; next try in %d s",
                house.settings.listen, error.strerror, _RETRY_S,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - never a reason to stop reading
            _log.warning("The page failed: %r. Reading and publishing go on", error)
        await asyncio.sleep(_RETRY_S)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        yield listener


async def _serve(house: House, listener: socket.socket) -> None:
    config = uvicorn.Config(
        make_app(house), http=_Patient, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=1, h11_max_incomplete_event_size=_HEADER_BYTES,
        limit_concurrency=_MOST_REQUESTS,
    )  # fmt: skip
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.gather(serving, return_exceptions=True)


class _Server(uvicorn.Server):
    """A server that leaves signals to the gateway."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Patient(H11Protocol):
    """A connection that is closed when its request does not come, or comes too slowly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_HEADERS_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()
