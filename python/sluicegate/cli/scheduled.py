"""`sluicegate scheduled`: entries that wait for their `SendAt` (contract section 4.1)."""

import json
from typing import Any
from urllib.parse import quote, urlencode

import click

from sluicegate.cli import table
from sluicegate.cli.client import api_option, call, no_gateway
from sluicegate.cli.credentials import Api
from sluicegate.cli.options import output_option
from sluicegate.model.text import endpoint_text, printable


@click.group("scheduled")
def command() -> None:
    """Show and cancel what is to be sent later (`SendAt`)."""


@command.command("list")
@click.option("--source", metavar="NAME", help="Those of this PacketSource.")
@click.option("--message", metavar="ID", help="Those of this message.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@api_option
@output_option
def list_scheduled(source: str | None, message: str | None, limit: int, api: Api, output: str) -> None:
    """The entries that wait, in the order in which they came."""
    query = _query(source, message) | {"Limit": str(limit)}
    answer = call(api, "GET", f"/v1/scheduled?{urlencode(query)}")
    try:
        rows = [
            (one["ScheduledId"], one["SendAt"], one["PacketSource"], one["MessageId"], _where(one))
            for one in answer["Items"]
        ]
        waiting, more = answer["Waiting"], answer["NextToken"]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    if output == "json":
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    if not rows:
        click.echo("nothing waits to be sent")
        return
    table.show([("NUMBER", "SEND AT", "SOURCE", "MESSAGE", "TO"), *rows])
    if more:
        click.echo(f"and more: {waiting} wait in all")


@command.command("cancel")
@click.argument("number", required=False)
@click.option("--source", metavar="NAME", help="All of this PacketSource.")
@click.option("--message", metavar="ID", help="All of this message.")
@api_option
@output_option
def cancel(number: str | None, source: str | None, message: str | None, api: Api, output: str) -> None:
    """Cancel the entry NUMBER, or all of a PacketSource or a message."""
    query = _query(source, message)
    if (number is None) == (not query):
        raise click.UsageError("say what to cancel: NUMBER, or --source and --message")
    if number is not None:
        call(api, "DELETE", f"/v1/scheduled/{quote(number, safe='')}")
        answer: Any = {"Cancelled": 1}
    else:
        answer = call(api, "DELETE", f"/v1/scheduled?{urlencode(query)}")
    try:
        cancelled = answer["Cancelled"]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    click.echo(json.dumps(answer) if output == "json" else f"cancelled {cancelled}")


def _query(source: str | None, message: str | None) -> dict[str, str]:
    given = {"PacketSource": source, "MessageId": message}
    return {name: value for name, value in given.items() if value is not None}


def _where(one: dict[str, Any]) -> str:
    if one["Entries"] > 1:
        return f"{one['Entries']} remotes"
    remote = one.get("Remote")
    if not isinstance(remote, dict):
        return "a Tag" if "Tag" in one else ""
    address = remote.get("IpAddress") or remote.get("Address") or remote.get("IP")
    if not address:
        return printable(str(remote.get("PeerKey", "")))
    return printable(endpoint_text(str(address), remote.get("Port", 0)))
