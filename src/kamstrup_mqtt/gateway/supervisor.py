"""Keeps the parts of the gateway running, each for itself: what fails takes no other part down.

A part that ended with an error is started again after a while. The log tells the cause once, and
the health as long as it lasts. It knows no part.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from kamstrup_mqtt.errors import KamstrupError, UsageError
from kamstrup_mqtt.gateway.log import printable
from kamstrup_mqtt.polling.backoff import retry_delay
from kamstrup_mqtt.quantities import duration

_LONGEST_S = 120.0  # sooner than whoever watches over us takes us for stuck
_HELD_S = 60.0  # a part that runs for so long is well again
_REMINDER_S = 3600.0  # how often the log repeats a cause

_log = logging.getLogger(__name__)


class Supervisor:
    """Knows which parts failed lately, and why."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[str, float]] = {}  # by part: the cause, and until when

    @property
    def complaints(self) -> list[str]:
        """What is wrong, one line a part; empty when all run."""
        now = time.monotonic()
        return [cause for cause, until in self._failed.values() if now < until]

    async def keep(
        self,
        part: str,
        start: Callable[[], Awaitable[None]],
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """Run a part until cancelled, and start it again whenever it ends.

        Args:
            part: what it is, for people.
            start: runs it.
            on_failure: is told the cause each time, where the part says so itself.

        Raises:
            UsageError: it cannot run as it is asked to, which starting it again would not mend.

        """
        failures, said, said_at = 0, "", 0.0
        while True:
            began = time.monotonic()
            try:
                await start()
                error: BaseException = RuntimeError("it ended by itself")
            except UsageError:
                raise
            except asyncio.CancelledError as failure:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                error = failure  # of something that the part waited for
            except (Exception, SystemExit) as failure:  # noqa: BLE001 - whatever it is
                error = failure
            now = time.monotonic()
            failures = 1 if now - began > _HELD_S else failures + 1
            delay_s = retry_delay(failures, _LONGEST_S)
            cause = _cause(part, error)
            if cause != said or now - said_at >= _REMINDER_S:
                said, said_at = cause, now
                _tell(cause, delay_s, error)
            if on_failure is None:
                self._failed[part] = (cause, now + delay_s + _HELD_S)
            else:
                try:
                    on_failure(cause)
                except Exception as failure:  # noqa: BLE001 - perhaps what made the part fail
                    _log.debug("%s cannot say that it failed: %r", part, failure)
            await asyncio.sleep(delay_s)


def _cause(part: str, error: BaseException) -> str:
    """What happened, on one line."""
    if isinstance(error, KamstrupError):
        return printable(str(error))
    return printable(f"{part} failed: {type(error).__name__}: {error}".rstrip(": "))


def _tell(cause: str, delay_s: float, error: BaseException) -> None:
    hint = "" if isinstance(error, KamstrupError) else "; please report it, --debug shows where"
    _log.error(
        "%s. It is started again in %s, and all else goes on%s",
        cause, duration(delay_s), hint,
        exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
    )  # fmt: skip
