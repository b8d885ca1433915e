"""The command `kamstrup-mqtt`: its commands in order, and how errors end it.

Exit status: 0 fine, 1 the work failed, 2 wrong usage or configuration, 3 the meter did not answer,
4 its answer was unusable, 5 the port could not be opened.
"""

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from kamstrup_mqtt.cli.show import complain
from kamstrup_mqtt.errors import KamstrupError

_INTERRUPTED = 130  # what shells say of Ctrl-C


# The commands in the order a newcomer needs them, and the module of each, which is loaded only for
# it: a gateway that runs for years needs no live view.
COMMANDS = {
    "setup": "setup",
    "run": "commands",
    "read": "commands",
    "check": "commands",
    "health": "commands",
    "ports": "commands",
    "align": "align",
    "doctor": "doctor",
    "history": "history",
    "export": "history",
    "import": "history",
    "password": "password",
    "capture": "captures",
    "replay": "captures",
    "decode": "commands",
    "simulate": "trial",
    "demo": "trial",
}


class _OnDemand(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"kamstrup_mqtt.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command


@click.group(
    cls=_OnDemand,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 fine, 1 the work failed, 2 wrong usage or configuration, "
    "3 the meter did not answer, 4 its answer was unusable, 5 the port could not be opened.",
)
@click.version_option(package_name="kamstrup-mqtt", prog_name="kamstrup-mqtt")
@click.pass_context
def cli(context: click.Context) -> None:
    """Read a Kamstrup MULTICAL heat meter through its optical eye, and publish it over MQTT.

    \b
    Try it without a meter:    kamstrup-mqtt demo
    Find the head's port:      kamstrup-mqtt ports
    Find the head's place:     kamstrup-mqtt align /dev/ttyUSB0
    Write config.yaml:         kamstrup-mqtt setup
    Run the gateway:           kamstrup-mqtt run
    When something is wrong:   kamstrup-mqtt doctor
    """  # noqa: D301 - \b is click's mark for lines to keep
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line; every error becomes one line and an exit status."""
    debug = "--debug" in sys.argv
    try:
        status = cli.main(prog_name="kamstrup-mqtt", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "kamstrup-mqtt"
        complain(f"{error.format_message().rstrip('.')}; see `{path} --help`")
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = KamstrupError.exit_status
    except Exception as error:
        if debug:
            raise
        if isinstance(error, KamstrupError):
            complain(str(error))
            status = error.exit_status
        else:
            complain(f"internal error, {type(error).__name__}: {error}; --debug shows where")
            status = KamstrupError.exit_status
    sys.exit(status)
