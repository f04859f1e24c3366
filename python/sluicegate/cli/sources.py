"""`sluicegate sources`: PacketSources, their states, and the operator's decision about them (contract 1.3)."""

import json
from typing import Any
from urllib.parse import quote

import click

from sluicegate.cli import table
from sluicegate.cli.client import api_option, call, no_gateway
from sluicegate.cli.credentials import Api
from sluicegate.cli.options import output_option


@click.group("sources")
def command() -> None:
    """Show PacketSources, and approve or reject them.

    With `require_approval: true` a new one waits as PendingApproval, and sends nothing until it is approved.
    """


@command.command("list")
@api_option
@output_option
def list_sources(api: Api, output: str) -> None:
    """Every PacketSource with its state."""
    answer = call(api, "GET", "/v1/packet-sources")
    try:
        rows = [(one["Name"], one["State"], one["ListenerName"], _source(one)) for one in answer["Items"]]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    if output == "json":
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    if not rows:
        click.echo("this gateway has no PacketSource")
        return
    table.show([("NAME", "STATE", "LISTENER", "SOURCE"), *rows])


def _source(one: dict[str, Any]) -> str:
    """The ARN of its topic, or the source kind of another package."""
    if "MessageSource" in one:
        return str(next(iter(one["MessageSource"])))
    return str(one["SnsTopicSource"]["TopicArn"])


@command.command("approve")
@click.argument("name")
@api_option
@output_option
def approve(name: str, api: Api, output: str) -> None:
    """Let the PacketSource NAME send."""
    _decide(name, "approve", api, output)


@command.command("reject")
@click.argument("name")
@api_option
@output_option
def reject(name: str, api: Api, output: str) -> None:
    """Let the PacketSource NAME send nothing (any more)."""
    _decide(name, "reject", api, output)


def _decide(name: str, action: str, api: Api, output: str) -> None:
    answer: Any = call(api, "POST", f"/v1/packet-sources/{quote(name, safe='')}/{action}")
    try:
        line = f"{answer['Name']} is {answer['State']}"
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    click.echo(json.dumps(answer, ensure_ascii=False) if output == "json" else line)
