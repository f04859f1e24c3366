"""A Listener as the native side takes it (`_native.Port`)."""

from collections.abc import Sequence

from sluicegate.destinations import Destination
from sluicegate.model import Coap, DestinationSpec, Listener, PacketSource

# What one Listener may hold in memory, at most: its ring, plus this for each Destination, plus the session table
# (about 100 bytes a remote).
RING_BYTES = 32 << 20
DESTINATION_QUEUE_BYTES = 64 << 20
SESSION_LIMIT = 65_536
BYTES_PER_MB = 1 << 20

LISTENER_DESCRIPTORS = 1
"""File descriptors that the native side holds for a Listener while it runs: its socket. Everything that the event loop
waits for shares one (`Dataplane.fileno`)."""

# The window in which an entry's `Id` is recognised, for each PacketSource (contract 4.1): whichever ends first.
DEDUP_SECONDS = 600.0
DEDUP_LIMIT = 1_000_000


def listener_spec(
    listener: Listener,
    listener_id: int,
    domain: str,
    resolved: Sequence[str],
    destinations: Sequence[tuple[DestinationSpec, Destination | None, bool]],
    sources: Sequence[tuple[PacketSource, bool]],
) -> dict[str, object]:
    """Everything but where to bind. `resolved` are the addresses of its `Domains`, as networks. `destinations` and
    `sources` by their places, the flag is true for removed ones; a Destination that is None has no ARN here."""
    return {
        "Id": listener_id,
        "Name": listener.name,
        "Domain": domain,
        "Bind": "0.0.0.0:0",
        "ClientNetworks": [*listener.client_restrictions.networks, *resolved],
        "SessionIdleSeconds": listener.session_idle_seconds,
        "SessionLimit": SESSION_LIMIT,
        "RingBytes": RING_BYTES,
        "Coap": _coap(listener.coap),
        "Destinations": [_destination(*one) for one in destinations],
        "Sources": [_source(listener, *one) for one in sources],
    }


def _destination(resource: DestinationSpec, made: Destination | None, removed: bool) -> dict[str, object]:
    return {
        "Name": resource.name,
        "Formatter": resource.formatter,
        "Filter": resource.filter_expression,
        "Values": [
            {"Name": name, "Expression": expression.text, "Formatter": expression.formatter}
            for name, expression in (made.expressions.items() if made is not None else ())
        ],
        "Count": resource.batching.count,
        "TimeoutSeconds": resource.batching.timeout_in_seconds,
        "SizeBytes": _batch_bytes(resource.batching.size_in_mb, made),
        "QueueBytes": DESTINATION_QUEUE_BYTES,
        "Bound": made is not None,
        "Removed": removed,
    }


def _coap(coap: Coap | None) -> dict[str, object] | None:
    if coap is None:
        return None
    return {"Deduplicate": coap.deduplicate, "AcknowledgeAfter": coap.acknowledge_after}


def _source(listener: Listener, source: PacketSource, removed: bool) -> dict[str, object]:
    networks = source.egress_networks
    return {
        "Name": source.name,
        "EgressNetworks": networks if networks is not None else listener.client_restrictions.networks,
        "DefaultTtlSeconds": source.default_ttl_seconds,
        "HoldSeconds": source.hold_seconds,
        "RateLimit": source.rate_limit.dump() if source.rate_limit else None,
        "RequireSession": source.require_session,
        "DedupSeconds": DEDUP_SECONDS,
        "DedupLimit": DEDUP_LIMIT,
        "Removed": removed,
    }


def _batch_bytes(size_in_mb: float, destination: Destination | None) -> int:
    size = int(size_in_mb * BYTES_PER_MB)
    limit = destination.batch_bytes_limit if destination is not None else None
    return size if limit is None else min(size, limit)
