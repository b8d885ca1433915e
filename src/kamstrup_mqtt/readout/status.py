"""How a meter and the line to it are doing, apart from what it measures: `MeterStatus`.

It says what others have found out; it decides nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version

from kamstrup_mqtt.catalog import info_words
from kamstrup_mqtt.readout import MeterIdentity


class LinkState(StrEnum):
    """What is to be said of the line to a meter, in one word."""

    OK = "ok"  # the last readout brought values
    SILENT = "silent"  # the port works and no telegram comes back
    ASLEEP = "asleep"  # silent since a pause long enough for the meter to fall asleep
    GARBLED = "garbled"  # something comes back, and nothing of it is usable
    PORT_MISSING = "port_missing"  # the port cannot be opened, or was lost


@dataclass(slots=True)
class Counters:
    """What happened on the line since the program began."""

    telegrams: int = 0  # sent to the meter
    crc_errors: int = 0  # answers with a wrong checksum
    damaged: int = 0  # answers unusable for another reason
    timeouts: int = 0  # telegrams without any answer
    retries: int = 0  # telegrams that repeated another one
    implausible: int = 0  # totals that could not be, and were asked for again
    bytes: int = 0  # sent and received


@dataclass(frozen=True, slots=True)
class Today:
    """What this day has cost the meter so far."""

    telegrams: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """How one meter is doing.

    Args:
        state: the state of the line.
        since: when it began.
        reason: what the last failed readout said; "" when it did not fail.
        last_readout: when the last readout that brought values began, or None.
        meter: who answered last.
        missing: the parameters that the last readout could not read, each with the reason.
        info_code: register 99 of the last readout, 0 when all is well, None when not read.
        interval_s: seconds from one readout to the next.
        is_set: whether that was set at run time, and is not as configured.
        quality: percent of the latest telegrams that got a usable answer, None before the first.
        counters: telegrams and faults since the program began.
        today: telegrams and bytes since midnight.

    """

    state: LinkState
    since: datetime
    reason: str
    last_readout: datetime | None
    meter: MeterIdentity
    missing: Mapping[str, str]
    info_code: int | None
    interval_s: float
    is_set: bool
    quality: int | None
    counters: Counters = field(default_factory=Counters)
    today: Today = field(default_factory=Today)

    def to_json(self) -> str:
        """One JSON object, as on `<topic>/state`."""
        return json.dumps(
            {
                "state": self.state,
                "since": _iso(self.since),
                "reason": self.reason,
                "last_readout": _iso(self.last_readout),
                "meter": self.meter.to_dict(),
                "missing": dict(self.missing),
                "info": self._info(),
                "poll_interval": _number(self.interval_s),
                "poll_interval_from": "command" if self.is_set else "configuration",
                "version": version("kamstrup-mqtt"),
                "signal_quality": self.quality,
                "counters": asdict(self.counters),
                "today": asdict(self.today),
            },
            ensure_ascii=False,
        )

    def _info(self) -> dict[str, object] | None:
        """The info code with its words, for people and as attributes."""
        if self.info_code is None:
            return None
        faults = info_words(self.info_code, self.meter.model or "")
        if self.info_code and not faults:
            faults = (f"info code {self.info_code}; what it means on this meter is not public",)
        return {"code": self.info_code, "faults": list(faults)}


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _number(seconds: float) -> float:
    return int(seconds) if seconds.is_integer() else seconds
