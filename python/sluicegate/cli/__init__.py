"""The command line: `sluicegate COMMAND` (contract section 8).

One module per command, imported when the command is called and not before: `sluicegate send` must not pay for
the gateway's imports. Each module `cli/NAME.py` exposes `command`.
"""

import gc
import importlib
import sys
from types import ModuleType

import click

from sluicegate import __version__
from sluicegate.cli.errors import no_color

COMMANDS = {
    "dev": "Run a gateway on this machine, with a listener and an echo handler ready to try.",
    "run": "Run a gateway from a configuration file.",
    "validate": "Check a configuration file: file:line:col, cause and fix.",
    "schema": "Print the JSON Schema of the configuration, for editors.",
    "send": "Send a datagram from a Listener of a running gateway.",
    "tail": "Show what a running gateway does, as it happens.",
    "replay": "Send dead letters again.",
    "apply": "Make the gateway's resources of a CloudFormation or SAM template.",
    "keys": "Make, list and revoke API keys and access keys.",
    "cfn": "Prepare an AWS account for templates with a gateway's resources.",
    "sources": "Show PacketSources and their states; approve or reject them.",
    "scheduled": "Show and cancel what is to be sent later.",
    "peers": "Show, add and remove the peers of a WireGuard Listener.",
    "state": "Export, import and mend what a gateway keeps.",
    "brex": "Try a BREX expression on a packet, and show each step.",
    "listen": "Receive datagrams: a UDP client for trying things out.",
}
"""Command → its line in the help, kept here so that the help imports no command."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in ("run", "dev"):
            # Before the imports of the command, which take a while.
            importlib.import_module(f"{__name__}.signals").await_reload()
        command = _load(f"{__name__}.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"cli/{cmd_name}.py must expose a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _load(name: str) -> ModuleType:
    """The module `name`, imported without the search for garbage: what an import makes stays, and Python would go
    through all of it again and again. It is left out of later searches too."""
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sluicegate", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Sluicegate: a self-hosted UDP gateway.

    Datagrams in as batches of JSON, datagrams out from a publish.
    """
    ctx.color = False if no_color() else None
