"""What must hold of a configuration beyond each value: its texts, topics, meters and times."""

from collections.abc import Iterable, Mapping
from typing import Any

from kamstrup_mqtt.gateway.document import KeyPath
from kamstrup_mqtt.gateway.source import Source
from kamstrup_mqtt.gateway.texts import clean, topic_fault
from kamstrup_mqtt.outputs import LONGEST_SUBTOPIC
from kamstrup_mqtt.quantities import INTERVAL


def is_true(value: object) -> bool:
    """Whether a text of the configuration means yes."""
    return str(value).lower() in ("true", "yes", "on", "1", "y", "t")


def clean_texts(source: Source) -> None:
    """Note every text that no setting can be, and go on with what is fit of it."""
    _clean(source, source.data, ())


def check_broker(source: Source) -> None:
    """Whoever logs in has a name, and topics are such, also with all that comes behind them."""
    mqtt = source.section("mqtt")
    if is_true(mqtt.get("authentication")) and "username" not in mqtt:
        source.fault(("mqtt", "authentication"), "expected a username along with it")
    names = [meter.get("name") for _, meter in _meters(source)]
    longest = max((len(f"/{name}".encode()) for name in names if isinstance(name, str)), default=0)
    for section, key, room in (
        ("mqtt", "topic", longest + LONGEST_SUBTOPIC),
        ("homeassistant", "prefix", LONGEST_SUBTOPIC),
        ("web", "outdoor_topic", 0),
    ):
        topic = source.section(section).get(key)
        if isinstance(topic, str) and (fault := topic_fault(topic, room)):
            source.fault((section, key), fault)


def check_meters(source: Source, expected: Mapping[str, str]) -> None:
    """Either one meter in the older form, or several; their names and ports differ.

    Args:
        source: what the user wrote, which takes the faults.
        expected: what each section should be.

    """
    data, single = source.data, ("serial_device", "kamstrup")
    if "meters" not in data:
        for name in single:
            if name not in data:
                source.fault((name,), f"this section is missing; expected {expected[name]}")
        return
    for name in single:
        if name in data:
            source.fault((name,), "give either meters, or serial_device and kamstrup, not both")
    if data["meters"] == []:
        source.fault(("meters",), "expected at least one meter")
    for key in ("name", "port"):
        seen: set[str] = set()
        for place, meter in _meters(source):
            value = meter.get(key)
            if not isinstance(value, str):
                continue
            if value in seen:
                source.fault((*place, key), f"'{value}' is used by another meter")
            seen.add(value)


def check_prices(source: Source) -> None:
    """Prices are given once, in a section of their own or, as ever, in that of the page."""
    page = source.section("web")
    for key in ("prices", "currency"):
        if source.data.get(key) == []:
            del source.data[key]
        elif key in source.data and source.is_variable((key,)):  # which lies over both
            page.pop(key, None)
        if key in page and key in source.data:
            source.fault(("web", key), f"give either {key}, or web.{key}, not both")


def check_schedules(source: Source) -> None:
    """Every meter has either an interval or moments."""
    places = list(_meters(source))
    if isinstance(only := source.data.get("kamstrup"), dict):
        places.append((("kamstrup",), only))
    for place, content in places:
        if "poll_at" in content and "poll_interval" in content:
            source.fault((*place, "poll_at"), "give either poll_interval or poll_at")
        elif "poll_at" not in content and "poll_interval" not in content:
            source.fault((*place, "poll_interval"), f"required, but missing; expected {INTERVAL}")


def _meters(source: Source) -> Iterable[tuple[KeyPath, dict[str, Any]]]:
    meters = source.data.get("meters")
    for index, meter in enumerate(meters if isinstance(meters, list) else []):
        if isinstance(meter, dict):
            yield ("meters", index), meter


def _clean(source: Source, content: Any, path: KeyPath) -> None:
    places = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(places):
        inside = (*path, key)
        if isinstance(value, dict | list):
            _clean(source, value, inside)
        elif isinstance(value, str):
            content[key], fault = clean(value, inside)
            if fault:
                source.fault(inside, fault)
