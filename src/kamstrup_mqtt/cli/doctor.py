"""The command `doctor`: one check after another, and an archive for a bug report."""

import asyncio
import sys
from datetime import datetime
from pathlib import Path

import click

from kamstrup_mqtt.cli.commands import complete_port, debug_option
from kamstrup_mqtt.errors import KamstrupError
from kamstrup_mqtt.meter import Tap
from kamstrup_mqtt.readout.capture import Recorder

_CONFIG = Path("config.yaml")


@click.command("doctor")
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path),
    help="The configuration file; config.yaml if there is one.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object with all checks.")
@click.option(
    "--bundle",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    help="Also write all that a bug report needs to a .zip or .tar.gz, without secrets.",
)
@click.argument("port", required=False, shell_complete=complete_port)
@debug_option
def doctor_command(
    path: Path | None,
    port: str | None,
    bundle: str | None,
    *,
    as_json: bool,
) -> None:
    """Find out what is wrong between the meter and the broker, and what to do about it.

    It looks at the configuration, the PORT (or those configured), the line, the meter, the broker
    and this machine, within 90 s. Exit status 0 tells that all is well, 1 that it is not.
    """
    from kamstrup_mqtt.tools.doctor import Check, examine, to_json, verdict  # noqa: PLC0415
    from kamstrup_mqtt.tools.doctor.bundle import check_archive, write_bundle  # noqa: PLC0415

    if bundle and port is None and ("://" in bundle or bundle.startswith("/dev/")):
        port, bundle = bundle, ""  # `--bundle PORT`
    if path is None and (_CONFIG.exists() or port is None):
        path = _CONFIG
    archive: Path | None = None
    if bundle is not None:
        archive = Path(
            bundle or f"kamstrup-mqtt-report-{datetime.now().astimezone():%Y%m%d-%H%M%S}.zip"
        )
        check_archive(archive)
    recorders: list[tuple[str, Recorder, list[str]]] = []

    def tap_of(name: str) -> Tap:
        lines: list[str] = []
        recorder = Recorder(lines.append, name)
        recorders.append((f"capture-{len(recorders) + 1}.txt", recorder, lines))
        return recorder.tap

    def show(check: Check) -> None:
        if not as_json:
            meter = f"{check.meter}: " if check.meter else ""
            print(f"{'✓' if check.ok else '✗'} {meter}{check.check}: {check.advice}", flush=True)

    checks = asyncio.run(examine(path, port, show, tap_of if archive else None))
    if as_json:
        print(to_json(checks))
    else:
        print(f"Verdict: {verdict(checks)}")
    if archive is not None:
        for _, recorder, _ in recorders:
            recorder.flush()
        write_bundle(archive, path, checks, {name: lines for name, _, lines in recorders})
        print(f"Written: {archive}", file=sys.stderr if as_json else sys.stdout)
    if not all(check.ok for check in checks):
        sys.exit(KamstrupError.exit_status)
