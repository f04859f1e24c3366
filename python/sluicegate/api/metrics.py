"""`/metrics`: every counter of a gateway as Prometheus text (contract section 6).

The numbers are read when they are asked for: the native side's from `Port.stats`, delivery's from each
Destination's statistics, events' from the event log. Nothing is counted here.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sluicegate.deadletters.queue import DeadLetterStats
from sluicegate.destinations.delivery import DeliveryStats
from sluicegate.events import EventLog
from sluicegate.running.domains import DomainStats
from sluicegate.sources.local.topics import Topics
from sluicegate.sources.topic.consumer import SourceStats


class PortStats(Protocol):
    """The part of `_native.Port` that counts."""

    def stats(self) -> str: ...


@dataclass(slots=True)
class MetricSources:
    """Where the numbers come from. `deliveries` are `(listener, destination, statistics)`, `dead_letters`
    `(queue, statistics)`, `queues` `(listener, PacketSource, statistics)`, `domains` `(name, statistics)`."""

    ports: Sequence[PortStats] = ()
    deliveries: Sequence[tuple[str, str, DeliveryStats]] = ()
    events: EventLog | None = None
    topics: Topics | None = None
    queues: Sequence[tuple[str, str, SourceStats]] = ()
    dead_letters: Sequence[tuple[str, DeadLetterStats]] = ()
    domains: Sequence[tuple[str, DomainStats]] = ()


def exposition(read: Callable[[], MetricSources]) -> Callable[[], bytes]:
    """A function that renders the current numbers. `read` is called for each rendering."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_GatewayCollector(read))
    return lambda: generate_latest(registry)


@dataclass(slots=True)
class _Spec:
    """A metric fed from one key of the native JSON. With `by` the value is a map, and that label its key."""

    name: str
    key: str
    help: str
    by: str = ""
    gauge: bool = False


_LISTENER = (
    _Spec("received_packets", "ReceivedPackets", "Datagrams that the Listener received."),
    _Spec("received_bytes", "ReceivedBytes", "Payload bytes that the Listener received."),
    _Spec(
        "kernel_dropped_packets",
        "KernelDrops",
        "Datagrams that the kernel dropped before the gateway saw them (a lower bound with coalescing).",
    ),
    _Spec("rejected_packets", "Rejected", "Datagrams that were refused on arrival.", by="reason"),
    _Spec("sent_packets", "SentPackets", "Datagrams that the Listener sent."),
    _Spec("sent_bytes", "SentBytes", "Payload bytes that the Listener sent."),
    _Spec("icmp_errors", "IcmpErrors", "ICMP errors that came back after sending.", by="type"),
    _Spec("egress_ring_bytes", "RingBytes", "Bytes that wait to be sent.", gauge=True),
    _Spec("egress_ring_messages", "RingMessages", "Messages and answers that wait to be sent.", gauge=True),
)
_WIREGUARD = (
    _Spec(
        "wireguard_handshake_messages", "HandshakeMessages", "Handshake messages that were read and accepted."
    ),
    _Spec("wireguard_sessions", "Sessions", "Sessions that both sides have used."),
    _Spec("wireguard_initiations_sent", "InitiationsSent", "Handshakes that the gateway began."),
    _Spec("wireguard_responses_sent", "ResponsesSent", "Handshakes of peers that were answered."),
    _Spec("wireguard_cookies_sent", "CookiesSent", "Cookies asked for under load."),
    _Spec("wireguard_keepalives_received", "KeepalivesReceived", "Keepalives of peers."),
    _Spec("wireguard_keepalives_sent", "KeepalivesSent", "Keepalives to peers."),
    _Spec("wireguard_unanswered_handshakes", "Unanswered", "Handshakes that the gateway gave up."),
    _Spec("wireguard_echoes_answered", "EchoesAnswered", "ICMP echo requests inside that were answered."),
    _Spec("wireguard_live_peers", "LivePeers", "Peers with a session or a handshake.", gauge=True),
)
_DESTINATION = (
    _Spec("destination_packets", "Packets", "Packets put into batches for the Destination."),
    _Spec("destination_batches", "Batches", "Batches made for the Destination."),
    _Spec("destination_dropped_packets", "Dropped", "Packets not delivered, by reason.", by="reason"),
    _Spec("destination_queued_packets", "QueuedPackets", "Packets that wait to be delivered.", gauge=True),
    _Spec("destination_queued_bytes", "QueuedBytes", "Bytes that wait to be delivered.", gauge=True),
    _Spec("destination_replies", "Replies", "Replies that handlers gave."),
    _Spec("destination_replies_sent", "RepliesSent", "Replies that were sent."),
    _Spec(
        "destination_replies_failed", "RepliesFailed", "Replies that were not sent, by reason.", by="reason"
    ),
)
_SOURCE = (
    _Spec("source_messages", "Messages", "Messages that the PacketSource took."),
    _Spec("source_entries", "Entries", "Entries of those messages."),
    _Spec("source_sent_packets", "Sent", "Entries that were sent."),
    _Spec("source_sent_bytes", "SentBytes", "Payload bytes that were sent."),
    _Spec("source_duplicates", "Duplicates", "Entries not sent because they had been sent before."),
    _Spec("source_failed_entries", "Failed", "Entries that were not sent, by reason.", by="reason"),
)

