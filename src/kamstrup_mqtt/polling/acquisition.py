"""Takes a readout of one meter: asks for what is due, adds what still holds, and believes the rest.

The session asks, the cache knows what is due, the validation what cannot be.
"""

import contextlib
import logging
import math
from dataclasses import replace
from datetime import tzinfo
from decimal import Decimal

from kamstrup_mqtt.catalog import FLOW, INFO_CODE, register_name
from kamstrup_mqtt.errors import KamstrupError
from kamstrup_mqtt.kmp import MAX_REGISTERS, BitField
from kamstrup_mqtt.meter import HOLDS_S, MeterSession
from kamstrup_mqtt.polling.cache import Cache, Key
from kamstrup_mqtt.polling.moments import HOUR_S
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.polling.validation import Plausibility
from kamstrup_mqtt.readout import Clock, Now, Readout

_TRIES = 3

_log = logging.getLogger(__name__)


class _AnotherMeterError(Exception):
    """What was read is of another meter than what was read just before it."""


class Acquisition:
    """The readouts of one meter.

    Args:
        settings: what to read.
        session: asks the meter.
        zone: whose hours and days end.
        clock: tells the time.

    """

    def __init__(
        self, settings: MeterConfig, session: MeterSession, zone: tzinfo, clock: Clock
    ) -> None:
        self.info_code: int | None = None  # of this meter, as read last; 0 when all is well
        self.flowing = False  # whether water flowed at the last full readout
        self._settings = settings
        self._session = session
        self._clock = clock
        self._cache = Cache(settings.registers, zone)
        self._plausibility = Plausibility()
        self._key: Key = (0, None)  # of the last readout
        self._full_at = -math.inf  # when everything was read last
        self._info_at = -math.inf

    def resume(self, last: Readout, now: Now) -> None:
        """Let the totals of an earlier run say what can be now."""
        age_s = max(0.0, now.wall - last.time.timestamp())
        self._plausibility.accept(last, now.monotonic - age_s)

    def forget(self) -> None:
        """Ask for everything again: what is known may be what made a readout fail."""
        self._cache.forget()

    async def take(self, registers: tuple[int, ...] = ()) -> Readout:
        """A readout of `registers`, or of all that are configured.

        Raises:
            KamstrupError: of the session, when nothing was read.

        """
        for _ in range(_TRIES):
            with contextlib.suppress(_AnotherMeterError):
                if registers:  # whoever names them may know that the meter has them by now
                    return await self._take_some(registers)
                return await self._take_all()
            self._forget_meter()
        raise KamstrupError("another meter answers each time: see what is on the line")

    def _forget_meter(self) -> None:
        self._cache.forget()
        self.info_code, self._info_at = None, -math.inf

    def _note_whose(self, readout: Readout) -> Key:
        """The key of a readout that just came; what is known of another meter is forgotten."""
        key = connection, serial = self._session.read_on, readout.meter.serial
        before_connection, before = self._key
        is_same_line = connection == before_connection
        if None in (serial, before):
            is_other = bool(before_connection) and not is_same_line
        else:
            is_other = serial != before
        if is_other:
            self.info_code, self._info_at = None, -math.inf
        self._key = connection, serial or (before if is_same_line else None)
        return key

    async def ping(self) -> None:
        """Ask the cheapest question there is. Raises KamstrupError when no answer came."""
        await self._session.ping()

    async def _take_some(self, registers: tuple[int, ...]) -> Readout:
        readout = await self._session.read(registers, anew=True)
        return await self._believed(readout, self._note_whose(readout))

    async def _take_all(self) -> Readout:
        session = self._session
        await session.open()  # perhaps anew, and then nothing known holds any more
        known = session.connection, session.identity.serial
        if not self._cache.is_of(known) or (known[1] is None and session.idle_s > HOLDS_S):
            self._cache.forget()
        registers, now = self._settings.registers, self._clock()
        due = self._cache.due(now) or registers[:1]
        along = [FLOW] if self._settings.active_interval_s and FLOW not in due else []
        # The info code comes along where it costs no telegram of its own, and else as soon as the
        # next readout would be too late for once an hour.
        is_old = now.monotonic + (now.monotonic - self._full_at) - self._info_at > HOUR_S
        along += [INFO_CODE] if is_old or (len(due) + len(along)) % MAX_REGISTERS else []
        readout = await session.read([*due, *along])
        key = self._note_whose(readout)
        if len(due) < len(registers) and not self._cache.is_of(key):
            self._cache.forget()  # they are another meter's, or may be
            return await self._take_all()
        self._full_at = now.monotonic
        if INFO_CODE in readout.readings:
            self.info_code, self._info_at = _number(readout, INFO_CODE), now.monotonic
        self.flowing = bool(_number(readout, FLOW))
        readout = await self._believed(readout.only(registers), key)
        # By the time by which it was not asked for.
        return self._cache.complete(readout, key, now)

    async def _believed(self, readout: Readout, key: Key) -> Readout:
        """`readout` without totals that cannot be and that the meter does not say twice."""
        doubtful = self._plausibility.doubtful(readout, self._clock().monotonic)
        for register, reason in doubtful.items():
            name = register_name(register)
            _log.warning("%s: %s %s: asking again", self._settings.name, name, reason)
        if doubtful:
            self._session.count_implausible(len(doubtful))
            self._session.doubt_identity()
            repeated = Readout(readout.meter, readout.time, {}, {})
            with contextlib.suppress(KamstrupError):  # what is not doubtful is not lost by it
                repeated = await self._session.read(doubtful)
            if repeated.meter.is_other_than(readout.meter):
                raise _AnotherMeterError
            again = self._session.read_on, repeated.meter.serial
            if again != key and None in (key[1], again[1]):  # who knows whose second word that is
                repeated = replace(repeated, readings={})
            clock = self._clock().monotonic
            readout = self._plausibility.settle(readout, repeated, doubtful, clock)
        self._plausibility.accept(readout, self._clock().monotonic)
        return readout


def _number(readout: Readout, register: int) -> int | None:
    """A whole number that came along with a readout."""
    reading = readout.readings.get(register)
    value = reading.value if reading else None
    if not isinstance(value, Decimal | BitField) or value != int(value):
        return None
    return int(value)
