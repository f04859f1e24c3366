"""`sluicegate run FILE`: a gateway from a configuration file."""

import click

from ..gateway import Gateway
from .serving import load_or_fail, serve


@click.command("run")
@click.argument("file", type=click.Path())
def command(file: str) -> None:
    """Run the gateway that FILE describes.

    Events go to standard output, one JSON object a line; the log goes to standard error. SIGINT or SIGTERM drains and
    ends; a second one ends at once.
    """
    serve(load_or_fail(file), _ready)


def _ready(gateway: Gateway) -> None:
    for listener in gateway.listeners():
        click.echo(
            f"ready: {listener['Name']} on UDP {listener['Address']} port {listener['Port']}", err=True
        )
    for name, server in (("API", gateway.api), ("SNS endpoint", gateway.sns)):
        if server is not None:
            click.echo(f"ready: {name} at {server.url}", err=True)
