"""Addresses as users write them: networks, `host:port` of our servers, and a Listener's `Bind`."""

import ipaddress
import re
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import AfterValidator

from sluicegate.model.base import invalid
from sluicegate.model.text import endpoint_text

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPV4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
BROADCAST = ipaddress.IPv4Address("255.255.255.255")
T = TypeVar("T")


def _network(text: str) -> str:
    try:
        return str(_unmapped(ipaddress.ip_network(text)))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise invalid(
            f'"{text}" is not a network', "write it as ADDRESS/PREFIX, for example 192.0.2.0/24"
        ) from None
    raise invalid(f'"{text}" is an address inside a network, not the network', f"write {meant}")


def _unmapped(network: IPNetwork) -> IPNetwork:
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < IPV4_MAPPED.prefixlen:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - IPV4_MAPPED.prefixlen))


Network = Annotated[str, AfterValidator(_network)]
"""A CIDR network in its canonical form. An address alone is that address; host bits set are an error. A network of
IPv4-mapped addresses (`::ffff:192.0.2.0/120`) is read as IPv4: IPv4 clients always appear as IPv4."""


class BindAddress(NamedTuple):
    """`host` None: all addresses. `port` None: one is assigned. `dual_stack`: an IPv6 socket that takes IPv4
    too."""

    host: str | None
    port: int | None
    dual_stack: bool

    def overlaps(self, other: "BindAddress") -> bool:
        """True when both cannot be bound at the same time because they share a fixed port and an address."""
        if self.port is None or self.port != other.port:
            return False
        mine, theirs = ipaddress.ip_address(self.host or "::"), ipaddress.ip_address(other.host or "::")
        if self.dual_stack or other.dual_stack:
            wide, narrow = (mine, theirs) if self.dual_stack else (theirs, mine)
            return wide.is_unspecified or wide == narrow
        same_family = mine.version == theirs.version
        return same_family and (mine == theirs or mine.is_unspecified or theirs.is_unspecified)

    def held(self) -> list[tuple[int, str]]:
        """The slots that an address takes: `(port, what)`. Two addresses overlap if one holds a slot that the other one
        excludes."""
        ip = ipaddress.ip_address(self.host or "::")
        if self.dual_stack and ip.is_unspecified:
            return self._slots("any", "both")
        family = f"v{ip.version}"
        return self._slots("any", family, f"{family} wildcard" if ip.is_unspecified else str(ip))

    def excluded(self) -> list[tuple[int, str]]:
        """The slots (`held`) beside which an address cannot be bound."""
        ip = ipaddress.ip_address(self.host or "::")
        if self.dual_stack and ip.is_unspecified:
            return self._slots("any")
        family = f"v{ip.version}"
        if ip.is_unspecified:
            return self._slots("both", family)
        return self._slots("both", f"{family} wildcard", str(ip))

    def _slots(self, *what: str) -> list[tuple[int, str]]:
        return [] if self.port is None else [(self.port, one) for one in what]


