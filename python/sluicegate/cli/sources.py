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
    """Every PacketSource with its state.

    Draining is a queue on AWS that no PacketSource names any more: what waits in it is sent first. Waiting is one that
    nobody sends from; --output json says why.
    """
    answer = call(api, "GET", "/v1/packet-sources")
    left = call(api, "GET", "/v1/draining")
    try:
        rows = [(one["Name"], one["State"], one["ListenerName"], _source(one)) for one in answer["Items"]]
        rows += [(one["PacketSource"], one["State"], "", one["Topic"]) for one in left["Items"]]
        answer["Draining"] = left["Items"]
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


@command.command("remove")
@click.argument("name")
@click.option("--discard", is_flag=True, help="Delete its queues on AWS at once, with what waits in them.")
@api_option
@output_option
def remove(name: str, discard: bool, api: Api, output: str) -> None:
    """Delete the PacketSource NAME. What waits in its queue on AWS is sent first.

    With --discard what is draining under NAME is deleted at once, with what waits. A PacketSource NAME that is still
    declared is deleted only if nothing is draining under its name.
    """
    path = quote(name, safe="")
    left = _draining(api, name)
    only_queues = discard and bool(left)
    if not only_queues:
        call(api, "DELETE", f"/v1/packet-sources/{path}")
        left = _draining(api, name)
    if discard and left:
        call(api, "DELETE", f"/v1/draining/{path}")
    queues = [one["Queue"] for one in left]
    stays = only_queues and any(one["Name"] == name for one in _items(api, "/v1/packet-sources"))
    if output == "json":
        answer = {"Name": name, "Removed": not stays, "Discarded": discard, "Queues": queues}
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    click.echo(f"{name} stays as it is declared" if stays else f"{name} is removed")
    for queue in queues:
        click.echo(f"{queue} {'is deleted' if discard else 'is draining'}")


def _draining(api: Api, name: str) -> list[dict[str, Any]]:
    return [one for one in _items(api, "/v1/draining") if one.get("PacketSource") == name]


def _items(api: Api, path: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = call(api, "GET", path)["Items"]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    return found


def _decide(name: str, action: str, api: Api, output: str) -> None:
    answer: Any = call(api, "POST", f"/v1/packet-sources/{quote(name, safe='')}/{action}")
    try:
        line = f"{answer['Name']} is {answer['State']}"
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    click.echo(json.dumps(answer, ensure_ascii=False) if output == "json" else line)
