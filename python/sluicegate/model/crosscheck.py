"""What concerns several resources of one gateway: generated names, unique names, references, shared ports.

These work on documents that may not be valid (pydantic looks at each resource at the same time, see
`GatewayConfig`), so they take nothing for granted and stay silent about what another check will report.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticCustomError

from sluicegate import _native
from sluicegate.model.address import BindAddress, BoundAddresses, parse_bind
from sluicegate.model.base import Finding, Path, Resource
from sluicegate.model.destination import DestinationSpec
from sluicegate.model.listener import Listener, Peer
from sluicegate.model.names import is_destination_name
from sluicegate.model.packet_source import PacketSource, SnsTopicSource
from sluicegate.model.publickey import canonical, is_key, own_key_among
from sluicegate.model.shared import not_one
from sluicegate.model.text import some


def with_names(data: dict[Any, Any]) -> dict[Any, Any]:
    """`data` (field names) where each Listener, Destination and PacketSource has a name, made from its
    position."""
    named = dict(data)
    if "listeners" in data:
        listeners = _named(data["listeners"], Listener, lambda position: f"listener-{position}")
        named["listeners"] = (
            [_named_destinations(item) for item in listeners] if _is_list(listeners) else listeners
        )
    if "packet_sources" in data:
        named["packet_sources"] = _named(
            data["packet_sources"], PacketSource, lambda position: f"packet-source-{position}"
        )
    return named


def cross_check(data: dict[Any, Any]) -> list[Finding]:
    """Findings about the gateway as a whole; `data` is a document that `with_names` has seen, or parts of one."""
    listeners = list(_items(data.get("listeners"), Listener, ("listeners",)))
    sources = list(_items(data.get("packet_sources"), PacketSource, ("packet_sources",)))
    destinations = {path: list(_destinations(path, listener)) for path, listener in listeners}
    return [
        *_duplicates("Listener", _with_paths(Listener, listeners)),
        *(found for named in destinations.values() for found in _duplicates("Destination", named)),
        *_duplicates("PacketSource", _with_paths(PacketSource, sources)),
        *_unknown_destinations(listeners),
        *_coap_destinations(listeners),
        *_repeated_peers(listeners),
        *_own_keys(listeners),
        *_unknown_listeners(listeners, sources),
        *_shared_ports(listeners),
        *_too_few_ports(data.get("ports"), listeners),
        *_ordered_topics(data, sources),
    ]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _named(items: Any, model: type[Resource], make: Callable[[int], str]) -> Any:
    if not _is_list(items):
        return items
    return [_with_name(item, model, make(position)) for position, item in enumerate(items, 1)]


def _with_name(item: Any, model: type[Resource], name: str) -> Any:
    if isinstance(item, model):
        return item if model.peek(item, "name") else item.model_copy(update={"name": name})
    if not isinstance(item, dict) or model.peek(item, "name") is not None:
        return item
    spellings = model.spellings()
    return {key: value for key, value in item.items() if spellings.get(key) != "name"} | {"name": name}


def _named_destinations(listener: Any) -> Any:
    destinations = Listener.peek(listener, "destinations")
    if not destinations or not _is_list(destinations):
        return listener
    # A Destination's name takes fewer characters than a Listener's.
    stem = re.sub(r"[^A-Za-z0-9-]", "-", str(Listener.peek(listener, "name")))
    named = _named(destinations, DestinationSpec, lambda position: f"{stem}-destination-{position}")
    if isinstance(listener, Listener):
        return listener.model_copy(update={"destinations": named})
    spellings = Listener.spellings()
    return {key: named if spellings.get(key) == "destinations" else value for key, value in listener.items()}


def _items(items: Any, model: type[Resource], path: Path) -> Iterator[tuple[Path, Any]]:
    for index, item in enumerate(items) if _is_list(items) else ():
        if isinstance(item, dict | model):
            yield (*path, index), item


def _with_paths(model: type[Resource], items: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """`(path of the name, name)` of each resource."""
    return [((*path, "name"), model.peek(item, "name")) for path, item in items]


def _destinations(path: Path, listener: Any) -> Iterator[tuple[Path, Any]]:
    """`(path of the name, name)` of each Destination of a Listener, also of one that a string names."""
    entries = Listener.peek(listener, "destinations")
    for index, entry in enumerate(entries) if _is_list(entries) else ():
        place = (*path, "destinations", index)
        yield (
            (place, entry)
            if isinstance(entry, str)
            else ((*place, "name"), DestinationSpec.peek(entry, "name"))
        )


def _duplicates(kind: str, names: list[tuple[Path, Any]]) -> Iterator[Finding]:
    seen: set[str] = set()
    where = " of this Listener" if kind == "Destination" else ""
    for path, name in names:
        if not isinstance(name, str):
            continue
        if name in seen:
            yield Finding(path, f'two {kind}s{where} are named "{name}"', "give each its own name")
        seen.add(name)


def _unknown_destinations(listeners: list[tuple[Path, Any]]) -> Iterator[Finding]:
    """Strings that do not name a Destination of exactly one other Listener."""
    declared: dict[str, list[str]] = {}
    strings: list[tuple[Path, str, str]] = []
    for path, listener in listeners:
        owner = str(Listener.peek(listener, "name"))
        for place, name in _destinations(path, listener):
            if isinstance(name, str) and place[-1] == "name":
                declared.setdefault(name, []).append(owner)
            elif isinstance(name, str):
                strings.append((place, name, owner))
    for place, name, owner in strings:
        # One of its own is two of one name, which is said already.
        if is_destination_name(name) and owner not in declared.get(name, ()):
            problem = not_one(name, declared)
            if problem is not None:
                yield Finding(place, *problem)


def _coap_destinations(listeners: list[tuple[Path, Any]]) -> Iterator[Finding]:
    """Listeners with `coap` that have not exactly one Destination of this formatter."""
    # A string names a Destination of a name that one Listener alone uses; a Listener's own may be named like others.
    shared = {
        DestinationSpec.peek(entry, "name"): DestinationSpec.peek(entry, "formatter")
        for path, listener in listeners
        for _, entry in _items(Listener.peek(listener, "destinations"), DestinationSpec, path)
        if isinstance(DestinationSpec.peek(entry, "name"), str)
    }
    for path, listener in listeners:
        entries = Listener.peek(listener, "destinations")
        if Listener.peek(listener, "coap") is None or not _is_list(entries) or not entries:
            continue
        speaking = [
            place
            for entry, (place, _) in zip(entries, _destinations(path, listener), strict=True)
            if (shared.get(entry) if isinstance(entry, str) else DestinationSpec.peek(entry, "formatter"))
            == "coap"
        ]
        if not speaking:
            cause = "none of this Listener's Destinations has the formatter coap, so nobody answers CoAP"
            yield Finding((*path, "coap"), cause, "give one of them `formatter: coap`, or remove `coap`")
        for place in speaking[1:]:
            cause = "two Destinations of this Listener have the formatter coap, and with `coap` one of them answers"
            yield Finding(place, cause, "give the other one another formatter, or remove `coap`")


def _keys(path: Path, listener: Any) -> Iterator[tuple[Path, Any]]:
    """`(path, public key)` of each peer of a Listener."""
    for place, peer in _items(Listener.peek(listener, "peers"), Peer, (*path, "peers")):
        yield (*place, "public_key"), Peer.peek(peer, "public_key")


def _repeated_peers(listeners: list[tuple[Path, Any]]) -> Iterator[Finding]:
    for path, listener in listeners:
        seen: set[object] = set()
        for place, key in _keys(path, listener):
            if not isinstance(key, str):
                continue
            if canonical(key) in seen:
                yield Finding(place, "two peers have this key", "remove one of them")
            seen.add(canonical(key))


def _own_keys(listeners: list[tuple[Path, Any]]) -> Iterator[Finding]:
    """Peers with the public key of their Listener, where that has a key of the user's."""
    for path, listener in listeners:
        private = Listener.peek(listener, "private_key")
        text = private.get_secret_value() if isinstance(private, SecretStr) else private
        if isinstance(text, str) and is_key(text):
            found = own_key_among(_keys(path, listener), _native.public_key(text))
            if found is not None:
                yield found


