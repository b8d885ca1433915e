"""The command `password`."""

import sys

import click

from kamstrup_mqtt.errors import UsageError
from kamstrup_mqtt.web.access import hash_password

_SHORTEST = 8


@click.command("password")
def password_command() -> None:
    """Make the hash of a password for `web.password` in config.yaml.

    It is asked for, or read from standard input where that is no terminal.
    """
    if sys.stdin.isatty():
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = sys.stdin.readline().rstrip("\r\n")
    if len(text) < _SHORTEST:
        raise UsageError(f"a password of at least {_SHORTEST} characters, please")
    print(hash_password(text))
