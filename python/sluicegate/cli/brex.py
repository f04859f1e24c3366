"""`sluicegate brex`: try an expression on a packet, without a gateway."""

import base64
import json

import click

from sluicegate import _native
from sluicegate.cli.errors import CliError
from sluicegate.cli.options import HexBytes, output_option
from sluicegate.model.text import printable


@click.command("brex")
@click.argument("expression")
@click.option("--hex", "hexadecimal", type=HexBytes(), help="The packet's payload as hex digits.")
@click.option("--base64", "encoded", metavar="DATA", help="The payload as Base64.")
@click.option("--text", metavar="TEXT", help="The payload as text.")
@click.option(
    "--formatter",
    type=click.Choice(["hex", "base64", "utf8", "ascii"]),
    default="hex",
    show_default=True,
    help="How bytes are shown.",
)
@output_option
def command(
    expression: str,
    hexadecimal: bytes | None,
    encoded: str | None,
    text: str | None,
    formatter: str,
    output: str,
) -> None:
    """Show what a BREX EXPRESSION says of a packet, step by step.

    Without a packet the expression is only checked. One that begins with a minus goes into parentheses.
    docs/reference/brex.md has the language.

    \b
    sluicegate brex '[0] == 0xFE ? [3:5] : 0xFFFF' --hex FE0900A2C2
    """
    given = [one for one in (hexadecimal, encoded, text) if one is not None]
    if len(given) > 1:
        raise click.UsageError("give one of --hex, --base64 and --text")
    if (wrong := _native.brex_error(expression)) is not None:
        column, cause, fix = wrong
        raise CliError(f"{_pointed(expression, column)}character {column}: {cause}, {fix}")
    if not given:
        click.echo(json.dumps({"Valid": True}) if output == "json" else "valid")
        return
    packet = _packet(given[0], encoded is not None)
    steps, value, true, exceeded = _native.brex_trace(expression, packet, formatter)
    if output == "json":
        shown = [{"Part": part, "Value": result} for part, result in steps]
        click.echo(json.dumps({"Steps": shown, "Value": value, "Passes": true is True}, ensure_ascii=False))
    else:
        width = max((len(part) for part, _ in steps), default=0)
        for part, result in steps:
            click.echo(f"{part:{min(width, 60)}}  {_shown(result)}")
        click.echo(f"value: {_shown(value)}")
        click.echo(f"as a filter: {'the packet passes' if true else 'the packet is left out'}")
    if exceeded:
        raise CliError("the packet costs more than 10,000 steps or 64 KiB: use a shorter expression")


def _packet(given: bytes | str, encoded: bool) -> bytes:
    if isinstance(given, bytes):
        return given
    if not encoded:
        return given.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(given, validate=True)
    except ValueError:
        raise click.BadParameter("it is not Base64", param_hint="'--base64'") from None


def _pointed(expression: str, column: int) -> str:
    """The expression with a mark below the character; nothing where it has more than one line."""
    if not expression.isprintable() or len(expression) > 200:
        return ""
    return f"the expression is wrong\n  {expression}\n  {' ' * (column - 1)}^\n"


def _shown(value: str | None) -> str:
    return "null" if value is None else printable(value)
