"""`/metrics`: every counter of a gateway as Prometheus text (contract section 6).

The numbers are read when they are asked for: the native side's from `Port.stats`, delivery's from each
Destination's statistics, events' from the event log. Nothing is counted here.

A thousand Listeners have some fifty thousand numbers, and the event loop has messages to send meanwhile. So a scrape
gives the loop back after `AT_ONCE` numbers, and asks the I/O thread in another thread.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sluicegate import _native
from sluicegate.deadletters.keeper import DeadLetterStats
from sluicegate.destinations.delivery import DeliveryStats
from sluicegate.events import EventLog
from sluicegate.events.types import TYPES
from sluicegate.running.domains import DomainStats
from sluicegate.sources.local.topics import Topics
from sluicegate.sources.topic.consumer import SourceStats


class PortStats(Protocol):
    """The part of `_native.Port` that counts."""

    def stats(self) -> str: ...


@dataclass(slots=True)
class MetricSources:
    """Where the numbers come from. `deliveries` are `(listener, destination, statistics)`, `dead_letters`
    `(queue, statistics)`, `queues` `(listener, PacketSource, statistics)`, `domains` `(name, statistics)`.
    `draining`: queues that no PacketSource names any more, by the PacketSource that they were made for."""

    ports: Iterable[PortStats] = ()
    deliveries: Iterable[tuple[str, str, DeliveryStats]] = ()
    events: EventLog | None = None
    topics: Topics | None = None
    queues: Iterable[tuple[str, str, SourceStats]] = ()
    draining: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Iterable[tuple[str, DeadLetterStats]] = ()
    domains: Iterable[tuple[str, DomainStats]] = ()


AT_ONCE = 500
"""Numbers that are read or rendered between two turns of the event loop: 1 to 3 ms."""
PORTS_AT_ONCE = 50
"""Listeners that are asked in one turn of the other thread."""


def exposition(read: Callable[[], MetricSources]) -> Callable[[], Awaitable[bytes]]:
    """A function that renders the current numbers, once at a time. `read` is called for each rendering."""
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    turn = asyncio.Lock()

    async def render() -> bytes:
        async with turn:
            families = await _collected(read())
            rendered = [generate_latest(process)]
            for family in families.made.values():
                for part in _parts(family):
                    rendered.append(part)
                    await asyncio.sleep(0)
        return b"".join(rendered)

    return render


def _parts(family: Metric) -> Iterator[bytes]:
    """The lines of a family, some at a time."""
    for start in range(0, len(family.samples), AT_ONCE):
        part = copy.copy(family)
        part.samples = family.samples[start : start + AT_ONCE]
        text = generate_latest(_Part(part))
        # HELP and TYPE stand once, before all lines.
        yield text if start == 0 else text.split(b"\n", 2)[2]


class _Part(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


@dataclass(slots=True)
class _Spec:
    """A metric fed from one key of the native JSON. With `by` the value is a map, and that label its key; each of
    `known` is shown from the start, because an alert on an increase does not see a counter that begins at 1."""

    name: str
    key: str
    help: str
    by: str = ""
    known: Sequence[str] = ()
    gauge: bool = False


_REASONS = _native.reasons()


_LISTENER = (
    _Spec("received_packets", "ReceivedPackets", "Datagrams that the Listener received."),
    _Spec("received_bytes", "ReceivedBytes", "Payload bytes that the Listener received."),
    _Spec(
        "kernel_dropped_packets",
        "KernelDrops",
        "Datagrams lost because the receive buffer was full (an estimate where the kernel coalesced them).",
    ),
    _Spec(
        "receive_buffer_bytes",
        "ReceiveBufferBytes",
        "Bytes that the kernel holds until they are read.",
        gauge=True,
    ),
    _Spec(
        "rejected_packets",
        "Rejected",
        "Datagrams that were refused on arrival.",
        "reason",
        _REASONS["Rejected"],
    ),
    _Spec("sent_packets", "SentPackets", "Datagrams that the Listener sent."),
    _Spec("sent_bytes", "SentBytes", "Payload bytes that the Listener sent."),
    _Spec(
        "expression_limited_packets",
        "ExpressionLimits",
        "Packets whose expressions would have cost too much: the rest was null.",
    ),
    _Spec("loops_suspected", "LoopsSuspected", "Times that answers to a remote began to be limited."),
    _Spec(
        "icmp_errors",
        "IcmpErrors",
        "ICMP errors that came back after sending.",
        "type",
        _REASONS["IcmpErrors"],
    ),
    _Spec("egress_ring_bytes", "RingBytes", "Bytes that wait to be sent.", gauge=True),
    _Spec("egress_ring_messages", "RingMessages", "Messages and answers that wait to be sent.", gauge=True),
)
_PROTOCOL = (
    _Spec(
        "wireguard_send_failures",
        "ProtocolFailed",
        "Handshakes, cookies and keepalives that were not sent, by reason.",
        "reason",
        ("RemoteUnreachable", "PayloadTooLarge", "SendFailed"),
    ),
)
"""Of a `wg` Listener, beside its `WireGuard` counters."""
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
_COAP = (
    _Spec(
        "coap_acknowledgements", "Acknowledgements", "Empty acknowledgements, because the handler was slow."
    ),
    _Spec("coap_answered_again", "AnsweredAgain", "Repeated messages that got their answer again."),
    _Spec("coap_retransmissions", "Retransmissions", "Answers sent again because nobody acknowledged them."),
    _Spec("coap_unacknowledged_answers", "Unacknowledged", "Answers that nobody acknowledged at all."),
    _Spec(
        "coap_not_sent", "NotSent", "What of these was not sent: no answer may go there, or it is limited."
    ),
)
_DESTINATION = (
    _Spec("destination_packets", "Packets", "Packets put into batches for the Destination."),
    _Spec("destination_bytes", "Bytes", "Payload bytes of these packets."),
    _Spec("destination_filtered_packets", "Filtered", "Packets that the Destination's filter left out."),
    _Spec("destination_batches", "Batches", "Batches made for the Destination."),
    _Spec(
        "destination_dropped_packets",
        "Dropped",
        "Packets not delivered, by reason.",
        "reason",
        _REASONS["Dropped"],
    ),
    _Spec("destination_queued_packets", "QueuedPackets", "Packets that wait to be delivered.", gauge=True),
    _Spec("destination_queued_bytes", "QueuedBytes", "Bytes that wait to be delivered.", gauge=True),
    _Spec("destination_replies", "Replies", "Replies that handlers gave."),
    _Spec("destination_replies_sent", "RepliesSent", "Replies that were sent."),
    _Spec(
        "destination_replies_sent_bytes", "RepliesSentBytes", "Payload bytes of the replies that were sent."
    ),
    _Spec(
        "destination_replies_failed",
        "RepliesFailed",
        "Replies that were not sent, by reason.",
        "reason",
        _REASONS["Failed"],
    ),
)
_SOURCE = (
    _Spec("source_messages", "Messages", "Messages that the PacketSource took."),
    _Spec("source_entries", "Entries", "Entries of those messages."),
    _Spec("source_sent_packets", "Sent", "Entries that were sent."),
    _Spec("source_sent_bytes", "SentBytes", "Payload bytes that were sent."),
    _Spec("source_duplicates", "Duplicates", "Entries not sent because they had been sent before."),
    _Spec("source_scheduled_entries", "Scheduled", "Entries that were put off to their SendAt."),
    _Spec(
        "source_failed_entries",
        "Failed",
        "Entries that were not sent, by reason.",
        "reason",
        _REASONS["Failed"],
    ),
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
    count: int = 0
    """Numbers in all of them."""

    def add(
        self, name: str, help_text: str, labels: Mapping[str, str], value: float, *, gauge: bool = False
    ) -> None:
        family = self.made.get(name)
        if family is None:
            kind = GaugeMetricFamily if gauge else CounterMetricFamily
            family = self.made[name] = kind(f"sluicegate_{name}", help_text, labels=list(labels))
        family.add_metric(list(labels.values()), value)
        self.count += 1

    def feed(self, specs: Iterable[_Spec], stats: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        for spec in specs:
            value = stats.get(spec.key, {} if spec.by else 0)
            if not spec.by:
                self.add(spec.name, spec.help, labels, value, gauge=spec.gauge)
                continue
            for key, count in {**dict.fromkeys(spec.known, 0), **value}.items():
                self.add(spec.name, spec.help, {**labels, spec.by: key}, count)


async def _collected(sources: MetricSources) -> _Families:
    """All numbers."""
    families, told = _Families(), 0
    ports = iter(sources.ports)
    while some := list(islice(ports, PORTS_AT_ONCE)):
        for stats in await asyncio.to_thread(_ask, some):
            for _ in _feed_port(families, orjson.loads(stats)):
                told = await _breathe(families, told)
    for _ in _feed_rest(families, sources):
        told = await _breathe(families, told)
    return families


def _ask(ports: Iterable[PortStats]) -> list[str]:
    """What each counts. Blocks."""
    return [port.stats() for port in ports]


async def _breathe(families: _Families, told: int) -> int:
    """Let others run after `AT_ONCE` numbers. Returns how many there were at the last time."""
    if families.count - told < AT_ONCE:
        return told
    await asyncio.sleep(0)
    return families.count


def _feed_port(families: _Families, stats: Mapping[str, Any]) -> Iterator[None]:
    """Add the numbers of one Listener, in steps."""
    listener = {"listener": stats["Listener"]}
    for protocol in ("WireGuard", "Coap"):
        if protocol in stats:
            rejected = {**dict.fromkeys(_REASONS[f"RejectedBy{protocol}"], 0), **stats["Rejected"]}
            stats = {**stats, "Rejected": rejected}
    families.feed(_LISTENER, stats, listener)
    if "WireGuard" in stats:
        families.feed(_WIREGUARD, stats["WireGuard"], listener)
        families.feed(_PROTOCOL, stats, listener)
    if "Coap" in stats:
        families.feed(_COAP, stats["Coap"], listener)
    for destination in _live(stats.get("Destinations", ())):
        families.feed(_DESTINATION, destination, {**listener, "destination": destination["Name"]})
        yield
    for source in _live(stats.get("Sources", ())):
        families.feed(_SOURCE, source, {**listener, "packet_source": source["Name"]})
        yield
    yield


def _feed_rest(families: _Families, sources: MetricSources) -> Iterator[None]:
    """Add what the I/O thread does not count, in steps."""
    for listener_name, destination_name, delivery in sources.deliveries:
        labels = {"listener": listener_name, "destination": destination_name}
        _feed_delivery(families, labels, delivery)
        yield
    if sources.events is not None:
        for event, count in {**dict.fromkeys(TYPES, 0), **sources.events.counts()}.items():
            families.add("events", "Events by name, suppressed lines included.", {"event": event}, count)
        for sink, count in sources.events.dropped().items():
            families.add("events_dropped", "Event lines that a sink could not take.", {"sink": sink}, count)
    if sources.topics is not None:
        topics = sources.topics
        families.add("sns_unrouted_messages", "Messages to topics without source.", {}, topics.unrouted)
        families.add("sns_throttled_messages", "Messages refused as Throttled.", {}, topics.throttled)
    for listener_name, source_name, source_stats in sources.queues:
        labels = {"listener": listener_name, "packet_source": source_name}
        for name, help_text, gauge in _QUEUE:
            value = getattr(source_stats, name)
            families.add(f"source_queue_{name}", help_text, labels, value, gauge=gauge)
        yield
    help_text = "Queues on AWS that no PacketSource names any more, until they are empty and deleted."
    for source_name, count in sources.draining.items():
        families.add("draining_queues", help_text, {"packet_source": source_name}, count, gauge=True)
    for queue, letters in sources.dead_letters:
        _feed_letters(families, {"queue": queue}, letters)
        yield
    for domain, looked in sources.domains:
        _feed_domain(families, {"domain": domain}, looked)
        yield


def _feed_letters(families: _Families, labels: Mapping[str, str], letters: DeadLetterStats) -> None:
    families.add("dead_letters_kept", "Dead letters that the queue took.", labels, letters.kept)
    families.add("dead_letters_lost", "Dead letters that were given up.", labels, letters.lost)
    help_text = "Dead letters not yet in the queue."
    families.add("dead_letters_waiting", help_text, labels, letters.waiting, gauge=True)


def _feed_domain(families: _Families, labels: Mapping[str, str], looked: DomainStats) -> None:
    families.add("domain_lookups", "Look-ups of names of clients.", labels, looked.lookups)
    families.add("domain_lookup_failures", "Those that the DNS did not answer.", labels, looked.failures)
    families.add("domain_addresses", "Addresses that a name admits.", labels, looked.addresses, gauge=True)


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
    for reason, count in {**dict.fromkeys(stats.known_reasons, 0), **stats.failed_by_reason}.items():
        families.add("delivery_failures", "Packets given up, by reason.", {**labels, "reason": reason}, count)


def _live(counted: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Without those that were removed while the Listener ran: another one of the same name may be there."""
    return [one for one in counted if not one.get("Removed")]
