"""Listener: one public UDP endpoint (contract section 1.1)."""

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_serializer,
    model_validator,
)

from sluicegate import _native
from sluicegate.model.address import BindAddress, Network, bind_text, parse_bind
from sluicegate.model.base import Finding, Resource, invalid, invalid_at
from sluicegate.model.destination import DestinationSpec
from sluicegate.model.domain import Domains
from sluicegate.model.names import LogGroupName, Name, destination_name
from sluicegate.model.publickey import is_key
from sluicegate.model.role import Role

Protocol = Literal["udp", "wg", "dtls", "webrtc"]

OPEN_NETWORKS = ("0.0.0.0/0", "::/0")
INTERFACE_LENGTH = 45
"""An IPv6 address in its longest form; names have 15 characters at most."""


def _protocol(value: Any) -> Any:
    # CloudFormation's `Protocols` is a list, always of one element (reference 2.2).
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise invalid(
            f"`protocols` has {len(value)} elements", "name exactly one protocol, for example [udp]"
        )
    return value[0]


def _public_key(text: str) -> str:
    if not is_key(text):
        raise invalid("this is not a WireGuard public key", "use the 44 characters that `wg pubkey` prints")
    if _native.canonical_public_key(text) is None:
        raise invalid(
            "this public key belongs to nobody: it is all zeros, or another key that no private key has",
            "use the 44 characters that `wg pubkey` prints of the private key of the peer",
        )
    return text


def _secret_key(secret: SecretStr) -> SecretStr:
    if not is_key(secret.get_secret_value()):
        raise invalid(
            "this is not a WireGuard key", "use the 44 characters that `wg genkey` or `wg genpsk` prints"
        )
    return secret


SecretKey = Annotated[SecretStr, AfterValidator(_secret_key)]
"""32 bytes in base64 that nobody is shown."""


def _bind(text: str | None) -> str | None:
    if text is not None:
        parse_bind(text)
    return text


def _group(text: str) -> str:
    try:
        group = ipaddress.ip_address(text)
    except ValueError:
        group = None
    if group is None or not group.is_multicast or "%" in text:
        raise invalid(
            f'"{text}" is not a multicast group',
            "write an address from 224.0.0.0/4 or ff00::/8, such as 224.0.1.187; the interface goes into `interface`",
        )
    return str(group)


def _interface(text: str) -> str:
    if not text.isprintable() or not 0 < len(text) <= INTERFACE_LENGTH or "/" in text or " " in text:
        raise invalid(
            f'"{text}" is not an interface', "write its name, as `ip link` shows it, or one of its addresses"
        )
    return text


class ClientRestrictions(Resource):
    """Who may send to a Listener; the networks bound egress too (contract 4.4)."""

    networks: list[Network] = Field(default_factory=lambda: list(OPEN_NETWORKS))
    """CIDRs of clients. Packets from elsewhere are dropped and counted. None by default where `domains` are given."""
    domains: Domains = Field(default_factory=list)
    """Exact DNS names of clients, at most 100. Their addresses (A and AAAA, at most 64 of each name) are admitted too.
    They are looked up again as their TTLs say, and are no networks that a PacketSource may send to."""

    @model_validator(mode="after")
    def _domains_alone(self) -> Self:
        if self.domains and "networks" not in self.model_fields_set:
            self.networks = []
        return self


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > 255:
        raise invalid("this cannot be shown as a name", "use up to 255 printable characters")
    return text


