"""`sluicegate run FILE`: a gateway from a configuration file."""

import click

from sluicegate.cli.serving import load_or_fail, serve
from sluicegate.gateway import Gateway


@click.command("run")
@click.argument("file", type=click.Path())
@click.option("--watch", is_flag=True, help="Take FILE over whenever it is saved.")
def command(file: str, watch: bool) -> None:
    """Run the gateway that FILE describes.

    Events go to standard output, one JSON object a line; the log goes to standard error. SIGINT or SIGTERM drains and
    ends, within 10 s; a second one ends at once. SIGHUP takes FILE over as it is then: what does not change is not
    touched, and a file with a mistake is refused with its reasons while the gateway runs on.
    """
    serve(load_or_fail(file), _ready, watch=watch)


def _ready(gateway: Gateway) -> None:
    for listener in gateway.listeners():
        click.echo(
            f"ready: {listener['Name']} on UDP {listener['Address']} port {listener['Port']}", err=True
        )
    for name, server in (("API", gateway.api), ("SNS endpoint", gateway.sns)):
        if server is not None:
            click.echo(f"ready: {name} at {server.url}", err=True)
