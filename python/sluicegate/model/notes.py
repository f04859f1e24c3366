"""What is accepted and does less than a user may think: worth a line, no refusal.

`validate` shows these as warnings; the API, CloudFormation and `apply` answer with them.
"""

from collections.abc import Iterator, Sequence

from sluicegate.model.base import Finding
from sluicegate.model.listener import OPEN_NETWORKS, Listener
from sluicegate.model.packet_source import PacketSource


def notes(listeners: Sequence[Listener], sources: Sequence[PacketSource]) -> list[Finding]:
    """Notes about these resources of one gateway, with paths from its root."""
    return [
        *_without_networks(listeners, sources),
        *_wireguard_on_udp(listeners),
        *_alike_peers(listeners),
    ]


_OF_WIREGUARD = (
    "peers",
    "private_key",
    "allow_unknown_peers",
    "unknown_peer_pre_shared_key",
)


def _wireguard_on_udp(listeners: Sequence[Listener]) -> Iterator[Finding]:
    """A plain Listener takes these settings and does nothing with them: what is to be secret would go in the clear."""
    for index, listener in enumerate(listeners):
        for field in _OF_WIREGUARD if listener.protocol == "udp" else ():
            if getattr(listener, field):
                cause = f'`{field}` has no effect on the Listener "{listener.name}", whose protocol is udp'
                fix = "write `protocol: wg` if it is to speak WireGuard, else remove this"
                yield Finding(("listeners", index, field), cause, fix, on_key=True)


def _alike_peers(listeners: Sequence[Listener]) -> Iterator[Finding]:
    """Peers that share a name, or an address inside the tunnel: the first one's packets pass for the other's."""
    for index, listener in enumerate(listeners):
        names: dict[str, str] = {}
        inner: dict[str, str] = {}
        for position, peer in enumerate(listener.peers):
            place = ("listeners", index, "peers", position)
            if peer.name is not None and names.setdefault(peer.name, peer.public_key) != peer.public_key:
                fix = "give each its own, or commands cannot tell which one is meant"
                yield Finding((*place, "name"), f'two peers of this Listener are named "{peer.name}"', fix)
            for number, network in enumerate(peer.allowed_ips):
                owner = inner.setdefault(network, peer.name or peer.public_key)
                if network not in OPEN_NETWORKS and owner != (peer.name or peer.public_key):
                    cause = f'the peer "{owner}" may use {network} too'
                    fix = "give each peer its own addresses, or each can pass for the other"
                    yield Finding((*place, "allowed_ips", number), cause, fix)


def _without_networks(listeners: Sequence[Listener], sources: Sequence[PacketSource]) -> Iterator[Finding]:
    """A Listener that admits no network gives its PacketSources none to send to (contract 1.3)."""
    closed = {one.name for one in listeners if not one.client_restrictions.networks}
    for index, source in enumerate(sources):
        if source.egress_networks is None and source.listener_name in closed:
            yield Finding(
                ("packet_sources", index, "egress_networks"),
                f'the PacketSource "{source.name}" sends to sessions and Tags alone, because its Listener '
                f'"{source.listener_name}" admits no networks',
                'list where else it may send in its EgressNetworks, for example ["203.0.113.0/24"]',
            )
