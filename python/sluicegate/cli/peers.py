"""`sluicegate peers`: who may speak to a WireGuard Listener (contract section 5).

`add` makes the key pair here: the gateway never sees a peer's private key, and nobody can show it again.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from sluicegate.cli import table
from sluicegate.cli.client import api_option, call, no_gateway
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError, Exit, warning
from sluicegate.cli.options import output_option, show
from sluicegate.cli.wgquick import Invitation, addresses, next_address, outward_endpoint
from sluicegate.model.text import endpoint_text


@click.group("peers")
def command() -> None:
    """Show, add and remove the peers of a WireGuard Listener, while it runs."""


_listener_option = click.option(
    "--listener", "listener", metavar="NAME", help="The Listener; may be left out if only one speaks wg."
)


@command.command("list")
@_listener_option
@api_option
@output_option
def list_peers(listener: str | None, api: Api, output: str) -> None:
    """Every peer: where it is, its last handshake, bytes from and to it; and whose clock is not the gateway's."""
    peers = _peers(api, _listener(api, listener))
    if output == "json":
        click.echo(json.dumps({"Items": peers, "NextToken": None}, ensure_ascii=False))
        return
    try:
        peers.sort(key=lambda peer: (not peer["Configured"], peer.get("Name") or "", peer["PublicKey"]))
        rows = [_row(peer) for peer in peers]
        clocks = [_clock(peer) for peer in peers]
    except (KeyError, TypeError, ValueError):
        raise no_gateway(api) from None
    if not rows:
        click.echo("this Listener has no peers: add one with `sluicegate peers add NAME`")
        return
    shown: list[tuple[str, ...]] = [
        ("NAME", "PUBLIC KEY", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED IPS"),
        *rows,
    ]
    if any(clocks):
        shown = [(*row, clock) for row, clock in zip(shown, ("CLOCK", *clocks), strict=True)]
    table.show(shown)


@command.command("add")
@click.argument("name")
@_listener_option
@click.option("--public-key", metavar="KEY", help="Of a peer that has made its own key pair.")
@click.option(
    "--address",
    "inner",
    metavar="IP",
    multiple=True,
    help="Its address in the tunnel.  [default: the next free]",
)
@click.option(
    "--endpoint", metavar="HOST[:PORT]", help="Where peers reach this gateway.  [default: what it can tell]"
)
@click.option(
    "--route",
    "routes",
    metavar="NETWORK",
    multiple=True,
    help="What goes into the tunnel.  [default: its network]",
)
@click.option(
    "--keepalive", default=25, show_default=True, type=click.IntRange(0, 65_535), help="Seconds; 0 for none."
)
@click.option("--preshared-key", "preshared", is_flag=True, help="Make a pre-shared key too.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Write the file here, mode 0600.")
@click.option(
    "--qr/--no-qr", default=None, help="Show a QR code on standard error.  [default: on a terminal]"
)
@api_option
@output_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    listener: str | None,
    public_key: str | None,
    inner: Sequence[str],
    endpoint: str | None,
    routes: Sequence[str],
    keepalive: int,
    preshared: bool,
    target: Path | None,
    qr: bool | None,
    api: Api,
    output: str,
) -> None:
    """Let the peer NAME in, and print its wg-quick file: its private key is shown this once.

    \b
    sluicegate peers add phone                      scan the QR code with the WireGuard app
    sluicegate peers add laptop --to wg0.conf       then: wg-quick up ./wg0.conf
    """
    found = _listener(api, listener)
    peers = _peers(api, found)
    own = addresses(inner) if inner else [next_address(peer.get("AllowedIPs", ()) for peer in peers)]
    invitation = Invitation.make(
        name=name,
        listener_key=str(found["WireGuardPublicKey"]),
        endpoint=outward_endpoint(endpoint, str(found["Address"]), int(found["Port"]), api.url),
        addresses=own,
        routes=routes,
        keepalive=keepalive,
        public_key=public_key,
        preshared=preshared,
    )
    _refuse_known(peers, invitation)
    of_file = found["DeclaredBy"] == "File"
    if target is not None:
        _write(target, invitation.text)
    try:
        if not of_file:
            call(api, "POST", _path(found), invitation.document)
    except CliError:
        if target is not None:
            target.unlink()
        raise
    if output == "json":
        click.echo(json.dumps(invitation.shown | {"Listener": found["Name"], "Added": not of_file}))
    else:
        click.echo(invitation.text if target is None else f"wrote {target}")
        _show_code(invitation, qr)
    if of_file:
        click.echo(
            f"next: the Listener {found['Name']} is declared by the gateway's file, which owns what it names. Write "
            f"this into it, below the Listener, and {name} is let in when it is reloaded (SIGHUP, or POST "
            f"/v1/reload):\n{invitation.yaml}",
            err=True,
        )
    ctx.exit(Exit.OK)


@command.command("remove")
@click.argument("peer", metavar="NAME|KEY")
@_listener_option
@api_option
@output_option
def remove(peer: str, listener: str | None, api: Api, output: str) -> None:
    """Cut a peer off: its session ends at once."""
    found = _listener(api, listener)
    key = _key_of(api, found, peer, [one for one in _peers(api, found) if one["Configured"]])
    if found["DeclaredBy"] == "File":
        raise CliError(
            f"the Listener {found['Name']} is declared by the gateway's file, which owns what it names: remove the "
            f"peer with the public_key {key} from its `peers`, and reload it (SIGHUP, or POST /v1/reload)"
        )
    call(api, "DELETE", f"{_path(found)}/{quote(key, safe='')}")
    show(output, f"removed {peer} from {found['Name']}", Removed=key, Listener=found["Name"])


