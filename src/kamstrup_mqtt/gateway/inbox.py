"""What comes in over MQTT: hands commands to the poller they are meant for, and never publishes.

An interval that was set lives in the history, so that it outlives a restart. A broker repeats what
it retained at each connection: that counts only when it is news, for it must not beat a newer
command.
"""

import contextlib
import json
import logging
from collections.abc import Mapping

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.commands import COMMANDS, Commanded
from kamstrup_mqtt.gateway.log import printable
from kamstrup_mqtt.store import History

_LASTING = "poll_interval"  # the command that is kept
_LATEST = 20  # messages on its topic that are remembered; any of them may be what is retained

_log = logging.getLogger(__name__)


class Inbox:
    """The commands for the meters.

    Args:
        pollers: who carries them out, by the meter's configured name.
        history: where what is to last is kept.

    """

    def __init__(self, pollers: Mapping[str, Commanded], history: History) -> None:
        self._pollers = pollers
        self._history = history
        self._retained: dict[str, bytes] = {}  # by meter: what the broker repeated last
        self._latest: dict[str, list[bytes]] = {}  # by meter: what was set, the last one is valid

    async def restore(self) -> None:
        """Have the pollers go on with what was set before the start."""
        for meter in self._pollers:
            await self.restore_meter(meter)

    async def restore_meter(self, meter: str) -> None:
        """Have its poller go on with what was set, perhaps under an earlier name of the meter."""
        kept = await self._history.setting(meter, _LASTING)
        # A damaged one counts as none.
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            found = json.loads(kept or "{}")
            self._latest[meter] = [str(text).encode() for text in found["latest"]]
            self._retained[meter] = str(found["retained"]).encode()
        if latest := self._latest.get(meter):
            self._carry_out(meter, _LASTING, latest[-1])

    async def take(self, meter: str, command: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001
        """Carry out a command that came in; what cannot be meant is logged.

        Args:
            meter: the configured name of the meter it is for.
            command: the last part of its topic.
            payload: what it says.
            retained: whether it is one that the broker kept.

        """
        if command != _LASTING:
            self._carry_out(meter, command, payload)
            return
        latest = self._latest.get(meter, [])
        if retained:
            known = payload == self._retained.get(meter) or payload in latest
            self._retained[meter] = payload
            if known:
                return
        if self._carry_out(meter, command, payload):
            latest = [*(one for one in latest if one != payload), payload]
            self._latest[meter] = latest[-_LATEST:]
            kept = {
                "latest": [one.decode() for one in self._latest[meter]],
                "retained": self._retained.get(meter, b"").decode(errors="replace"),
            }
            await self._history.set_setting(meter, _LASTING, json.dumps(kept))

    def _carry_out(self, meter: str, command: str, payload: bytes) -> bool:
        try:
            COMMANDS[command](self._pollers[meter], payload)
        except UsageError as error:
            line = printable(str(error))
            _log.warning("%s: a message on %s is ignored: %s", meter, command, line)
            return False
        return True
