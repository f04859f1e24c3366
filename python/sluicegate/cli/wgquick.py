"""What a new WireGuard peer gets: keys, an address in the tunnel, and a file for wg-quick or a phone."""

import base64
import io
import ipaddress
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sluicegate import _native
from sluicegate.cli.errors import CliError
from sluicegate.model.publickey import canonical, is_key
from sluicegate.model.text import endpoint_text

DEFAULT_NETWORK = ipaddress.IPv4Network("10.60.0.0/24")
"""Where the first peer of a Listener gets its address from."""
_PREFIX = {4: 24, 6: 64}
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Invitation:
    """A peer as it is to be. `private_key` None: it has made its own."""

    name: str
    listener_key: str
    endpoint: str
    addresses: Sequence[Address]
    routes: Sequence[str]
    keepalive: int
    public_key: str
    private_key: str | None
    preshared_key: str | None

    @classmethod
    def make(
        cls,
        *,
        name: str,
        listener_key: str,
        endpoint: str,
        addresses: Sequence[Address],
        routes: Sequence[str],
        keepalive: int,
        public_key: str | None,
        preshared: bool,
    ) -> "Invitation":
        """With a new key pair unless it has a `public_key`. `CliError` for what cannot be."""
        private_key = None if public_key is not None else _native.generate_private_key()
        if public_key is None:
            assert private_key is not None  # noqa: S101
            public_key = _native.public_key(private_key)
        elif not is_key(public_key):
            raise CliError(
                "--public-key is not a WireGuard key, use the 44 characters that `wg pubkey` prints"
            )
        elif _native.canonical_public_key(public_key) is None or canonical(public_key) == listener_key:
            whose = "the Listener" if canonical(public_key) == listener_key else "nobody"
            raise CliError(
                f"--public-key is a key of {whose}, use the one that `wg pubkey` prints of the peer's private key"
            )
        secret = base64.b64encode(os.urandom(32)).decode() if preshared else None
        ways = [_network(text) for text in routes] or [str(network_of(one)) for one in addresses]
        return cls(name, listener_key, endpoint, addresses, ways, keepalive, public_key, private_key, secret)

    @property
    def document(self) -> dict[str, Any]:
        """The peer for the gateway's API."""
        document: dict[str, Any] = {
            "Name": self.name,
            "PublicKey": self.public_key,
            "AllowedIPs": [str(ipaddress.ip_network(address)) for address in self.addresses],
        }
        return document | ({"SharedSecret": self.preshared_key} if self.preshared_key else {})

    @property
    def text(self) -> str:
        """The file for wg-quick."""
        own = self.private_key or f"(the private key that belongs to {self.public_key})"
        lines = [
            "[Interface]",
            f"PrivateKey = {own}",
            f"Address = {', '.join(str(ipaddress.ip_network(address)) for address in self.addresses)}",
            "",
            "[Peer]",
            f"PublicKey = {self.listener_key}",
            *([f"PresharedKey = {self.preshared_key}"] if self.preshared_key else []),
            f"Endpoint = {self.endpoint}",
            f"AllowedIPs = {', '.join(self.routes)}",
            *([f"PersistentKeepalive = {self.keepalive}"] if self.keepalive else []),
        ]
        return "\n".join(lines) + "\n"

    @property
    def yaml(self) -> str:
        """The peer for the gateway's own file."""
        allowed = ", ".join(f'"{ipaddress.ip_network(address)}"' for address in self.addresses)
        lines = [
            "    peers:",
            f"      - name: {json.dumps(self.name, ensure_ascii=False)}",
            f'        public_key: "{self.public_key}"',
            f"        allowed_ips: [{allowed}]",
            *([f'        shared_secret: "{self.preshared_key}"'] if self.preshared_key else []),
        ]
        return "\n".join(lines)

    @property
    def shown(self) -> dict[str, Any]:
        """All of it, for programs."""
        keys = {"PrivateKey": self.private_key} if self.private_key else {}
        return self.document | keys | {"Config": self.text}

    @property
    def code(self) -> str:
        """The file as a QR code of block characters."""
        import segno

        picture = io.StringIO()
        segno.make(self.text, error="l", micro=False).terminal(picture, border=2, compact=True)
        return picture.getvalue()


def addresses(texts: Sequence[str]) -> list[Address]:
    """Addresses as they were written; `CliError`."""
    try:
        return [ipaddress.ip_address(text) for text in texts]
    except ValueError as error:
        raise CliError(f"--address: {error}, write it like 10.60.0.2 or fd00::2") from None


def next_address(allowed: Iterable[Sequence[str]]) -> Address:
    """The next free address in the network of those that peers have (their AllowedIPs); `CliError` if there is none.

    The first host of the network is left to the gateway: people will ping it.
    """
    networks = [ipaddress.ip_network(text) for texts in allowed for text in texts]
    taken = {one.network_address for one in networks if one.version == 4 and one.num_addresses == 1}
    network = network_of(min(taken)) if taken else DEFAULT_NETWORK
    for host in map(ipaddress.ip_address, range(int(network[2]), int(network[-1]))):
        if host not in taken:
            return host
    raise CliError(f"every address of {network} is taken, choose one with --address")


def network_of(address: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that an address in the tunnel is taken to be in."""
    return ipaddress.ip_network((address, _PREFIX[address.version]), strict=False)


def outward_endpoint(given: str | None, address: str, port: int, api: str) -> str:
    """`HOST:PORT` where peers reach a Listener that is bound to `address`.

    One bound to every address is reached where its API is, or, when that is on this machine, by the address that this
    machine uses to reach others. `CliError` when that cannot be told.
    """
    if given is not None:
        host, colon, number = given.rpartition(":")
        if not colon or (given.startswith("[") and given.endswith("]")):
            host, number = given, str(port)
        if not _HOST.fullmatch(host) or not number.isdecimal() or not 0 < int(number) < 65_536:
            raise CliError(
                f"--endpoint {given} is not HOST or HOST:PORT, write it like vpn.example.com:51820"
            )
        return f"{host}:{number}"
    host = address
    if ipaddress.ip_address(address).is_unspecified:
        host = _reached_at(api)
    return endpoint_text(host, port)


def _reached_at(api: str) -> str:
    host = urlsplit(api).hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and host:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses a route; nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            raise CliError("this machine's address cannot be told, name it with --endpoint HOST") from None


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise CliError(f"--route: {error}, write it like 10.60.0.0/24 or 0.0.0.0/0") from None
