"""What the doctor finds: one `Check` after another, each with a `Finding` of a closed list."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Finding(StrEnum):
    """What a check found; docs/troubleshooting.md has a paragraph on each."""

    OK = "ok"
    CONFIG_INVALID = "config_invalid"
    PORT_MISSING = "port_missing"
    PORT_BUSY = "port_busy"
    PORT_UNUSABLE = "port_unusable"
    NO_PERMISSION = "no_permission"
    UNREACHABLE = "unreachable"
    NOTHING_HEARD = "nothing_heard"
    ECHO_ONLY = "echo_only"
    NOISE = "noise"
    BAD_CRC = "bad_crc"
    OTHER_PROGRAM = "other_program"
    ASLEEP = "asleep"
    NOT_IDENTIFIED = "not_identified"
    CLOCK_OFF = "clock_off"
    PARAMETER_UNKNOWN = "parameter_unknown"
    METER_FAULT = "meter_fault"
    SLOW = "slow"
    BROKER_UNREACHABLE = "broker_unreachable"
    LOGIN_REFUSED = "login_refused"
    TOPIC_REFUSED = "topic_refused"
    DATA_NOT_WRITABLE = "data_not_writable"
    DISK_FULL = "disk_full"
    SERVICE_FAULTY = "service_faulty"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, what was found, and in one sentence what that means.

    `meter` is its name where several are configured.
    """

    check: str
    finding: Finding
    advice: str
    meter: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return self.finding is Finding.OK

    def to_dict(self) -> dict[str, object]:
        """The check as it appears in JSON."""
        named = {"meter": self.meter} if self.meter else {}
        return named | {
            "check": self.check, "ok": self.ok, "finding": self.finding, "advice": self.advice,
        }  # fmt: skip


# Takes each check as soon as it is done.
Report = Callable[[Check], None]


def verdict(checks: list[Check]) -> str:
    """All checks in one sentence."""
    failed = [check for check in checks if not check.ok]
    if not failed:
        return "all is well"
    count = f"{len(failed)} of {len(checks)} checks failed"
    return f"{count}; begin with '{failed[0].check}': {failed[0].advice}"


def to_json(checks: list[Check], indent: int | None = None) -> str:
    """All checks and the verdict as one JSON object."""
    found = {"checks": [check.to_dict() for check in checks], "verdict": verdict(checks)}
    return json.dumps(found, indent=indent, ensure_ascii=False)
