"""`sluicegate state`: what a gateway keeps, as JSON."""

import json
from pathlib import Path
from typing import TextIO

import click

from sluicegate.cli.errors import CliError
from sluicegate.cli.options import output_option, show
from sluicegate.config import ConfigError, load
from sluicegate.regular import read_regular
from sluicegate.running.documents import KINDS
from sluicegate.state import Commit, ResourceTable, State, StateError
from sluicegate.state.private import write_named
from sluicegate.state.transfer import export, restore

_SQLITE = b"SQLite format 3\0"


@click.group("state")
def command() -> None:
    """Export, import and mend the state of a gateway. FILE is its configuration, or the state itself."""


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--secrets", is_flag=True, help="With secrets and Tag keys, in the clear.")
@click.option(
    "--to", "target", type=click.Path(path_type=Path), help="Into this file, mode 0600.  [default: stdout]"
)
@output_option
def export_state(file: Path, secrets: bool, target: Path | None, output: str) -> None:
    """Print the state as JSON; the gateway may be running.

    Without --secrets it has resources, decisions, assigned ports, topics and queues on AWS, and nothing secret.
    """
    try:
        document = export(_state_of(file), secrets=secrets)
    except StateError as error:
        raise CliError(str(error)) from None
    text = json.dumps(document, ensure_ascii=False, indent=2)
    if target is None:
        click.echo(text)
        return
    try:
        write_named(target, text + "\n")
    except OSError as error:
        raise CliError(f"{target} cannot be written: {error.strerror}, choose another file") from None
    show(output, f"wrote {target}", Wrote=str(target))


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("document", type=click.File("r"))
@output_option
def import_state(file: Path, document: TextIO, output: str) -> None:
    """Write the DOCUMENT of an export (- for standard input) into the state; no gateway may be running on it."""
    try:
        data = json.load(document)
    except ValueError as error:
        raise CliError(
            f"{document.name} is not JSON ({error}), use what `sluicegate state export` printed"
        ) from None
    try:
        with State.open(_state_of(file)) as state:
            done = restore(state, data)
    except StateError as error:
        raise CliError(str(error)) from None
    show(output, "\n".join(f"imported {line}" for line in done), Imported=done)


@command.command("remove")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@output_option
def remove(file: Path, kind: str, name: str, output: str) -> None:
    """Remove a resource that the API declared, while no gateway is running: for a start that it keeps from working."""
    try:
        with State.open(_state_of(file)) as state:
            table = ResourceTable(state)
            if not table.has(kind, name):
                raise CliError(
                    f"the state has no {kind} {name} of the API, `sluicegate state export` lists them"
                )
            table.commit(Commit(delete=[(kind, name)]))
    except StateError as error:
        raise CliError(str(error)) from None
    show(output, f"removed {kind} {name}", Kind=kind, Removed=name)


def _state_of(file: Path) -> Path:
    """The state that `file` names, or is."""
    try:
        if read_regular(file, len(_SQLITE)) == _SQLITE:
            return file
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}, name a configuration or a state") from None
    try:
        return Path(load(file).gateway.state)
    except ConfigError as refused:
        raise CliError(f"{file} cannot be used\n{refused}") from None
