"""`sluicegate listen`: a UDP client for trying things out, on one socket like the device that it stands
for."""

import base64
import json
import socket
import time

import click

from sluicegate.cli.errors import CliError, Exit
from sluicegate.cli.options import Endpoint, HexBytes, output_option
from sluicegate.model.text import endpoint_text, printable

_LARGEST_DATAGRAM = 65_535


@click.command("listen")
@click.option("--bind", type=Endpoint(any_port=True), help="Own address; chosen to suit --to by default.")
@click.option("--send", "text", metavar="TEXT", help="Send this first, to --to.")
@click.option("--hex", "hexadecimal", type=HexBytes(), help="Send these bytes first, to --to.")
@click.option("--to", type=Endpoint(), help="Where to send: a Listener.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many datagrams.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Give up after S seconds."
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "hex", "json"]),
    default="hex",
    show_default=True,
    help="How to print a datagram; json is one object per line.",
)
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    bind: tuple[str, int] | None,
    text: str | None,
    hexadecimal: bytes | None,
    to: tuple[str, int] | None,
    count: int | None,
    timeout: float | None,
    style: str,
    output: str,
) -> None:
    """Receive datagrams and print them, after sending one if asked to.

    \b
    sluicegate listen
    sluicegate listen --to 127.0.0.1:2048 --send hello --count 1 --timeout 5
    """
    if text is not None and hexadecimal is not None:
        raise click.UsageError("give either --send or --hex")
    payload = text.encode("utf-8", "surrogateescape") if text is not None else hexadecimal
    if (payload is None) != (to is None):
        raise click.UsageError("--to goes with --send or --hex")
    with _open(bind or _own_address(to)) as sock:
        own = sock.getsockname()
        click.echo(f"listening on {endpoint_text(own[0], own[1])}", err=True)
        if payload is not None and to is not None:
            _send(sock, payload, to)
        try:
            received = _receive(sock, count, timeout, "json" if output == "json" else style)
        except KeyboardInterrupt:
            ctx.exit(Exit.OK if count is None else Exit.FAILED)
    if received < (count or 1):
        wanted = f" of {count}" if count else ""
        raise CliError(
            f"received {received}{wanted} datagrams in {timeout:g} s; is the sender using this address, "
            "and does the gateway allow it (client_restrictions, egress_networks)?"
        )


def _own_address(to: tuple[str, int] | None) -> tuple[str, int]:
    """The address that the kernel would send from: printed, it is one that the other side can answer to."""
    if to is None:
        return "127.0.0.1", 0
    with socket.socket(_family(to[0]), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(to)
        except OSError as error:
            raise CliError(f"{endpoint_text(*to)} cannot be reached: {error.strerror}") from None
        return str(probe.getsockname()[0]), 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _open(address: tuple[str, int]) -> socket.socket:
    try:
        sock = socket.socket(_family(address[0]), socket.SOCK_DGRAM)
    except OSError as error:
        raise CliError(f"no UDP socket: {error.strerror}") from None
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        fix = "choose another port, or leave --bind out"
        raise CliError(f"{endpoint_text(*address)} cannot be bound: {error.strerror}, {fix}") from None
    return sock


def _send(sock: socket.socket, payload: bytes, to: tuple[str, int]) -> None:
    try:
        sock.sendto(payload, to)
    except OSError as error:
        raise CliError(f"sending to {endpoint_text(*to)} failed: {error.strerror}") from None


def _receive(sock: socket.socket, count: int | None, timeout: float | None, style: str) -> int:
    """Print datagrams until `count` of them or the time is over; how many there were."""
    deadline = None if timeout is None else time.monotonic() + timeout
    received = 0
    while count is None or received < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            sock.settimeout(left)
        try:
            data, remote = sock.recvfrom(_LARGEST_DATAGRAM)
        except TimeoutError:
            break
        received += 1
        click.echo(_line(data, remote[0], remote[1], style))
    return received


def _line(data: bytes, host: str, port: int, style: str) -> str:
    if style == "json":
        document = {
            "Remote": {"IpAddress": host, "Port": port},
            "Bytes": len(data),
            "Data": base64.b64encode(data).decode(),
        }
        return json.dumps(document)
    shown = data.hex(" ") if style == "hex" else printable(data.decode("utf-8", "backslashreplace"))
    unit = "byte" if len(data) == 1 else "bytes"
    return f"{endpoint_text(host, port)} {len(data)} {unit}: {shown}"
