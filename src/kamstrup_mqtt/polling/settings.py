"""What to read of a meter, and when, as the user set it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """A meter to read: its name in logs, its port, registers, schedule and base topic.

    `interval_s` is the longest time between two readings, also where `poll_at` says when they are.
    """

    name: str
    port: str
    registers: tuple[int, ...]
    interval_s: float
    topic: str
    poll_at: str | None = None
    active_interval_s: float | None = None
    max_readings_per_day: int | None = None
    keep_awake: bool | None = None
