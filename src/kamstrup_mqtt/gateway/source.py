"""The configuration file and the environment as plain data that remembers where it came from.

All scalars stay the text the user wrote, so that a password of 0123 is not a number; what they
must be is decided by `config.py`. Faults are collected, not raised.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

ENVIRONMENT_PREFIX = "KAMSTRUP_"

KeyPath = tuple[str | int, ...]  # such as ("mqtt", "port") or ("meters", 0, "name")

_EMPTY = ("", "~", "null", "Null", "NULL")
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
        """The faults found so far, in the order of the file."""
        return [text for _, text in sorted(dict.fromkeys(self._faults))]

    def names(self, key: KeyPath) -> bool:
        """Whether the file itself, not the environment, gives `key`."""
        return key in self._lines and key not in self._variables

    def fault(self, key: KeyPath, message: str) -> None:
        """Note a fault of `key`, or of the nearest part of it that is in the file."""
        name = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in key)
        for length in range(len(key), 0, -1):
            if variable := self._variables.get(key[:length]):
                self._faults.append((_LAST, f"environment variable {variable}: {message}"))
                return
            if line := self._lines.get(key[:length]):
                break
        else:
            line = 1
        self._faults.append((line, f"{self.path}:{line}: {name.lstrip('.')}: {message}"))

    def read_file(self) -> None:
        """Read the file; what is wrong with it as a whole becomes a fault without a key."""
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except FileNotFoundError:
            self._whole(
                "no such file; copy config.example.yaml to config.yaml, or name yours with -c"
            )
        except OSError as error:
            self._whole(f"cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._whole("is not a text file in UTF-8")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            hint = "; indent with blanks, never with tabs" if "'\\t'" in str(error.problem) else ""
            self._whole(f"is not valid YAML: {error.problem}{hint}", line)
        except yaml.YAMLError as error:
            self._whole(f"is not valid YAML: {error}".splitlines()[0])
        else:
            data = self._plain(node, (), ()) if node is not None else None
            if isinstance(data, dict):
                self.data = data
            else:
                self._whole("holds no settings; expected sections such as mqtt: and kamstrup:")

    def read_environment(self, environment: Mapping[str, str]) -> None:
        """Put variables like KAMSTRUP_MQTT__PASSWORD over what the file says."""
        for name, value in sorted(environment.items()):
            section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).partition("__")
            if not name.startswith(ENVIRONMENT_PREFIX) or not separator:
                continue
            section, key = section.lower(), key.lower()
            self._variables[section, key] = name
            if section not in self.data:
                self._variables[(section,)] = name
            content = self.data.setdefault(section, {})
            if isinstance(content, dict):
                content[key] = value

    def _whole(self, message: str, line: int | None = None) -> None:
        place = f"{self.path}:{line}" if line else str(self.path)
        self._faults.append((line or 0, f"{place}: {message}"))

    def _plain(self, node: yaml.Node, path: KeyPath, inside: tuple[yaml.Node, ...]) -> object:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if any(node is outer for outer in inside):
            self.fault(path, "refers to itself")
            return None
        inside = (*inside, node)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, i), inside) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            content: dict[str, object] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                line = key_node.start_mark.line + 1
                if key in content:
                    self.fault((*path, key), f"given again in line {line}; keep one of them")
                    continue
                self._lines[(*path, key)] = line
                content[key] = self._plain(value_node, (*path, key), inside)
            return content
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return None if plain and node.value in _EMPTY else str(node.value)
