"""Options that several commands share, and how addresses and payloads are written on the command line."""

import ipaddress
import json
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import TypeAdapter, ValidationError

from sluicegate.model.address import Network
from sluicegate.model.text import endpoint_text

_F = TypeVar("_F", bound=Callable[..., Any])
_NETWORK = TypeAdapter(Network)


def output_option(command: _F) -> _F:
    """`--output text|json`; the argument `output` of the command."""
    option = click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="json: for programs, one document on standard output.",
    )
    return option(command)


def show(output: str, text: str, **document: object) -> None:
    """Print what was done: `text` for people, or the document as JSON."""
    click.echo(json.dumps(document, ensure_ascii=False) if output == "json" else text)


class Endpoint(click.ParamType[tuple[str, int]]):
    """`HOST:PORT`, `[IPV6]:PORT`: a tuple `(numeric address, port)`; names are resolved."""

    name = "HOST:PORT"

    def __init__(self, any_port: bool = False) -> None:
        self._lowest = 0 if any_port else 1

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isdecimal() or not self._lowest <= int(port) <= 65535:
            self.fail(f"{value!r} is not HOST:PORT, for example 127.0.0.1:2048 or [::1]:2048", param, ctx)
        bracketed = host.startswith("[") and host.endswith("]")
        if ":" in host and not bracketed:
            self.fail(f"write the IPv6 address in brackets: {endpoint_text(host, port)}", param, ctx)
        host = host[1:-1] if bracketed else host
        try:
            return str(ipaddress.ip_address(host)), int(port)
        except ValueError:
            pass
        try:
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            self.fail(f"the name {host!r} cannot be resolved, use a numeric address", param, ctx)
        return str(found[0][4][0]), int(port)


class NetworkText(click.ParamType[str]):
    """`ADDRESS/PREFIX`, as `egress_networks` has it."""

    name = "CIDR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return _NETWORK.validate_python(value)
        except ValidationError as error:
            self.fail(error.errors()[0]["msg"], param, ctx)


class HexBytes(click.ParamType[bytes]):
    """Bytes as hex digits, in either case, with or without spaces, colons or `0x`."""

    name = "HEX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            return bytes.fromhex(str(value).removeprefix("0x").replace(":", " "))
        except ValueError:
            self.fail(f"{value!r} is not hex, write pairs of digits such as 01ff", param, ctx)
