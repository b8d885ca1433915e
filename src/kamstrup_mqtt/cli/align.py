"""The command `align`: a live view for somebody who holds the head with one hand."""

import asyncio
import contextlib
import json
import sys
from typing import Self

import click

from kamstrup_mqtt.cli.commands import complete_port, debug_option
from kamstrup_mqtt.errors import NoAnswerError, TelegramError
from kamstrup_mqtt.meter.alignment import ENOUGH, LONGEST_S, View, align
from kamstrup_mqtt.meter.probe import Seen

_QUESTIONS_A_READING = 27  # in bytes: the usual 31 parameters against the cheapest question
_BELL = "\a"
_WORDS = {
    Seen.NOTHING: "nothing",
    Seen.ECHO: "only our own echo: port and head work",
    Seen.NOISE: "fragments and noise",
    Seen.BAD_CRC: "answers with damage",
    Seen.GOOD: "good answers",
}
_TRENDS = {1: "▲ better", 0: "", -1: "▼ worse"}
_FAIR = 50  # percent from which the bar is no longer red


@click.command("align")
@click.argument("port", shell_complete=complete_port)
@click.option("--plain", is_flag=True, help="A line for each answer instead of the whole screen.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each answer.")
@click.option("--sound", is_flag=True, help="Ring the terminal's bell at good answers.")
@debug_option
def align_command(port: str, *, plain: bool, as_json: bool, sound: bool) -> None:
    """Find the place of the head on the meter, with a live view of what it hears.

    It asks the meter's cheapest question over and over, and ends when 20 answers in a row were
    good, after 5 minutes, or at Ctrl-C.
    """
    views: list[View] = []
    lines = as_json or plain or not sys.stdout.isatty()

    async def watch() -> None:
        with contextlib.nullcontext(_print) if lines else _Screen(port) as show:
            async for view in align(port):
                if sound and view.seen is Seen.GOOD:
                    print(_BELL, end="", file=sys.stderr, flush=True)
                if as_json:
                    print(_as_json(view), flush=True)
                else:
                    show(view)
                views.append(view)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch())
    _conclude(views, to_stderr=as_json)


def _conclude(views: list[View], *, to_stderr: bool) -> None:
    """Print the verdict and the cost, or raise what is the matter."""
    from kamstrup_mqtt.polling.cost import battery_life  # noqa: PLC0415 - loads the gateway

    if not views:
        raise NoAnswerError
    last = views[-1]
    readings = -(-last.asked // _QUESTIONS_A_READING)
    cost = f"Asked {last.asked} times, in bytes like {readings} readings: {battery_life(readings)}."
    out = sys.stderr if to_stderr else sys.stdout
    if last.done:
        print(f"The head sits well: {ENOUGH} good answers in a row. Fix it there.", file=out)
        print(cost, file=out)
        return
    print(cost, file=out)
    if all(view.seen in (Seen.NOTHING, Seen.ECHO) for view in views):
        raise NoAnswerError(echo=any(view.seen is Seen.ECHO for view in views))
    if last.best == 0:
        raise TelegramError("something came back, and never a good answer; see docs/hardware.md")
    raise TelegramError(
        f"never {ENOUGH} good answers in a row; at best {last.best} % were good within 10 s"
    )


def _as_json(view: View) -> str:
    return json.dumps(
        {
            "seen": view.seen,
            "quality": view.quality,
            "best": view.best,
            "trend": view.trend,
            "in_a_row": view.in_a_row,
            "asked": view.asked,
            "hint": view.hint,
        }
    )


def _print(view: View) -> None:
    bar = "#" * (view.quality // 5)
    trend = _TRENDS[view.trend].partition(" ")[2]
    print(
        f"{view.quality:3d} % |{bar:20}| best {view.best:3d} % {trend:6} "
        f"{_WORDS[view.seen]}; {view.hint}",
        flush=True,
    )


class _Screen:
    """The whole terminal, redrawn for each view."""

    def __init__(self, port: str) -> None:
        from rich.console import Console  # noqa: PLC0415 - only drawing needs rich
        from rich.live import Live  # noqa: PLC0415

        self._port = port
        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_what: object) -> None:
        self._live.stop()

    def __call__(self, view: View) -> None:
        """Draw `view`, large enough to be read from where the meter is."""
        from rich.align import Align  # noqa: PLC0415
        from rich.console import Group  # noqa: PLC0415
        from rich.panel import Panel  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        colour = "green" if view.seen is Seen.GOOD else "yellow" if view.best else "red"
        if view.quality >= _FAIR:
            colour = "green" if view.quality == 100 else "yellow"
        width, height = self._console.size
        inside = max(10, width - 8)
        full = inside * view.quality // 100
        bar = Text("█" * full, style=colour) + Text("░" * (inside - full), style="dim")
        rows = [bar] * max(1, min(6, height - 14))
        body = Group(
            Text(f"{view.quality} % good  {_TRENDS[view.trend]}", style=f"bold {colour}"),
            Text(),
            *rows,
            Text(),
            Text(f"seen now: {_WORDS[view.seen]}", style="bold"),
            Text(f"best so far: {view.best} %   in a row: {view.in_a_row} of {ENOUGH}"),
            Text(),
            Text(f"→ {view.hint}", style=f"bold {colour}"),
        )
        self._live.update(
            Align.center(
                Panel(
                    body,
                    title=f"the head on {self._port}",
                    subtitle=f"ends by itself after {LONGEST_S / 60:.0f} minutes; Ctrl-C ends it",
                    border_style=colour,
                    padding=(1, 2),
                ),
                vertical="middle",
            ),
            refresh=True,
        )