@command.command("reset")
@click.argument("peer", metavar="NAME|KEY")
@_listener_option
@api_option
@output_option
def reset(peer: str, listener: str | None, api: Api, output: str) -> None:
    """Answer a peer's next handshake whatever its clock says.

    A peer whose clock was ahead once, or begins anew with each start, is refused until the clock has caught up. `list`
    shows who lacks how much. A session that there is goes on.
    """
    found = _listener(api, listener)
    key = _key_of(api, found, peer, _peers(api, found))
    call(api, "POST", f"{_path(found)}/{quote(key, safe='')}/reset")
    text = f"reset {peer} of {found['Name']}: its next handshake is answered"
    show(output, text, Reset=key, Listener=found["Name"])


def _key_of(api: Api, listener: dict[str, Any], peer: str, peers: list[dict[str, Any]]) -> str:
    """The public key of the one among `peers` with this name or key."""
    try:
        keys = [str(one["PublicKey"]) for one in peers if peer in (one["PublicKey"], one.get("Name"))]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    if not keys:
        raise CliError(
            f"the Listener {listener['Name']} has no peer {peer}, `sluicegate peers list` shows them"
        )
    if len(keys) > 1:
        raise CliError(f"several peers are named {peer}, name one by its key: {', '.join(keys)}")
    return keys[0]


def _listener(api: Api, name: str | None) -> dict[str, Any]:
    """The WireGuard Listener that is meant."""
    try:
        items = call(api, "GET", "/v1/listeners")["Items"]
        tunnels = {one["Name"]: one for one in items if one["Protocols"] == ["wg"]}
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    if name is not None and name not in tunnels:
        raise CliError(
            f"this gateway has no WireGuard Listener {name}, it has: {', '.join(tunnels) or 'none'}"
        )
    if name is None and len(tunnels) > 1:
        raise CliError(
            f"this gateway has several WireGuard Listeners, choose with --listener: {', '.join(tunnels)}"
        )
    if not tunnels:
        raise CliError("this gateway has no WireGuard Listener, add one with `protocol: wg`")
    found: dict[str, Any] = tunnels[name] if name is not None else next(iter(tunnels.values()))
    return found


def _peers(api: Api, listener: dict[str, Any]) -> list[dict[str, Any]]:
    """All of them: an answer has a part."""
    path = _path(listener)
    peers: list[dict[str, Any]] = []
    try:
        answer = call(api, "GET", path)
        peers += answer["Items"]
        while answer["NextToken"] is not None:
            answer = call(api, "GET", f"{path}?after={quote(answer['NextToken'], safe='')}")
            peers += answer["Items"]
    except (KeyError, TypeError):
        raise no_gateway(api) from None
    return peers


def _path(listener: dict[str, Any]) -> str:
    return f"/v1/listeners/{quote(listener['Name'], safe='')}/peers"


def _row(peer: dict[str, Any]) -> tuple[str, ...]:
    endpoint = peer["Endpoint"]
    place = "-"
    if endpoint is not None:
        place = endpoint_text(endpoint["IpAddress"], endpoint["Port"])
    name = peer.get("Name") or ("-" if peer["Configured"] else "(unknown)")
    received, sent = _size(peer["ReceivedBytes"]), _size(peer["SentBytes"])
    allowed = ", ".join(peer.get("AllowedIPs", ())) or "any"
    return (name, peer["PublicKey"], place, _ago(peer["LastHandshakeAt"]), received, sent, allowed)


def _clock(peer: dict[str, Any]) -> str:
    """What is wrong with a peer's clock; empty if nothing is known to be."""
    ahead, behind = peer["ClockAheadSeconds"], peer["ClockBehindSeconds"]
    if behind is not None:
        return f"refused: {_span(behind)} behind its last handshake"
    return f"{_span(ahead)} ahead" if ahead is not None else ""


def _ago(at: str | None) -> str:
    if at is None:
        return "never"
    return f"{_span(max(0, int(time.time() - datetime.fromisoformat(at).timestamp())))} ago"


def _span(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count} B"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"


def _refuse_known(peers: list[dict[str, Any]], invitation: Invitation) -> None:
    for peer in peers:
        if peer["Configured"] and peer.get("Name") == invitation.name:
            raise CliError(
                f"there is already a peer named {invitation.name}, "
                f"choose another name or remove it first: sluicegate peers remove {invitation.name}"
            )


def _write(target: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as problem:
        raise CliError(f"{target} cannot be written: {problem.strerror}, choose another file") from None


def _show_code(invitation: Invitation, wanted: bool | None) -> None:
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return
    if invitation.private_key is None:
        return  # without it the code would lead nowhere
    code = invitation.code
    try:
        code.encode(sys.stderr.encoding or "utf-8")
    except UnicodeEncodeError:
        warning("this terminal cannot show a QR code, a UTF-8 locale can (LANG=C.UTF-8)")
        return
    click.echo(code, err=True)
