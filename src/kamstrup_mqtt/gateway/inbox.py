"""What comes in over MQTT: hands commands to the reader they are meant for, and never publishes.

An interval that was set lives in the history, so that it outlives a restart. A broker repeats what
it retained at each connection: that counts only when it was not heard before, for it must not beat
a newer command.
"""

import contextlib
import json
import logging
from collections.abc import Mapping

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.gateway.commands import COMMANDS, Commanded
from kamstrup_mqtt.gateway.texts import printable
from kamstrup_mqtt.store import History

_LASTING = "poll_interval"  # the command that is kept
_HEARD = 20  # messages on its topic that are remembered; the latest is the last

_log = logging.getLogger(__name__)


class Inbox:
    """The commands for the meters.

    Args:
        readers: who carries them out, by the meter's configured name.
        history: where what is to last is kept.

    """

    def __init__(self, readers: Mapping[str, Commanded], history: History) -> None:
        self._readers = readers
        self._history = history
        self._heard: dict[str, list[str]] = {}  # by meter

    async def restore(self) -> None:
        """Have the readers go on with what was set before the start."""
        for meter in self._readers:
            kept = await self._history.setting(meter, _LASTING)
            with contextlib.suppress(ValueError, TypeError):  # damaged: as if nothing had been set
                self._heard[meter] = [str(text) for text in json.loads(kept or "[]")]
            if heard := self._heard.get(meter):
                self._carry_out(meter, _LASTING, heard[-1].encode())

    async def take(self, meter: str, command: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001
        """Carry out a command that came in; what cannot be meant is logged.

        Args:
            meter: the configured name of the meter it is for.
            command: the last part of its topic.
            payload: what it says.
            retained: whether it is one that the broker kept.

        """
        heard = self._heard.get(meter, [])
        if retained and payload.decode(errors="replace") in heard:
            return
        if self._carry_out(meter, command, payload) and command == _LASTING:
            text = payload.decode()
            self._heard[meter] = [*(one for one in heard if one != text), text][-_HEARD:]
            kept = json.dumps(self._heard[meter])
            await self._history.set_setting(meter, _LASTING, kept)

    def _carry_out(self, meter: str, command: str, payload: bytes) -> bool:
        try:
            COMMANDS[command](self._readers[meter], payload)
        except UsageError as error:
            line = printable(str(error))
            _log.warning("%s: a message on %s is ignored: %s", meter, command, line)
            return False
        return True
