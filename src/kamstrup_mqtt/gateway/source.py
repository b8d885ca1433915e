"""The configuration file and the environment as plain data that remembers where it came from.

What the data must be is decided by `config.py`. Faults are collected, not raised.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.files import contents
from kamstrup_mqtt.gateway.document import Document, KeyPath, TooMuch
from kamstrup_mqtt.gateway.log import printable

ENVIRONMENT_PREFIX = "KAMSTRUP_"
MOST_FAULTS = 100  # that are told; nobody mends more at once

_MOST_BYTES = 1_000_000
_LONGEST_KEY = 60
_LONGEST_MESSAGE = 500
_WHOLE = ("meters", "prices", "currency")  # no sections of keys, and given as in KAMSTRUP_METERS
_SECTIONS = ("mqtt", "serial_device", "kamstrup", "homeassistant", "history", "web", "log")
_LISTS = ("parameters", "allow", "hosts", "trusted_proxies", "prices")  # keys
_LAST = 1 << 30  # behind every line of the file


class Source:
    """What the user wrote, and the faults found in it.

    Args:
        path: the YAML file.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, object] = {}
        self._lines: dict[KeyPath, int] = {}
        self._variables: dict[KeyPath, str] = {}
        self._faults: list[tuple[int, str]] = []

    @property
    def faults(self) -> list[str]:
        """The faults found so far, in the order of the file; of very many the first ones."""
        found = [text for _, text in sorted(dict.fromkeys(self._faults))]
        if len(found) > MOST_FAULTS:
            found[MOST_FAULTS:] = [f"{printable(str(self.path))}: and more faults"]
        return found

    def section(self, name: str) -> dict[str, Any]:
        """A section; empty where there is none, or something else in its place."""
        content = self.data.get(name)
        return content if isinstance(content, dict) else {}

    def names(self, key: KeyPath) -> bool:
        """Whether the file itself, not the environment, gives `key` of a section."""
        section, name = key
        return name in self.section(str(section)) and key not in self._variables

    def fault(self, key: KeyPath, message: str) -> None:
        """Note a fault of `key`, or of the nearest part of it that is in the file."""
        line, _ = self._place(key)
        self._faults.append((line, self.told(key, message)))

    def told(self, key: KeyPath, message: str) -> str:
        """What is to be said of `key`, with the place where it is given."""
        parts = (f"[{p + 1}]" if isinstance(p, int) else f".{p[:_LONGEST_KEY]}" for p in key)
        line, variable = self._place(key)
        message = printable(message, _LONGEST_MESSAGE)
        if variable:
            return f"environment variable {printable(variable)}: {message}"
        words = printable(f"{self.path}:{line}"), printable("".join(parts).lstrip(".")), message
        return ": ".join(filter(None, words))

    def _place(self, key: KeyPath) -> tuple[int, str]:
        """The line of `key` or the nearest part of it, or the variable that gives it."""
        for length in range(len(key), 0, -1):
            if variable := self._variables.get(key[:length]):
                return _LAST, variable
            if line := self._lines.get(key[:length]):
                return line, ""
        return 1, ""

    def read_file(self) -> None:
        """Read the file; what is wrong with it as a whole becomes a fault without a key."""
        try:
            text = self._text()
        except FileNotFoundError:
            self._whole(
                "no such file; copy config.example.yaml to config.yaml, or name yours with -c"
            )
        except OSError as error:
            self._whole(f"cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._whole("is not a text file in UTF-8")
        except (UsageError, TooMuch) as error:
            self._whole(str(error))
        else:
            self._parse(text)

    def read_environment(self, environment: Mapping[str, str]) -> None:
        """Put variables like KAMSTRUP_MQTT__PASSWORD over what the file says.

        A list or a whole section is given as in YAML, and a key of one of several meters by its
        place, as in KAMSTRUP_METERS__0__PORT.
        """
        for name, value in sorted(environment.items()):
            if not name.startswith(ENVIRONMENT_PREFIX):
                continue
            parts = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            key = tuple(int(part) if part.isdecimal() else printable(part) for part in parts)
            if len(key) > 1:
                self._put(key, name, value)
            elif key[0] in _WHOLE or (key[0] in _SECTIONS and value.lstrip().startswith("{")):
                self._over(key, name)
                self.data[str(key[0])] = self._unfolded(value, key)

    def is_variable(self, key: KeyPath) -> bool:
        """Whether the environment gives `key`."""
        return key in self._variables

    def _put(self, key: KeyPath, variable: str, value: str) -> None:
        self._over(key, variable)
        inside: Any = self.data
        part: Any
        for place, part in enumerate(key[:-1]):
            if isinstance(inside, dict) and inside.get(part) is None:
                self._variables.setdefault(key[: place + 1], variable)
                inside[part] = {}
            if isinstance(inside, list) and (not isinstance(part, int) or part >= len(inside)):
                self.fault(key, f"expected a number below {len(inside)} for one of {key[0]}")
                return
            inside = inside[part] if isinstance(inside, dict | list) else None
            if not isinstance(inside, dict | list):
                self.fault(key, f"unknown key '{key[-1]}'; nothing is inside of {part}")
                return
        last = key[-1]
        if isinstance(inside, dict):
            is_list = last in _LISTS
            inside[str(last)] = self._unfolded(value, key) if is_list else value
        elif isinstance(inside, list):
            self.fault(key, f"expected a number and a key, such as {key[0]}__0__port")

    def _over(self, key: KeyPath, variable: str) -> None:
        """Take it that a variable gives `key`, and nothing in it comes from the file."""
        self._variables[key] = variable
        self._lines = {k: line for k, line in self._lines.items() if k[: len(key)] != key}

    def _unfolded(self, value: str, key: KeyPath) -> object:
        """A list or section in YAML; words with commas between are left as they are."""
        try:
            document = Document(value)
        except (TooMuch, yaml.YAMLError, ValueError, OverflowError):
            self.fault(key, "is not valid YAML; expected such as [energy, volume]")
            return None
        for place, message in document.faults:
            self.fault((*key, *place), message)
        return document.data

    def _text(self) -> str:
        content = contents(self.path, _MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise TooMuch(1, f"is larger than {_MOST_BYTES // 1_000_000} MB")
        return content.decode("utf-8-sig")

    def _parse(self, text: str) -> None:
        try:
            document = Document(text)
        except TooMuch as error:
            self._whole(str(error), error.line)
            return
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = mark.line if mark else 0
            place = "".join(text.splitlines()[line : line + 1])
            tab = mark is not None and place[mark.column : mark.column + 1] == "\t"
            hint = "; indent with blanks, never with tabs" if tab else ""
            self._whole(f"is not valid YAML: {error.problem}{hint}", line + 1)
            return
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # numbers no version has
            self._whole(f"is not valid YAML: {error}".splitlines()[0])
            return
        self._lines = document.lines
        for key, message in document.faults:
            self.fault(key, message)
        if isinstance(document.data, dict):
            self.data = document.data
        else:
            self._whole("holds no settings; expected sections such as mqtt: and kamstrup:")

    def _whole(self, message: str, line: int | None = None) -> None:
        place = f"{self.path}:{line}" if line else str(self.path)
        text = f"{printable(place)}: {printable(message, _LONGEST_MESSAGE)}"
        self._faults.append((line or 0, text))
