"""Keeps the parts of the gateway running, each for itself: what fails takes no other part down.

A part that ended with an error nobody foresaw is started again after a while. The log tells the
cause once, and the health as long as it lasts. It knows no part.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.schedule import duration, retry_delay

_LONGEST_S = 120.0  # sooner than whoever watches over us takes us for stuck
_HELD_S = 60.0  # a part that runs for so long is well again
_REMINDER_S = 3600.0  # how often the log repeats a cause

_log = logging.getLogger(__name__)


class Supervisor:
    """Knows which parts failed lately, and why."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}  # part to cause
        self._held_at: dict[str, float] = {}  # when a part that failed is well again

    @property
    def complaints(self) -> list[str]:
        """What is wrong, one line a part; empty when all run."""
        now = time.monotonic()
        return [
            f"{part} failed: {cause}"
            for part, cause in self._failed.items()
            if now < self._held_at[part]
        ]

    async def keep(
        self,
        part: str,
        start: Callable[[], Awaitable[None]],
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """Run a part until cancelled, and start it again whenever it fails.

        Args:
            part: what it is, for people.
            start: runs it.
            on_failure: is told the cause each time.

        Raises:
            UsageError: it cannot run as it is asked to, which starting it again would not mend.

        """
        failures, said_at = 0, -_REMINDER_S
        while True:
            began = time.monotonic()
            try:
                await start()
                error: BaseException = RuntimeError("it ended by itself")
            except UsageError:
                raise
            except (Exception, SystemExit) as failure:  # noqa: BLE001 - whatever it is
                error = failure
            cause = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
            now = time.monotonic()
            failures = 1 if now - began > _HELD_S else failures + 1
            delay_s = retry_delay(failures, _LONGEST_S)
            if self._failed.get(part) != cause or now - said_at >= _REMINDER_S:
                said_at = now
                _log.error(
                    "%s failed, and is started again in %s: %s. All else goes on; please report "
                    "it, --debug shows where",
                    part, duration(delay_s), cause,
                    exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
                )  # fmt: skip
            self._failed[part] = cause
            self._held_at[part] = now + delay_s + _HELD_S
            if on_failure is not None:
                on_failure(cause)
            await asyncio.sleep(delay_s)