class Peer(Resource):
    """A WireGuard peer of a Listener (contract section 5)."""

    public_key: Annotated[str, AfterValidator(_public_key)]
    """32 bytes in base64."""
    allowed_ips: list[Network] = Field(default_factory=lambda: list(OPEN_NETWORKS), alias="AllowedIPs")
    """Inner source addresses that this peer may use. A peer that may use all of both families, as by default, may also
    send what is no IP packet."""
    shared_secret: SecretKey | None = Field(default=None, exclude=True)
    """Pre-shared key, 32 bytes in base64. Never printed."""
    persistent_keepalive_seconds: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Send something so often when nothing else is sent, so that a NAT on the way stays open; 0 for never."""
    name: Annotated[str, AfterValidator(_printable)] | None = None
    """For people."""


class Coap(Resource):
    """What the gateway does of CoAP by itself (RFC 7252 section 4), for the one Destination with that formatter.
    Nothing while the section is absent."""

    deduplicate: bool = True
    """A confirmable message that comes again within 247 s gets the answer that was given, and is not delivered
    again."""
    acknowledge_after: Annotated[float, Field(gt=0, le=60)] | None = None
    """Seconds after which a confirmable message without an answer gets an empty acknowledgement. Its answer then leaves
    as a confirmable message, and is repeated until it is acknowledged. Clients repeat after 2 s: 1.5 is a good value.
    Never while absent."""


def _entry(value: Any, info: ValidationInfo) -> Any:
    # A union would report one error for each branch.
    if isinstance(value, str):
        return destination_name(value)
    if isinstance(value, DestinationSpec):
        return value
    return DestinationSpec.model_validate(value, context=info.context)


DestinationEntry = Annotated[DestinationSpec | str, BeforeValidator(_entry)]
"""A Destination, or the name of one that another Listener declares."""


class Multicast(Resource):
    """Multicast groups that a Listener receives from, for discovery (CoAP: RFC 7252, section 8)."""

    groups: Annotated[list[Annotated[str, AfterValidator(_group)]], Field(min_length=1, max_length=20)]
    """IPv4 and IPv6 groups, for example `224.0.1.187` and `ff02::fd`. IPv4 groups need a `bind` that takes IPv4, IPv6
    groups one that takes IPv6."""
    interface: Annotated[str, AfterValidator(_interface)] | None = None
    """Where the groups are joined: an interface by its name or by one of its addresses. Without it the kernel chooses
    by its routes, which is rarely right on a machine with several networks."""


class Listener(Resource):
    """One endpoint: what it binds, who may send, where packets go."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "listener_name": "name",
        "ListenerName": "name",
        "Protocol": "protocol",
        "protocols": "protocol",
    }

    name: Name = ""
    """Unique in the gateway; generated when absent."""
    protocol: Annotated[Protocol, BeforeValidator(_protocol, json_schema_input_type=Protocol)] = Field(
        default="udp", alias="Protocols"
    )
    """`udp` or `wg`; later `dtls` and `webrtc`."""
    bind: Annotated[str | None, BeforeValidator(bind_text), AfterValidator(_bind)] = None
    """`"0.0.0.0:2048"`, `"[::]:2048"` (both families) or an address alone. Without a port one is assigned and
    kept; without an address both families are bound. A link-local address needs its zone, the interface:
    `"[fe80::1%eth0]:2048"`."""
    multicast: Multicast | None = None
    """Groups to receive from. A request to a group is answered from the address of the interface by which it came."""
    client_restrictions: ClientRestrictions = Field(default_factory=ClientRestrictions)
    destinations: list[DestinationEntry] = Field(default_factory=list)
    """Each gets every packet. A name stands for a Destination of another Listener: packets go to the same service with
    the same settings, with a queue, batches and counters of their own."""
    peers: list[Peer] = Field(default_factory=list)
    """WireGuard peers."""
    private_key: SecretKey | None = Field(default=None, exclude=True)
    """The Listener's own WireGuard key, for one that is brought along: without it the gateway makes a key pair, and
    keeps it for the Listener's life. Never printed."""
    key_refresh_token: Annotated[str, Field(min_length=1)] | None = None
    """Any text. A changed one makes a new key pair for a `wg` Listener when it is updated, and sessions with the old
    key end: peers need the new public key. Left out, the key stays. No effect on `udp` Listeners."""
    allow_unknown_peers: bool = False
    """Complete handshakes with keys that are not in `peers`."""
    unknown_peer_pre_shared_key: SecretKey | None = Field(default=None, exclude=True)
    """The pre-shared key that unknown peers must use. Never printed."""
    decapsulated_delivery: bool = False
    """Deliver the payload of inner UDP packets. No effect on `udp` Listeners."""
    coap: Coap | None = None
    """Take part in CoAP's exchanges (`docs/reference/coap.md`)."""
    metrics_enabled: bool = False
    """Publish packets and bytes in and out, and failures, to CloudWatch once a minute, in the name of `role`."""
    log_group_name: LogGroupName | None = None
    """The CloudWatch log group for failures and a sample of arriving packets."""
    session_idle_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300
    """Seconds after its last packet for which a plain UDP remote counts as having a session."""
    description: str | None = None
    role: Role = None
    """The role for `log_group_name` and metrics: its ARN, or `{Arn, Duration}`."""

    @field_serializer("protocol", when_used="json")
    def _protocols(self, protocol: str) -> list[str]:
        return [protocol]

    @model_validator(mode="after")
    def _one_origin_of_the_key(self) -> Self:
        found = self.refreshed_own_key()
        if found is not None:
            raise invalid_at("Listener", [found])
        return self

    @model_validator(mode="after")
    def _groups_of_bound_families(self) -> Self:
        host, _, dual_stack = self.bind_address()
        bound = ipaddress.ip_address(host or "::")
        for index, text in enumerate(self.multicast.groups if self.multicast else ()):
            if bound.is_unspecified and (dual_stack or bound.version == ipaddress.ip_address(text).version):
                continue
            finding = Finding(
                ("multicast", "groups", index),
                f"a Listener at {self.bind} receives nothing from the group {text}",
                'write `bind: "[::]:PORT"`, which takes both families, or leave `bind` out',
            )
            raise invalid_at("Listener", [finding])
        return self

    def refreshed_own_key(self) -> Finding | None:
        """What is wrong where a key of the user's own is to be refreshed: only the gateway's keys can be."""
        if self.private_key is None or self.key_refresh_token is None or self.protocol != "wg":
            return None
        return Finding(
            ("key_refresh_token",),
            "`key_refresh_token` makes a new key pair, and this Listener has a `private_key` of your own",
            "change `private_key` for another key, or remove it (null over the API) so that the gateway makes the keys",
        )

    @property
    def destination_specs(self) -> list[DestinationSpec]:
        """The Destinations that this Listener declares itself; all of them once `shared.resolved` has seen it."""
        return [entry for entry in self.destinations if isinstance(entry, DestinationSpec)]

    def bind_address(self) -> BindAddress:
        """`(host, port, dual_stack)`: host None for every address, port None for one to be assigned."""
        return parse_bind(self.bind) if self.bind else BindAddress(None, None, True)