class BoundAddresses(Generic[T]):
    """Who has bound what: `holders` finds in one step what `BindAddress.overlaps` would find one by one.

    >>> bound = BoundAddresses[str]()
    >>> bound.add(parse_bind("127.0.0.1:2048"), "decoder")
    >>> bound.holders(parse_bind("[::]:2048")), bound.holders(parse_bind("127.0.0.2:2048"))
    (['decoder'], [])
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], list[tuple[int, T]]] = {}
        """The holders of each slot, numbered in the order in which they came."""
        self._added = 0

    def add(self, address: BindAddress, holder: T) -> None:
        """Note who holds an address. Nothing is noted of one without a port."""
        self._added += 1
        for slot in address.held():
            self._held.setdefault(slot, []).append((self._added, holder))

    def holders(self, address: BindAddress) -> list[T]:
        """The holders of addresses that overlap this one, in the order in which they came."""
        found = [one for slot in address.excluded() for one in self._held.get(slot, ())]
        return [holder for _, holder in sorted(found, key=lambda one: one[0])]

    def holder(self, address: BindAddress) -> T | None:
        """The first of `holders`; None if there are none."""
        found = [held[0] for slot in address.excluded() if (held := self._held.get(slot))]
        return min(found, key=lambda one: one[0])[1] if found else None


def parse_bind(text: str) -> BindAddress:
    """A Listener's `Bind` (contract 1.1): `0.0.0.0:2048`, `[::]:2048`, or an address alone.

    Port 0 is the usual way to ask for any port and means the same as none. `[::]` takes IPv4 as well, as it
    does by default on Linux: otherwise nobody could choose the port of a dual-stack Listener. A link-local address has
    a zone, the interface by name or index: `[fe80::1%eth0]:2048`.
    """
    host, port = _split(text)
    address = _listener_address(text, host, port)
    dual_stack = address.version == 6 and address.is_unspecified
    return BindAddress(str(address), port or None, dual_stack)


def parse_server(text: str) -> tuple[str, int]:
    """`host:port` of one of our own TCP servers; port 0 lets the kernel choose. The port is required."""
    host, port = _split(text)
    if port is None and _is_address(host):
        raise invalid(
            f'"{text}" has no port', f"write it as ADDRESS:PORT, for example {endpoint_text(host, 8080)}"
        )
    address = "127.0.0.1" if host == "localhost" else str(_address(text, host))
    if port is None:
        raise invalid('"localhost" has no port', "write it as ADDRESS:PORT, for example 127.0.0.1:8080")
    return address, port


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    return ipaddress.ip_address(host).is_loopback


def _split(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise _not_an_address(text)
        return host, _port(text, tail[1:]) if tail else None
    if text.count(":") > 1:
        head, _, tail = text.rpartition(":")
        if tail.isdecimal() and _is_ipv6(head) and _is_ipv6(text):
            raise invalid(f'"{text}" can be read in two ways', f'write "[{head}]:{tail}" or "[{text}]"')
        return text, None
    host, colon, tail = text.partition(":")
    return host, _port(text, tail) if colon else None


def _port(text: str, tail: str) -> int:
    if not (tail.isascii() and tail.isdecimal()) or len(tail) > 5 or int(tail) > 65535:
        raise invalid(f'"{tail}" in "{text}" is not a port', "use a number from 1 to 65535")
    return int(tail)


def _is_ipv6(text: str) -> bool:
    return _is_address(text) and ":" in text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _address(text: str, host: str) -> IPAddress:
    try:
        if "%" not in host:
            return ipaddress.ip_address(host)
    except ValueError:
        pass
    raise _not_an_address(text)


def _listener_address(text: str, host: str, port: int | None) -> IPAddress:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise _not_an_address(text) from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        fix = f'write the IPv4 address: "{endpoint_text(str(address.ipv4_mapped), port or 2048)}"'
        raise invalid(f'"{text}" is an IPv4 address in the form of IPv6, which no socket binds', fix)
    everywhere = f"[::]{'' if port is None else f':{port}'}"
    if address.is_multicast:
        raise invalid(
            f"{host} is a multicast group: a Listener bound to it receives nothing and cannot answer",
            f'write `bind: "{everywhere}"` and `multicast: {{ groups: ["{host.partition("%")[0]}"] }}`',
        )
    if address == BROADCAST:
        raise invalid(
            f"{host} is the broadcast address, and nothing can be sent from it",
            f'write `bind: "{everywhere}"`: broadcast datagrams arrive there too',
        )
    zone = getattr(address, "scope_id", None)
    if zone is None and address.version == 6 and address.is_link_local:
        tail = "" if port is None else f":{port}"
        raise invalid(
            f"{host} is link-local, and it is not said at which interface",
            f'add the interface, for example "[{host}%eth0]{tail}"',
        )
    if zone is not None and not address.is_link_local:
        raise invalid(f'"{text}" has a zone and is not link-local', "leave out what follows the %")
    return address


_FORM = 'write a numeric address and a port, for example "0.0.0.0:2048" or "[::]:2048"'


def bind_text(value: Any) -> Any:
    """A `Bind` as it may stand in YAML: a number there is a port alone. Raises an `invalid` error for it."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise _port_alone(str(value))
    if isinstance(value, list) and len(value) == 1:
        raise invalid("a list stands here, and one address is bound", f'write it as text: "{value[0]}"')
    if value is not None and not isinstance(value, str):
        raise invalid("no address stands here", _FORM)
    return value


_PORT = re.compile(r":?(\d+)", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://(.*)", re.ASCII)
_NAME = re.compile(r"([a-zA-Z_][\w.-]*)(:\d+)?", re.ASCII)


def _not_an_address(text: str) -> Exception:
    """What is likely meant."""
    if (match := _PORT.fullmatch(text)) or (match := re.fullmatch(r"\*:(\d+)", text, re.ASCII)):
        return _port_alone(match[1], text)
    if match := _URL.fullmatch(text):
        return invalid(f'"{text}" is a URL, and an address is bound', f'write "{match[1].rstrip("/")}"')
    if match := _NAME.fullmatch(text):
        name, port = match[1], match[2] or ""
        if name == "localhost":
            return invalid(
                '"localhost" is a name for two addresses, and one is bound',
                f'write "127.0.0.1{port}" (IPv4) or "[::1]{port}" (IPv6)',
            )
        return invalid(
            f'"{name}" is a name, and a numeric address of this machine is bound',
            f'write "0.0.0.0{port}" (every IPv4 address), "[::]{port}" (IPv6 too), or one of those that `ip address` '
            "lists",
        )
    return invalid(
        f'"{text}" is not an address of this machine',
        _FORM,
    )


def _port_alone(port: str, text: str = "") -> Exception:
    return invalid(
        f"{text or port} is a port without an address",
        f'write "0.0.0.0:{port}" for every IPv4 address of this machine, or "[::]:{port}" for IPv6 too',
    )
