"""`sluicegate validate FILE`: is this configuration one that the gateway would run?"""

import json

import click

from sluicegate.cli.errors import Exit
from sluicegate.cli.options import output_option
from sluicegate.config import ConfigError, Problem, load


@click.command("validate")
@click.argument("file", type=click.Path())
@output_option
@click.pass_context
def command(ctx: click.Context, file: str, output: str) -> None:
    """Check a configuration FILE without running it.

    Prints every problem as file:line:col: cause, fix. The exit code is 0 when the gateway would run the file,
    else 1.
    """
    warnings: list[Problem] = []
    summary = ""
    try:
        config = load(file)
        problems, warnings = config.unavailable(), config.warnings
        listeners, sources = len(config.gateway.listeners), len(config.gateway.packet_sources)
        summary = f"{file}: valid, {_count(listeners, 'Listener')}, {_count(sources, 'PacketSource')}"
    except ConfigError as error:
        problems = error.problems
    if output == "json":
        document = {
            "Valid": not problems,
            "Problems": [_document(problem) for problem in problems],
            "Warnings": [_document(problem) for problem in warnings],
        }
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            click.echo(str(problem))
        for warning in warnings:
            place = f"{warning.file}:{warning.line}:{warning.col}"
            click.echo(f"{place}: warning: {warning.cause}, {warning.fix}")
        if not problems:
            click.echo(click.style(summary, fg="green"))
    ctx.exit(Exit.FAILED if problems else Exit.OK)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _document(problem: Problem) -> dict[str, str | int]:
    return {
        "File": problem.file,
        "Line": problem.line,
        "Column": problem.col,
        "Cause": problem.cause,
        "Fix": problem.fix,
    }
