"""How a command ends: stable exit codes, and one `error: …` line on standard error."""

import enum
import os
from typing import IO, Any

import click


class Exit(enum.IntEnum):
    """Exit codes of every command; scripts rely on them."""

    OK = 0
    FAILED = 1
    """The input or the configuration is wrong, or not everything was done."""
    USAGE = 2
    """The command line is wrong (click's own code)."""
    UNREACHABLE = 3
    """No gateway answers at the address."""
    NOT_STARTED = 4
    """The gateway could not start: a port in use, a state in use."""
    FORCED = 5
    """A stop of the gateway was ended by force after 10 s; its last lines say what is lost."""


class CliError(click.ClickException):
    """Ends the command with `error: MESSAGE` and its exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        # click declares it for the class and reads it from the instance.
        self.exit_code = int(code)  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        error(self.message)


def error(message: str) -> None:
    """Print `error: MESSAGE` to standard error."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)


def warning(message: object) -> None:
    """Print `warning: MESSAGE` to standard error."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {message}", err=True)


def no_color() -> bool:
    """True when the user wants no colour anywhere: `NO_COLOR` is set and not empty (no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))
