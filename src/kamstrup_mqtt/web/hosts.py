"""Under which names the page may be asked for.

A web site can have its own name lead to an address at home (DNS rebinding), and what the browser
then asks, the site may read. The header Host has that name; no address can be rebound.
"""

import re
import socket
from collections.abc import Iterable, Sequence

from kamstrup_mqtt.web.peers import parse_address

ANY = "*"
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:/@\s]+))(?::\d*)?", re.ASCII)
_NAME = re.compile(r"(?!-)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_AT_HOME = ("local", "lan", "home.arpa", "internal")  # no site on the internet has such a name


def host_name(text: str) -> str:
    """A name as the configuration has it, in the form in which browsers ask for it.

    Raises:
        ValueError: it is no name; the message says what was expected.

    """
    if text == ANY:
        return text
    try:
        name = text.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        name = ""
    if not (_NAME.fullmatch(name) or parse_address(text.strip("[]"))):
        raise ValueError(
            f"'{text[:60]}' is no host name; expected one such as heat.example.org, "
            "without http:// and port"
        )
    return name


class Hosts:
    """The names the page answers to: those given, and those of this machine.

    Args:
        given: host names in lower case, or `*` for any.

    """

    def __init__(self, given: Iterable[str]) -> None:
        here = socket.gethostname().lower()
        short = here.partition(".")[0]
        self._names = {"localhost", here, short, *(f"{short}.{end}" for end in _AT_HOME)}
        self._names.update(given)

    def knows(self, asked: Sequence[str]) -> bool:
        """Whether a request with these lines of Host is for one of the names, or an address."""
        if ANY in self._names:
            return True
        found = _HOST.fullmatch(asked[0].strip()) if len(asked) == 1 else None
        if found is None:
            return False
        name = (found[1] or found[2] or "").lower().removesuffix(".")
        return name in self._names or parse_address(name) is not None
