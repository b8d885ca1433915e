"""What the texts of a configuration may hold."""

import re

LONGEST = 65_535  # bytes of any text in MQTT

# Control characters, halves of characters, and what Unicode keeps for no character. Brokers hang
# up on them, and no file, host or port has them in its name.
_SPACING = "\t\n\r"
_NO_CHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_HALVES = "\ud800-\udfff"
_NOT_TEXT = re.compile(f"[\x00-\x1f\x7f-\x9f{_HALVES}\ufdd0-\ufdef{_NO_CHARACTERS}]")
_NOT_LINES = re.compile(f"(?![{_SPACING}]){_NOT_TEXT.pattern}")
_NOT_SECRET = re.compile(f"[{_HALVES}]")

# Keys whose texts may go over several lines, and such that may hold anything.
_LINES = frozenset({"parameters", "poll_at"})
_SECRETS = frozenset({"password"})


def clean(text: str, keys: tuple[str | int, ...]) -> tuple[str, str | None]:
    """A text of the configuration as it may be, and what is wrong with it, if anything.

    Args:
        text: what the user wrote.
        keys: the keys under which it stands.

    """
    if _SECRETS.intersection(keys):
        unfit = _NOT_SECRET
    else:
        unfit = _NOT_LINES if _LINES.intersection(keys) else _NOT_TEXT
    found = unfit.search(text)
    text = unfit.sub("?", text)
    if found:
        return text, f"expected text on one line, got the character U+{ord(found[0]):04X} in it"
    if len(text.encode(errors="replace")) > LONGEST:
        return text[:100], f"expected at most {LONGEST} bytes"
    return text, None


def topic_fault(topic: str, room: int) -> str | None:
    """What is wrong with a topic that we publish under or listen to, if anything.

    Args:
        topic: the topic, without wildcards.
        room: bytes that others need behind it.

    """
    if topic.startswith("$"):
        return "expected a topic that does not begin with $, for brokers keep those"
    if len(topic.encode(errors="replace")) + room > LONGEST:
        return f"expected at most {LONGEST - room} bytes"
    return None
