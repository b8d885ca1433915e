"""The line to the meter: a serial port or a network address, bytes out and bytes in.

The only module that knows serialx. It knows nothing of telegrams, and turns every way in which a
port can fail into a `PortError` that says what to check.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kamstrup_mqtt.errors import PortError
from kamstrup_mqtt.kmp import BAUD, Direction
from kamstrup_mqtt.meter.port import OPEN_DEADLINE_S, check_free, check_port, port_error

if TYPE_CHECKING:
    import serialx

STOP_BITS = 2

# Called with what was sent (a request) or received (an answer, or our echo, or noise).
Tap = Callable[[Direction, bytes], None]


_CLOSE_DEADLINE_S = 1.0
_SER2NET_BUSY = b"Port already in use"


def _unheard(_direction: Direction, _data: bytes) -> None:
    """Do nothing."""


class Link:
    """An open or closed line to `port`; half duplex, one user at a time.

    Args:
        port: a device path, `socket://host:port` or `rfc2217://host:port`.
        tap: called with all that passes, as it passes; may be set later.

    """

    def __init__(self, port: str, tap: Tap | None = None) -> None:
        self.port = port
        self.tap: Tap = tap or _unheard
        self.connection = 0  # how often it was opened: who answers may be another meter each time
        self._serial: serialx.AsyncSerial | None = None

    @property
    def is_tapped(self) -> bool:
        """Whether somebody hears what passes."""
        return self.tap is not _unheard

    @property
    def is_open(self) -> bool:
        """Whether the line is open, as far as is known."""
        return self._serial is not None and self._serial.is_open

    async def open(self) -> None:
        """Open the line at 1200 baud, 8N2; nothing happens if it is open.

        Raises:
            PortError: the port is missing, forbidden, in use, no serial port, or unreachable.

        """
        if self.is_open:
            return
        await self.close()
        check_port(self.port)
        if "://" not in self.port:
            check_free(self.port)
        import serialx  # noqa: PLC0415 - costs 0.1 s, which only commands that open a port pay

        serial = serialx.async_serial_for_url(
            self.port, baudrate=BAUD, stopbits=STOP_BITS, connect_timeout=OPEN_DEADLINE_S
        )
        with self._port_errors():
            async with asyncio.timeout(OPEN_DEADLINE_S):
                await serial.open()
        self._serial = serial
        self.connection += 1

    async def close(self) -> None:
        """Close the line at once, dropping what is still to be written."""
        serial, self._serial = self._serial, None
        if serial is not None:
            with contextlib.suppress(Exception):  # there is nothing left to save
                serial.abort()
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await serial.wait_closed()

    async def write(self, data: bytes) -> None:
        """Send `data` in one go. Raises PortError when the line is lost."""
        with self._port_errors():
            async with asyncio.timeout(OPEN_DEADLINE_S):
                await self._opened().write(data)
        self.tap(Direction.REQUEST, data)

    async def read(self, until: float) -> bytes:
        """What the line brings next, or b"" when nothing came `until` that time of the loop.

        Raises:
            PortError: the line is lost: unplugged, or closed by the other side.

        """
        data = b""
        with self._port_errors():
            try:
                async with asyncio.timeout_at(until) as deadline:
                    data = await self._opened().read(4096)
            except TimeoutError:  # ours, or a TCP connection that timed out
                if deadline.expired():
                    return b""
                raise
        if not data:  # how a stream tells its end
            raise PortError(
                f"{self.port} hung up: unplugged, or closed by the other side", "port_missing"
            )
        if _SER2NET_BUSY in data:
            raise PortError(
                f"{self.port} is in use: ser2net serves one program at a time; stop the other one",
                "port_busy",
            )
        self.tap(Direction.ANSWER, data)
        return data

    async def discard(self) -> None:
        """Drop what came in unasked. Raises PortError when the line is lost."""
        while await self.read(until=0.0):
            pass

    def _opened(self) -> "serialx.AsyncSerial":
        if self._serial is None:
            raise PortError(f"{self.port} is not open")
        return self._serial

    @contextlib.contextmanager
    def _port_errors(self) -> Iterator[None]:
        try:
            yield
        except PortError:
            raise
        except Exception as error:  # serialx raises OSError, SerialException, termios.error, ...
            raise port_error(self.port, error) from error