def _unknown_listeners(
    listeners: list[tuple[Path, Any]], sources: list[tuple[Path, Any]]
) -> Iterator[Finding]:
    names = {name: None for _, item in listeners if isinstance(name := Listener.peek(item, "name"), str)}
    for path, item in sources:
        wanted = PacketSource.peek(item, "listener_name")
        if isinstance(wanted, str) and wanted not in names:
            fix = f"use one of: {some(names)}" if names else "add the Listener under `listeners`"
            yield Finding((*path, "listener_name"), f'there is no Listener named "{wanted}"', fix)


def _shared_ports(listeners: list[tuple[Path, Any]]) -> Iterator[Finding]:
    bound = BoundAddresses[str]()
    for path, item in listeners:
        address = _bound(item)
        if address is None or address.port is None:
            continue
        taken = bound.holder(address)
        if taken is not None:
            cause = f'port {address.port} is also bound by the Listener "{taken}" on an overlapping address'
            yield Finding((*path, "bind"), cause, "choose another port or address, or leave the port out")
        bound.add(address, str(Listener.peek(item, "name")))


def _too_few_ports(ports: Any, listeners: list[tuple[Path, Any]]) -> Iterator[Finding]:
    """Listeners without a port are assigned one each, and no port that another Listener names."""
    low, _, high = ports.partition("-") if isinstance(ports, str) else ("", "", "")
    if not (low.strip().isdecimal() and high.strip().isdecimal() and int(low) <= int(high) <= 65_535):
        return
    wanted = [address.port if (address := _bound(item)) is not None else None for _, item in listeners]
    assigned, named = wanted.count(None), {port for port in wanted if port is not None}
    free = len(set(range(int(low), int(high) + 1)) - named)
    if assigned > free:
        cause = (
            f"{assigned} Listeners are assigned ports, and this range has {free} that no other Listener names"
        )
        yield Finding(("ports",), cause, "widen it, or write the ports of Listeners in their `bind`")


def _bound(listener: Any) -> BindAddress | None:
    """What a Listener binds; None if it does not say, or nothing that can be read."""
    text = Listener.peek(listener, "bind")
    try:
        return parse_bind(text) if isinstance(text, str) else None
    except PydanticCustomError:
        return None


def _ordered_topics(data: dict[Any, Any], sources: list[tuple[Path, Any]]) -> Iterator[Finding]:
    """The gateway's own SNS endpoint has no FIFO topics."""
    for path, source in sources if data.get("sns") is not None else ():
        arn = SnsTopicSource.peek(PacketSource.peek(source, "sns_topic_source"), "topic_arn")
        if isinstance(arn, str) and arn.endswith(".fifo"):
            cause = "the gateway's own SNS endpoint (`sns`) has no FIFO topics"
            fix = "use a standard topic, or leave `sns` out to use topics on AWS"
            yield Finding((*path, "sns_topic_source", "topic_arn"), cause, fix)
