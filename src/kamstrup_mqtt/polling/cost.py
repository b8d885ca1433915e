"""What polling costs a meter, in words for the log and for people."""

import math
from collections.abc import Iterator

from kamstrup_mqtt.polling.moments import DAY_S
from kamstrup_mqtt.polling.schedule import SLEEPY_S, Schedule
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.quantities import duration

_BATTERY_MIN = 15  # a reading, as users report; nobody has measured it


def battery_life(readings: int) -> str:
    """The battery life that so many readings take by what users report, which nobody measured."""
    return f"about {duration(readings * _BATTERY_MIN * 60)} of battery life (an estimate of users)"


def explained(meter: MeterConfig, schedule: Schedule) -> Iterator[str]:
    """When the meter is polled, and what that costs it: one sentence each."""
    timetable = schedule.timetable
    when = f"every {duration(timetable.interval_s)}"
    if timetable.is_cron:
        when = f"at {meter.poll_at} (minute, hour, day, month, weekday)"
    yield f"reading {when}: {_cost(timetable.polls_a_day)}"
    if meter.active_interval_s is not None:
        yield (
            f"while water flows, or somebody asks for it, every {duration(meter.active_interval_s)}"
            f": at most {_cost(DAY_S / meter.active_interval_s)}"
        )
    most = meter.max_readings_per_day
    if most is not None:
        yield f"never more than {most} reading{'s' if most > 1 else ''} in 24 hours"
    if schedule.keeps_awake:
        questions = timetable.pings_a_day(SLEEPY_S)
        yield (
            f"between readings, a telegram of 5 bytes every {duration(SLEEPY_S)} keeps the meter "
            f"awake: at most {questions} a day, and each costs about as much battery as a reading; "
            "keep_awake: false leaves that out"
        )
    elif meter.keep_awake is None and timetable.interval_s > SLEEPY_S:
        yield "a meter that is found asleep once is kept awake from then on"


def warned(meter: MeterConfig, schedule: Schedule) -> Iterator[str]:
    """What may go wrong with that: one sentence each."""
    timetable, most = schedule.timetable, meter.max_readings_per_day
    questions = math.ceil(timetable.polls_a_day) + timetable.pings_a_day(SLEEPY_S)
    if schedule.keeps_awake and most is not None and most < questions:
        yield (
            f"max_readings_per_day: {most} is too few to keep the meter awake all day, which takes "
            f"{questions} with the readings"
        )
    if meter.keep_awake is False and timetable.interval_s > SLEEPY_S:
        yield (
            "meters fall asleep after about 30 minutes without a question, and may not answer the "
            "next one; keep_awake: true keeps them awake"
        )


def _cost(polls: float) -> str:
    """Readings a day, and the battery life they take by what users report."""
    count = round(polls)
    if not count:
        return "less than one reading a day"
    return f"{count} reading{'s' if count > 1 else ''} a day, {battery_life(count)}"
