"""`sluicegate validate FILE`: is this configuration one that the gateway would run?"""

import dataclasses
import json

import click

from sluicegate.cli.errors import Exit
from sluicegate.cli.options import output_option
from sluicegate.config import ConfigError, load
from sluicegate.model import Finding


@click.command("validate")
@click.argument("file", type=click.Path())
@output_option
@click.pass_context
def command(ctx: click.Context, file: str, output: str) -> None:
    """Check a configuration FILE without running it.

    Prints every problem as file:line:col: cause, fix. The exit code is 0 when the gateway would run the file,
    else 1.
    """
    problems: list[Finding] = []
    warnings: list[Finding] = []
    summary = ""
    try:
        config = load(file)
        warnings = config.warnings
        listeners, sources = len(config.gateway.listeners), len(config.gateway.packet_sources)
        summary = f"{file}: valid, {_count(listeners, 'Listener')}, {_count(sources, 'PacketSource')}"
    except ConfigError as error:
        problems = error.findings
    if output == "json":
        document = {
            "Valid": not problems,
            "Problems": [problem.document() for problem in problems],
            "Warnings": [warning.document() for warning in warnings],
        }
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            click.echo(str(problem))
        for warning in warnings:
            click.echo(dataclasses.replace(warning, cause=f"warning: {warning.cause}"))
        if not problems:
            click.echo(click.style(summary, fg="green"))
    ctx.exit(Exit.FAILED if problems else Exit.OK)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
