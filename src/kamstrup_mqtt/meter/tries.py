"""How the questions of one readout go: what failed, when to give up, and what to say of it."""

from dataclasses import dataclass, field

from kamstrup_mqtt.errors import (
    CommandError,
    KamstrupError,
    NoAnswerError,
    PortError,
    TelegramError,
    WrongRegisterError,
)

RETRIES = 2
# Failed tries in a row that end a readout. Where nothing was heard at all they take about 12 s, for
# a user who waits; a meter that did answer is given more.
GIVE_UP_UNHEARD = 6
GIVE_UP_HEARD = 9
GIVE_UP_SILENT = 2  # a meter that was silent last time is not hammered: one try of each question


@dataclass(slots=True)
class Tries:
    """The tries of one readout.

    Args:
        was_silent: whether the one before it heard nothing.
        heard: whether the meter answered.
        faults: what went wrong, in order.

    """

    was_silent: bool = False
    heard: bool = False
    faults: list[KamstrupError] = field(default_factory=list)
    _failed: int = 0  # in a row

    @property
    def of_a_question(self) -> int:
        """How often a question is asked."""
        return 1 if self.was_silent and not self.heard else 1 + RETRIES

    @property
    def are_over(self) -> bool:
        """Whether to ask no more."""
        unheard = GIVE_UP_SILENT if self.was_silent else GIVE_UP_UNHEARD
        return self._failed >= (GIVE_UP_HEARD if self.heard else unheard)

    def succeeded(self) -> None:
        """Note that a question was answered."""
        self._failed, self.heard = 0, True

    def failed(self, fault: KamstrupError) -> None:
        """Note that one was not."""
        self.faults.append(fault)
        self._failed += 1

    def verdict(self) -> KamstrupError:
        """What to say of the faults: a lost port, else bad answers, else silence."""
        if isinstance(self.faults[-1], PortError):
            return self.faults[-1]
        damaged = [fault for fault in self.faults if isinstance(fault, TelegramError)]
        if damaged:
            return _with_advice(damaged[-1])
        echoed = [f for f in self.faults if isinstance(f, NoAnswerError) and f.echo]
        return (echoed or self.faults)[-1]


def _with_advice(fault: TelegramError) -> TelegramError:
    foreign = isinstance(fault, WrongRegisterError | CommandError)
    advice = (
        "another program may be using the line"
        if foreign
        else "the head may be some millimetres off, or in strong light"
    )
    return type(fault)(f"the meter's answer was unusable: {fault}; {advice}")


def reason(fault: KamstrupError) -> str:
    """Why a register could not be read, in a word or two."""
    if isinstance(fault, TelegramError):
        return f"no usable answer ({fault.kind})"
    return "line lost" if isinstance(fault, PortError) else "no answer"
