"""YAML as plain data that remembers its lines, with bounds on what a few bytes can unfold to.

All scalars stay the text the user wrote, so that a password of 0123 is not a number.
"""

import copy
from collections.abc import Iterator

import yaml

KeyPath = tuple[str | int, ...]  # such as ("mqtt", "port") or ("meters", 0, "name")

MOST_VALUES = 100_000
DEEPEST = 32

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is five times as fast
_MERGE = "<<"
_EMPTY = ("", "~", "null", "Null", "NULL")


class TooMuch(Exception):  # noqa: N818 - no error of the program
    """More in a file than anybody would write; `line` says where that shows."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


class Document:
    """What a text in YAML holds.

    An alias stands for a copy of what it refers to, and has its own line only.

    Args:
        text: the whole file.

    Raises:
        yaml.YAMLError: it is no YAML.
        TooMuch: it is deeper, or unfolds to more values, than any configuration.

    """

    def __init__(self, text: str) -> None:
        self.data: object = None
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[tuple[KeyPath, str]] = []
        self._values = 0
        # What each anchor names, and how many values that are; None while it is being read.
        self._anchors: dict[str, tuple[object, int] | None] = {}
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = _line(event)
                    raise TooMuch(line, "a second document begins here; expected only one")
            elif isinstance(event, yaml.NodeEvent):
                self.data = self._value(event, ())

    def _value(self, event: yaml.Event, path: KeyPath) -> object:
        line = _line(event)
        self.lines.setdefault(path, line)
        if len(path) > DEEPEST:
            raise TooMuch(line, f"is nested more than {DEEPEST} deep")
        if isinstance(event, yaml.AliasEvent):
            return self._referred(str(event.anchor), path, line)
        before = self._values
        self._count(1, line)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        value: object
        if isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path)
        elif isinstance(event, yaml.ScalarEvent):
            value = None if not event.style and event.value in _EMPTY else str(event.value)
        if anchor is not None:
            self._anchors[anchor] = value, self._values - before
        return value

    def _sequence(self, path: KeyPath) -> list[object]:
        content: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            content.append(self._value(event, (*path, len(content))))
        return content

    def _mapping(self, path: KeyPath) -> dict[str, object]:
        content: dict[str, object] = {}
        merged: list[object] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            key = None
            if isinstance(event, yaml.ScalarEvent):  # without halves of characters
                key = str(event.value).encode(errors="replace").decode()
            if key is None:
                self._value(event, (*path, "?"))
                self.faults.append(((*path, "?"), "expected a word as key"))
                self._value(next(self._events), (*path, "?"))
            elif key == _MERGE:
                self.lines[(*path, key)] = line
                value = self._value(next(self._events), (*path, key))
                merged += value if isinstance(value, list) else [value]
            elif key in content:
                self.faults.append(((*path, key), f"given again in line {line}; keep one of them"))
                self._value(next(self._events), (*path, key))
            else:
                self.lines[(*path, key)] = line
                content[key] = self._value(next(self._events), (*path, key))
        for one in merged:  # what is given here, or by an earlier one, is not given by a later one
            if isinstance(one, dict):
                self._count(len(one), self.lines[(*path, _MERGE)])
                for key in one.keys() - content.keys():
                    content[key] = copy.deepcopy(one[key])
            elif one is not None:
                self.faults.append(((*path, _MERGE), "expected keys to merge, such as <<: *other"))
        for key in content:
            self.lines.setdefault((*path, key), self.lines.get((*path, _MERGE), 1))
        return content

    def _referred(self, anchor: str, path: KeyPath, line: int) -> object:
        known = self._anchors.get(anchor)
        if known is None:
            whom = "itself" if anchor in self._anchors else f"&{anchor}, which is not before it"
            self.faults.append((path, f"refers to {whom}"))
            return None
        value, size = known
        self._count(size, line)
        return copy.deepcopy(value)

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise TooMuch(line, f"holds, or unfolds to, more than {MOST_VALUES} values")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