_QUEUE = (
    ("received", "Messages received from the source's queues on AWS.", False),
    ("redelivered", "Those of them that SQS had given out before.", False),
    ("repeated", "Those of them that had ended, or are being sent: deleted, not sent again.", False),
    ("skipped", "Those of them that another region's gateway sends.", False),
    ("deleted", "Messages deleted from the queues.", False),
    ("extended", "Times that a message was kept from others for longer.", False),
    ("extend_failures", "Times that this failed: the message comes again.", False),
    ("poll_errors", "Receive requests that failed.", False),
    ("delete_errors", "Deletes that failed; they are tried again.", False),
    ("in_flight", "Messages received and not yet deleted.", True),
    ("polls", "Receive requests under way.", True),
)
"""Fields of `SourceStats`: name, help, gauge."""


@dataclass
class _Families:
    """Metric families by name, made when first fed, so that an empty gateway still exposes what it can."""

    made: dict[str, CounterMetricFamily | GaugeMetricFamily] = field(default_factory=dict)

    def add(
        self, name: str, help_text: str, labels: Mapping[str, str], value: float, *, gauge: bool = False
    ) -> None:
        family = self.made.get(name)
        if family is None:
            kind = GaugeMetricFamily if gauge else CounterMetricFamily
            family = self.made[name] = kind(f"sluicegate_{name}", help_text, labels=list(labels))
        family.add_metric(list(labels.values()), value)

    def feed(self, specs: Iterable[_Spec], stats: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        for spec in specs:
            value = stats.get(spec.key, {} if spec.by else 0)
            if not spec.by:
                self.add(spec.name, spec.help, labels, value, gauge=spec.gauge)
                continue
            for key, count in value.items():
                self.add(spec.name, spec.help, {**labels, spec.by: key}, count)


class _GatewayCollector(Collector):
    def __init__(self, read: Callable[[], MetricSources]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect once at registration, before the gateway runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        sources = self._read()
        families = _Families()
        for port in sources.ports:
            stats = json.loads(port.stats())
            listener = {"listener": stats["Listener"]}
            families.feed(_LISTENER, stats, listener)
            if "WireGuard" in stats:
                families.feed(_WIREGUARD, stats["WireGuard"], listener)
            for destination in _live(stats.get("Destinations", ())):
                families.feed(_DESTINATION, destination, {**listener, "destination": destination["Name"]})
            for source in _live(stats.get("Sources", ())):
                families.feed(_SOURCE, source, {**listener, "packet_source": source["Name"]})
        for listener_name, destination_name, delivery in sources.deliveries:
            _feed_delivery(families, {"listener": listener_name, "destination": destination_name}, delivery)
        if sources.events is not None:
            for event, count in sources.events.counts().items():
                families.add("events", "Events by name, suppressed lines included.", {"event": event}, count)
            for sink, count in sources.events.dropped().items():
                families.add(
                    "events_dropped", "Event lines that a sink could not take.", {"sink": sink}, count
                )
        if sources.topics is not None:
            topics = sources.topics
            families.add("sns_unrouted_messages", "Messages to topics without source.", {}, topics.unrouted)
            families.add("sns_throttled_messages", "Messages refused as Throttled.", {}, topics.throttled)
        for listener_name, source_name, source_stats in sources.queues:
            labels = {"listener": listener_name, "packet_source": source_name}
            for name, help_text, gauge in _QUEUE:
                value = getattr(source_stats, name)
                families.add(f"source_queue_{name}", help_text, labels, value, gauge=gauge)
        for queue, letters in sources.dead_letters:
            labels = {"queue": queue}
            families.add("dead_letters_kept", "Dead letters that the queue took.", labels, letters.kept)
            families.add("dead_letters_lost", "Dead letters that were given up.", labels, letters.lost)
            families.add(
                "dead_letters_waiting",
                "Dead letters not yet in the queue.",
                labels,
                letters.waiting,
                gauge=True,
            )
        for domain, looked in sources.domains:
            labels = {"domain": domain}
            families.add("domain_lookups", "Look-ups of names of clients.", labels, looked.lookups)
            families.add(
                "domain_lookup_failures", "Those that the DNS did not answer.", labels, looked.failures
            )
            families.add(
                "domain_addresses", "Addresses that a name admits.", labels, looked.addresses, gauge=True
            )
        return list(families.made.values())


def _feed_delivery(families: _Families, labels: Mapping[str, str], stats: DeliveryStats) -> None:
    families.add("delivery_batches", "Batches that the service took whole.", labels, stats.batches_delivered)
    families.add("delivery_packets", "Packets that the service took.", labels, stats.packets_delivered)
    families.add(
        "delivery_failed_batches", "Batches of which packets were given up.", labels, stats.batches_failed
    )
    families.add("delivery_failed_packets", "Packets that were given up.", labels, stats.packets_failed)
    families.add("delivery_retries", "Deliveries that were tried again.", labels, stats.retries)
    families.add(
        "delivery_in_flight_batches", "Batches being delivered.", labels, stats.in_flight, gauge=True
    )
    for reason, count in stats.failed_by_reason.items():
        families.add("delivery_failures", "Packets given up, by reason.", {**labels, "reason": reason}, count)


def _live(counted: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Without those that were removed while the Listener ran: another one of the same name may be there."""
    return [one for one in counted if not one.get("Removed")]
