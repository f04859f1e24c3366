"""`sluicegate send`: source one packet through the REST API (contract section 4.2)."""

import base64
import binascii
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from sluicegate.cli.client import api_option, call, no_gateway
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError, Exit, error
from sluicegate.cli.options import Endpoint, HexBytes, output_option
from sluicegate.regular import read_regular


@click.command("send")
@click.option("--source", metavar="NAME", help="The PacketSource; may be left out if there is only one.")
@click.option("--to", type=Endpoint(), multiple=True, help="A remote to send to; may be repeated.")
@click.option("--tag", metavar="TAG", help="Answer the packet with this Tag, instead of --to.")
@click.option("--peer", metavar="KEY", help="The WireGuard peer to send to, by its public key.")
@click.option("--data", metavar="TEXT", help="The payload as text (UTF-8).")
@click.option("--hex", "hexadecimal", type=HexBytes(), help="The payload in hex.")
@click.option("--base64", "encoded", metavar="B64", help="The payload in base64.")
@click.option("--file", "file", type=click.Path(path_type=Path), help="The payload from a file.")
@click.option(
    "--at", metavar="TIME", help="When to send it: a time with an offset, or seconds since 1970. Else now."
)
@click.argument("stdin", required=False, type=click.Choice(["-"]), metavar="[-]")
@api_option
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    source: str | None,
    to: tuple[tuple[str, int], ...],
    tag: str | None,
    peer: str | None,
    data: str | None,
    hexadecimal: bytes | None,
    encoded: str | None,
    file: Path | None,
    at: str | None,
    stdin: str | None,
    api: Api,
    output: str,
) -> None:
    """Send a datagram from a Listener's own address and port. `-` reads the payload from standard input.

    \b
    sluicegate send --to 127.0.0.1:50123 --hex 01020304
    sluicegate send --to 192.0.2.7:5683 --to 192.0.2.8:5683 --data hello
    echo -n hello | sluicegate send --tag TAG -
    sluicegate send --to 192.0.2.7:5683 --data hello --at 2026-06-09T10:00:00Z
    """
    if (not to and peer is None) == (tag is None):
        raise click.UsageError("say where to send: --to HOST:PORT, --peer KEY or --tag TAG")
    if len(to) > 1 and peer is not None:
        raise click.UsageError("a --peer is at one address: give --to once")
    payload = _payload(data, hexadecimal, encoded, file, stdin)
    name = source or _only_source(api)
    entry: dict[str, Any] = {"Data": base64.b64encode(payload).decode()}
    if tag is not None:
        entry["Tag"] = tag
    else:
        places = [{"Address": host, "Port": port} for host, port in to] or [{}]
        remotes = [place | ({"PeerKey": peer} if peer else {}) for place in places]
        entry |= {"Remote": remotes[0]} if len(remotes) == 1 else {"Remotes": remotes}
    if at is not None:
        entry["SendAt"] = _seconds(at)
    path = f"/v1/packet-sources/{quote(name, safe='')}/messages"
    answer = call(api, "POST", path, {"Messages": [entry]})
    try:
        entries, sent, failures = answer["Entries"], answer["Sent"], answer["Failures"]
        waits = answer.get("Scheduled", 0)
        done = answer["Duplicates"] + sent + waits
        lines = [f"{failure['Reason']}: {failure['Detail']}" for failure in failures]
        message_id = answer["MessageId"]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    if output == "json":
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        for line in lines:
            error(line)
        did = f"scheduled {waits}" if waits else f"sent {sent}"
        click.echo(f"{did} of {entries}, {len(payload)} bytes by {name} (message {message_id})")
    ctx.exit(Exit.OK if done == entries and not failures else Exit.FAILED)


def _payload(
    data: str | None, hexadecimal: bytes | None, encoded: str | None, file: Path | None, stdin: str | None
) -> bytes:
    given = [value for value in (data, hexadecimal, encoded, file, stdin) if value is not None]
    if len(given) != 1:
        raise click.UsageError("give the payload once: --data, --hex, --base64, --file or `-`")
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    if hexadecimal is not None:
        return hexadecimal
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as problem:
            raise click.UsageError(f"--base64 is not base64: {problem}") from None
    if file is not None:
        try:
            return read_regular(file, piped=True)
        except OSError as problem:
            raise CliError(f"{file} cannot be read: {problem.strerror}") from None
    return sys.stdin.buffer.read()


def _seconds(at: str) -> float | str:
    """What JSON has for a `SendAt`: a number for seconds; else the text, which the gateway reads."""
    return float(at) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", at) else at


def _only_source(api: Api) -> str:
    answer = call(api, "GET", "/v1/packet-sources")
    items = answer.get("Items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise no_gateway(api)
    names = [str(item["Name"]) for item in items]
    if len(names) == 1:
        return names[0]
    if not names:
        raise CliError("this gateway has no PacketSource, add one to its configuration")
    raise CliError(f"this gateway has several PacketSources, choose one with --source: {', '.join(names)}")
