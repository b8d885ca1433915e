"""The state of the line: what is said of it, and how soon."""

from datetime import UTC, datetime, timedelta

from kamstrup_mqtt import CrcError, KamstrupError, NoAnswerError, PortError
from kamstrup_mqtt.polling.link_state import LinkMonitor
from kamstrup_mqtt.readout import Now
from kamstrup_mqtt.readout.status import LinkState

START = datetime(2026, 11, 24, tzinfo=UTC)


class Line:
    def __init__(self) -> None:
        self.monitor = LinkMonitor()
        self.seconds = 0.0

    def after(self, seconds: float, fault: KamstrupError | None = None) -> LinkState | None:
        self.seconds += seconds
        now = Now(START.timestamp() + self.seconds, self.seconds)
        if fault is None:
            self.monitor.heard(now)
        else:
            self.monitor.failed(fault, now)
        return self.monitor.state


def test_the_first_readout_is_believed() -> None:
    assert Line().after(0) is LinkState.OK
    assert Line().after(0, NoAnswerError()) is LinkState.SILENT
    assert Line().after(0, CrcError("x")) is LinkState.GARBLED
    assert Line().after(0, PortError("x")) is LinkState.PORT_MISSING


def test_one_bad_readout_does_not_make_a_bad_line() -> None:
    line = Line()
    line.after(0)
    for _ in range(3):
        assert line.after(60, CrcError("x")) is LinkState.OK
        assert line.after(60, NoAnswerError()) is LinkState.OK
        assert line.after(60) is LinkState.OK
    assert line.monitor.since == START
    line.after(60, CrcError("x"))
    assert line.after(5, CrcError("x")) is LinkState.GARBLED
    assert line.after(5, NoAnswerError()) is LinkState.GARBLED
    assert line.after(5, NoAnswerError()) is LinkState.SILENT
    assert line.monitor.since == START + timedelta(seconds=line.seconds)
    assert line.after(5) is LinkState.OK


def test_a_missing_port_is_a_fact_at_once() -> None:
    line = Line()
    line.after(0)
    assert line.after(60, PortError("x")) is LinkState.PORT_MISSING
    assert line.after(5) is LinkState.OK


def test_silence_after_a_long_pause_is_sleep_until_the_next_answer() -> None:
    line = Line()
    line.after(0)
    line.after(31 * 60, NoAnswerError(echo=True))
    assert line.after(5, NoAnswerError()) is LinkState.ASLEEP
    assert line.after(3600, NoAnswerError()) is LinkState.ASLEEP
    line.after(60)
    line.after(60, NoAnswerError())
    assert line.after(5, NoAnswerError()) is LinkState.SILENT


def test_a_meter_that_stayed_awake_for_as_long_is_not_asleep() -> None:
    line = Line()
    line.after(0)
    for _ in range(3):
        line.after(28 * 60)
    line.after(28 * 60, NoAnswerError())
    assert line.after(5, NoAnswerError()) is LinkState.SILENT
    line.after(60)
    line.after(60 * 60, NoAnswerError())
    assert line.after(5, NoAnswerError()) is LinkState.ASLEEP
