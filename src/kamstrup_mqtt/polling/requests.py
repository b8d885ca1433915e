"""What somebody asked to have read, until it is read. Nothing here looks at a clock."""

from kamstrup_mqtt.polling.job import Job, Kind


class Requests:
    """The requests for one meter.

    Args:
        configured: the registers that a full readout has.

    """

    def __init__(self, configured: tuple[int, ...]) -> None:
        self._configured = configured
        self.passed_over = False  # a poll went first, and the next turn is theirs
        self._all = False
        self._wanted: dict[int, None] = {}  # registers, in order
        self._deferred: dict[int, None] = {}  # those whose request failed, for one more try
        self._tried: set[int] = set()  # the same, until that try

    def __bool__(self) -> bool:
        return self._all or bool(self._wanted)

    def add(self, registers: tuple[int, ...]) -> None:
        """Have these registers read; without any, all that are configured."""
        self._all = self._all or not registers
        self._wanted |= dict.fromkeys(registers)
        self._tried -= set(registers)

    def job(self) -> Job:
        """The request that answers them."""
        return Job(Kind.REQUEST, () if self._all else tuple(self._wanted))

    def taken_up(self, job: Job) -> None:
        """`job` is under way; what is asked for from now on is read after it."""
        if job.is_full:
            self._all = False
        for register in self._configured if job.is_full else job.registers:
            self._wanted.pop(register, None)
        if job.kind in (Kind.POLL, Kind.REQUEST):
            self.passed_over = job.kind is Kind.POLL and bool(self)

    def done(self, job: Job) -> None:
        """`job` brought an answer: the meter is there, also for what failed before."""
        self._tried -= set(job.registers)
        if job.is_full:
            for register in self._configured:
                self._deferred.pop(register, None)
        if job.kind is not Kind.PING:
            self._wanted |= self._deferred
            self._deferred = {}

    def failed(self, job: Job) -> None:
        """`job` brought nothing; its registers get one more try, with the next success."""
        again = [register for register in job.registers if register not in self._tried]
        self._deferred |= dict.fromkeys(again)
        self._tried = set(again)
