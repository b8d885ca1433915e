"""What a schedule hands out, and what becomes of it: `Job`, `Wake` and `Fault`."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a job is for."""

    POLL = "poll"  # a full readout, at its slot
    REQUEST = "request"  # what somebody asked for
    PING = "ping"  # the cheapest question, so that the meter does not fall asleep
    ALIGN = "align"  # one question of many while somebody places the head
    BACKFILL = "backfill"  # one page of the meter's memory


STEPS = (Kind.ALIGN, Kind.BACKFILL)  # what goes on in small steps between all else


class Fault(StrEnum):
    """Why a job brought nothing."""

    PORT = "port"  # the port cannot be opened, or was lost before anything came: not asked
    SILENT = "silent"  # it was asked, and did not answer
    UNUSABLE = "unusable"  # it answered, and that was of no use


@dataclass(frozen=True, slots=True)
class Job:
    """Something to ask the meter now.

    Args:
        kind: what for.
        registers: those of a request; empty for all that are configured.

    """

    kind: Kind
    registers: tuple[int, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether it reads all that is configured."""
        return self.kind is Kind.POLL or (self.kind is Kind.REQUEST and not self.registers)


@dataclass(frozen=True, slots=True)
class Wake:
    """Nothing to do before `at`, on the monotonic clock."""

    at: float
