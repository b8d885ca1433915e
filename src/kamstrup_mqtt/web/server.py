"""Serves the page, beside everything else."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn

from kamstrup_mqtt.errors import KamstrupError
from kamstrup_mqtt.web.app import House, make_app
from kamstrup_mqtt.web.connection import Connection

_HEADER_BYTES = 16384
_MOST_CONNECTIONS = 200  # those that wait, those that listen to events, and some more

_log = logging.getLogger(__name__)


async def serve_web(house: House) -> None:
    """Serve the page until cancelled.

    Raises:
        KamstrupError: it cannot listen where it should.

    """
    host, port = house.settings.address
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = _listening(*found[0])
    except OSError as error:
        raise KamstrupError(
            f"The page cannot listen on {house.settings.listen}: {error.strerror}"
        ) from error
    with listener:
        _log.info("The page is at http://%s/", house.settings.listen)
        await _serve(house, listener)


def _listening(
    family: int, kind: int, protocol: int, _name: str, address: tuple[object, ...]
) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


async def _serve(house: House, listener: socket.socket) -> None:
    config = uvicorn.Config(
        make_app(house), http=Connection, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=1, h11_max_incomplete_event_size=_HEADER_BYTES,
        limit_concurrency=_MOST_CONNECTIONS,
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
    """A server that leaves signals, and whether to go on, to the gateway."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        except SystemExit as error:  # out of a task it would end the gateway
            raise RuntimeError("the server gave up") from error
