"""Which events somebody wants to see, for both kinds: those of single packets are filtered by the native side, as far
as it can (`native`), everything else here (`takes`)."""

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from sluicegate.events.types import NATIVE, TYPES, Direction

RATE = 100
RATE_LIMIT = 10_000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_DIRECTIONS: dict[str, Direction] = {"in": "in", "out": "out"}
_REASONED = ("PacketRejected",)  # of the native events, those that have a Reason


class FilterError(ValueError):
    """Whoever asked has to ask differently; the message is a sentence that says how."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty and None mean everything. `rate` is in events of single packets a second and Listener."""

    listeners: frozenset[str] = frozenset()
    network: Network | None = None
    port: int | None = None
    direction: Direction | None = None
    reasons: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    rate: int = RATE

    @classmethod
    def parse(cls, wanted: Mapping[str, list[str]]) -> "Filter":
        """From texts, as a query string has them: `listener`, `reason` and `event` any number of times, `remote`
        (address, CIDR or address:port), `direction` (in, out) and `rate` once. Raises `FilterError`.
        """
        for name, values in wanted.items():
            if name not in ("listener", "remote", "direction", "reason", "event", "rate"):
                raise FilterError(
                    f"there is no filter {name!r}: use listener, remote, direction, reason, event, rate"
                )
            if name in ("remote", "direction", "rate") and len(values) > 1:
                raise FilterError(f"give {name} once")
        network, port = _remote(wanted["remote"][0]) if "remote" in wanted else (None, None)
        return cls(
            frozenset(wanted.get("listener", ())),
            network,
            port,
            _direction(wanted["direction"][0]) if "direction" in wanted else None,
            frozenset(wanted.get("reason", ())),
            frozenset(map(_event, wanted.get("event", ()))),
            _rate(wanted["rate"][0]) if "rate" in wanted else RATE,
        )

    def native(self, listener: str) -> str | None:
        """What to ask `Port.events` of this Listener for; None when none of its packets' events are wanted."""
        if self.listeners and listener not in self.listeners:
            return None
        names = [
            name
            for name in NATIVE
            if (not self.events or name in self.events)
            and self.direction in (None, TYPES[name].direction)
            and (not self.reasons or name in _REASONED)
        ]
        if not names:
            return None
        spec: dict[str, object] = {"Events": names, "Rate": self.rate, "Port": self.port}
        spec["Remotes"] = None if self.network is None else [str(self.network)]
        return json.dumps(spec)

    def takes(self, event: Mapping[str, object]) -> bool:
        """True if it is wanted. Notes about the stream itself always are, of a wanted Listener."""
        listener = event.get("Listener")
        known = TYPES.get(str(event.get("Event")))
        if known is not None and known.kind == "note":
            return not self.listeners or listener is None or listener in self.listeners
        return (
            (not self.listeners or listener in self.listeners)
            and (not self.events or event.get("Event") in self.events)
            and (not self.reasons or event.get("Reason") in self.reasons)
            and (self.direction is None or (known is not None and known.direction == self.direction))
            and self._takes_remote(event.get("Remote"))
        )

    @property
    def is_exact(self) -> bool:
        """True when `native` says it all."""
        return not self.reasons

    def _takes_remote(self, remote: object) -> bool:
        if self.network is None:
            return True
        if not isinstance(remote, Mapping):
            return False
        # What a publisher wrote has other names (contract section 4.1).
        text = remote.get("IpAddress") or remote.get("Address") or remote.get("IP")
        try:
            address = _plain(ipaddress.ip_address(str(text)))
        except ValueError:
            return False
        return address in self.network and self.port in (None, remote.get("Port"))


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return getattr(address, "ipv4_mapped", None) or address


def _remote(text: str) -> tuple[Network, int | None]:
    host, port = text, None
    try:
        if text.startswith("[") or text.count(":") == 1:
            host, _, number = text.rpartition(":")
            host, port = host.strip("[]"), int(number)
            if not 0 < port <= 65535:
                raise ValueError
        if "/" in host:
            return ipaddress.ip_network(host, strict=False), port
        return ipaddress.ip_network(_plain(ipaddress.ip_address(host))), port
    except ValueError:
        forms = "192.0.2.1, 10.0.0.0/8, 192.0.2.1:4567 or [2001:db8::1]:4567"
        raise FilterError(f"{text[:100]!r} is no remote: use {forms}") from None


def _direction(text: str) -> Direction:
    found = _DIRECTIONS.get(text)
    if found is None:
        raise FilterError(f"{text[:100]!r} is no direction: use in or out")
    return found


def _event(text: str) -> str:
    if text in TYPES:
        return text
    near = get_close_matches(text, TYPES, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TYPES)}"
    raise FilterError(f"there is no event {text[:100]!r}: {hint}")


def _rate(text: str) -> int:
    if text.isdecimal() and len(text) < 10 and 1 <= int(text) <= RATE_LIMIT:
        return int(text)
    raise FilterError(f"{text[:100]!r} is no rate: use 1 to {RATE_LIMIT} events a second")
