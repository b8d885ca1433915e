"""A moment on both clocks: `Now`."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple


class Now(NamedTuple):
    """A moment: on the wall clock, which may be set, and on the monotonic one, which is not.

    Args:
        wall: unix time in seconds.
        monotonic: seconds since nobody knows when; the clock of the event loop.

    """

    wall: float
    monotonic: float

    @classmethod
    def read(cls) -> "Now":
        """The moment it is, by the clocks of this machine."""
        return cls(time.time(), time.monotonic())

    @property
    def moment(self) -> datetime:
        """The wall clock as local time, with its offset from UTC."""
        return datetime.fromtimestamp(self.wall).astimezone()


# Tells the time: `Now.read`, or the clock of a test.
Clock = Callable[[], Now]
