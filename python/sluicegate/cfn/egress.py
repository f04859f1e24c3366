"""Where the PacketSources of a template may send: their own networks, or their Listener's, and those of `apply`."""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.model.listener import OPEN_NETWORKS, ClientRestrictions, Listener
from sluicegate.model.packet_source import PacketSource

_ROUTES = Path("/proc/net/route")
_MOST = 4
"""Networks of this machine that are named, at most."""


def client_networks(listener: Mapping[str, Any]) -> list[Any]:
    """The networks that a Listener's document of a template admits (`model/template_defaults.py`)."""
    restrictions = Listener.peek(listener, "client_restrictions")
    networks = ClientRestrictions.peek(restrictions, "networks")
    if isinstance(networks, list):
        return networks
    open_to_all = Listener.peek(listener, "protocol") in ("wg", ["wg"]) and not restrictions
    return list(OPEN_NETWORKS) if open_to_all else []


def added(source: Mapping[str, Any], of_listener: Sequence[Any], networks: Sequence[str]) -> list[Any]:
    """A PacketSource's networks (without its own: its Listener's) with these behind them, each once."""
    own = PacketSource.peek(source, "egress_networks")
    return list(dict.fromkeys([*(own if isinstance(own, list) else of_listener), *networks]))


def options_for_nearby(networks: Iterable[str]) -> str:
    """The options of `apply` with which packets reach clients in these networks."""
    return " ".join(f"--egress-network {network}" for network in networks)


def nearby_networks() -> list[str]:
    """The networks of clients on this machine and on the private networks that it is connected to."""
    return ["127.0.0.0/8", *dict.fromkeys(_connected())][: _MOST + 1]


def _connected() -> Iterable[str]:
    """The private IPv4 networks that this machine reaches without a gateway (proc(5), net/route)."""
    try:
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or int(fields[2], 16):
            continue
        # Both are numbers of this machine's byte order.
        network, mask = (int(text, 16).to_bytes(4, "little") for text in (fields[1], fields[7]))
        found = ipaddress.ip_network((network, int.from_bytes(mask).bit_count()), strict=False)
        if found.prefixlen and found.is_private and not found.is_link_local and not found.is_loopback:
            yield str(found)
