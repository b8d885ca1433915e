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
from kamstrup_mqtt.meter import MeterSession
from kamstrup_mqtt.polling.cache import Cache
from kamstrup_mqtt.polling.moments import HOUR_S
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.polling.validation import Plausibility
from kamstrup_mqtt.readout import Clock, MeterIdentity, Now, Readout

_log = logging.getLogger(__name__)


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
        self._meter = MeterIdentity()
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
        readout = await self._take(registers)
        if readout.meter.is_other_than(self._meter):
            # What was asked for was perhaps what another meter had left open.
            self._meet(readout.meter)
            readout = await self._take(registers)
        self._meet(readout.meter)
        return readout

    def _meet(self, meter: MeterIdentity) -> None:
        if meter.is_other_than(self._meter):
            self._cache.forget()
            self.info_code, self._info_at = None, -math.inf
        if meter.serial is not None:
            self._meter = meter

    async def ping(self) -> None:
        """Ask the cheapest question there is. Raises KamstrupError when no answer came."""
        await self._session.ping()

    async def _take(self, registers: tuple[int, ...]) -> Readout:
        if registers:  # whoever names them may know that the meter has them by now
            return await self._believed(await self._session.read(registers, anew=True))
        return await self._take_all()

    async def _take_all(self) -> Readout:
        await self._session.open()  # perhaps anew, and then nothing known holds any more
        if not self._cache.is_of((self._session.connection, self._session.identity.serial)):
            self._cache.forget()
        registers, now = self._settings.registers, self._clock()
        due = self._cache.due(now) or registers[:1]
        along = [FLOW] if self._settings.active_interval_s and FLOW not in due else []
        # The info code comes along where it costs no telegram of its own, and once an hour.
        is_old = now.monotonic - self._info_at > HOUR_S
        along += [INFO_CODE] if is_old or (len(due) + len(along)) % MAX_REGISTERS else []
        readout = await self._session.read([*due, *along])
        key = self._session.connection, readout.meter.serial
        if len(due) < len(registers) and not self._cache.is_of(key):  # it hung up amid it
            self._cache.forget()
            return await self._take_all()
        if INFO_CODE in readout.readings:
            self.info_code, self._info_at = _number(readout, INFO_CODE), now.monotonic
        self.flowing = bool(_number(readout, FLOW))
        readout = await self._believed(readout.only(registers))
        # By the time by which it was not asked for.
        return self._cache.complete(readout, key, now)

    async def _believed(self, readout: Readout) -> Readout:
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
            if repeated.meter.is_other_than(self._meter):
                return replace(readout, meter=repeated.meter)
            if repeated.meter.serial != readout.meter.serial:  # who knows whose second word that is
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
