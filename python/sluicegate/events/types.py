"""Every event that a gateway writes, by name: what it means and what it says (contract section 6).

`Time`, `Event`, `Node` and `Region` stand in every event and are not listed here. A field that does not apply is
absent. Any event may also come as a summary: `Suppressed` events of the same name, Listener, PacketSource or
Destination and Reason that were not written one by one.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["packet", "failure", "life-cycle", "note"]
"""`packet`: made by the native side while somebody watches, sampled. `failure`: something was not done; never left out
without a count. `life-cycle`: the gateway and its parts. `note`: about the stream of events itself."""

Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event. `fields` in the order of the line; `direction` None where no packet is concerned."""

    name: str
    kind: Kind
    direction: Direction | None
    fields: tuple[str, ...]
    meaning: str


_ENTRY = ("MessageId", "Index", "RemoteIndex", "Id", "Tag", "Remote", "Bytes")
_REPLY = ("MessageId", "Index", "Id", "Tag", "Remote", "Bytes")

_TYPES = (
    EventType(
        "PacketReceived",
        "packet",
        "in",
        ("Listener", "Tag", "Remote", "Bytes"),
        "A datagram arrived and was accepted by a Destination or more.",
    ),
    EventType(
        "PacketRejected",
        "packet",
        "in",
        ("Listener", "Remote", "Bytes", "Reason"),
        "A datagram arrived and was refused.",
    ),
    EventType(
        "ReplySent",
        "packet",
        "out",
        ("Listener", "Destination", "MessageId", "Index", "Id", "Remote", "Bytes"),
        "A handler's answer to a packet left.",
    ),
    EventType(
        "PacketSourced",
        "packet",
        "out",
        ("Listener", "PacketSource", "MessageId", "Index", "RemoteIndex", "Id", "Remote", "Bytes"),
        "An entry of a sourced message left.",
    ),
    EventType(
        "BatchDelivered",
        "packet",
        "in",
        ("Listener", "Destination", "Packets", "RequestId"),
        "A service took a batch, or a part of one.",
    ),
    EventType(
        "DeliveryFailed",
        "failure",
        "in",
        ("Listener", "Destination", "Reason", "Detail", "Packets", "Batches", "RequestId"),
        "Batches, or packets of one, were given up; these packets are lost.",
    ),
    EventType(
        "ReplyFailed",
        "failure",
        "out",
        ("Listener", "Destination", *_REPLY, "Reason", "Detail", "Packets", "RequestId"),
        "A handler's answer, or one entry of it, was not sent.",
    ),
    EventType(
        "SourceFailed",
        "failure",
        "out",
        ("Listener", "PacketSource", *_ENTRY, "Reason", "Detail"),
        "An entry of a sourced message was not sent.",
    ),
    EventType(
        "ScheduleFailed",
        "failure",
        "out",
        ("Reason", "Detail"),
        "Entries that are to be sent later, or messages of a durable topic, could not be written to the state or read.",
    ),
    EventType(
        "IcmpError",
        "failure",
        "out",
        ("Listener", "Remote", "Reason"),
        "The network reported that an earlier packet did not arrive.",
    ),
    EventType(
        "InnerSourceRefused",
        "failure",
        "in",
        ("Listener", "Remote", "Bytes", "Reason", "Detail"),
        "A WireGuard peer sent what its AllowedIPs do not allow; the first time for each peer, others are counted.",
    ),
    EventType(
        "PeerClockDiffers",
        "failure",
        "in",
        ("Listener", "Remote", "Bytes", "Reason", "Detail"),
        "A WireGuard peer's clock is ahead (`StampAhead`), or was, and its handshakes are refused (`StampTooLow`).",
    ),
    EventType(
        "LoopSuspected",
        "failure",
        "out",
        ("Listener", "Remote", "Bytes", "Detail"),
        "A remote returns every answer. It gets one in 10 s from now on, until it sends something different.",
    ),
    EventType(
        "KernelDropped",
        "failure",
        "in",
        ("Listener", "Reason", "Packets", "Detail"),
        "So many datagrams were lost since the last such event, because the Listener's receive buffer was full.",
    ),
    EventType(
        "ProtocolSendFailed",
        "failure",
        "out",
        ("Listener", "Remote", "Reason", "Detail"),
        "A handshake, cookie or keepalive of WireGuard was not sent.",
    ),
    EventType(
        "LocalAddressGone",
        "failure",
        "out",
        ("Listener", "Detail"),
        "An address that clients spoke to is gone: packets for them leave from another one. Once for each address.",
    ),
    EventType(
        "ReceiveBufferLimited",
        "failure",
        None,
        ("Asked", "Given", "Detail"),
        "The kernel gives Listeners smaller receive buffers (bytes) than the gateway asks for.",
    ),
    EventType(
        "DeadLetterFailed",
        "failure",
        "out",
        ("Listener", "PacketSource", "Reason", "Detail", "Letters"),
        "Failed entries could not be kept as dead letters, or wait until their queue or file takes them.",
    ),
    EventType(
        "LogGroupFailed",
        "failure",
        None,
        ("Listener", "Destination", "Reason", "Detail", "Dropped"),
        "Events could not be written to a log group; so many were given up since the start, the others wait.",
    ),
    EventType(
        "MetricsFailed",
        "failure",
        None,
        ("Reason", "Detail", "Dropped"),
        "Metrics could not be written to CloudWatch; so many statistic sets were given up, the others wait.",
    ),
    EventType(
        "SourceProvisionFailed",
        "failure",
        None,
        ("Listener", "PacketSource", "Reason", "Detail"),
        "A queue or subscription on AWS could not be made, checked or taken away; it is tried again.",
    ),
    EventType(
        "SourcePollFailed",
        "failure",
        None,
        ("Listener", "PacketSource", "Reason", "Detail"),
        "A queue on AWS could not be read, or messages not deleted from it; it is tried again.",
    ),
    EventType(
        "SourceRecovered",
        "life-cycle",
        None,
        ("Listener", "PacketSource", "Detail"),
        "What had failed on AWS works again.",
    ),
    EventType(
        "SourceSubscribed",
        "life-cycle",
        None,
        ("Listener", "PacketSource", "Topic", "Queue", "Detail"),
        "A topic on AWS has a new subscription of the gateway's queue.",
    ),
    EventType(
        "SourceUnsubscribed",
        "life-cycle",
        None,
        ("Listener", "PacketSource", "Topic", "Detail"),
        "The subscription was ended; what waits in the queue stays.",
    ),
    EventType(
        "SourceRegionAdded",
        "life-cycle",
        None,
        ("Listener", "PacketSource", "EgressRegion", "Detail"),
        "A gateway of another region has subscribed to the topic.",
    ),
    EventType(
        "SourceDraining",
        "life-cycle",
        None,
        ("Listener", "PacketSource", "Topic", "Queue", "Detail"),
        "A queue that no PacketSource names any more is emptied, then deleted; `Detail` says by whom, or why not yet.",
    ),
    EventType(
        "SourceRemoved",
        "life-cycle",
        None,
        ("PacketSource", "Topic", "Queue", "Detail"),
        "Subscription and queue of a PacketSource that does not use them any more were taken away.",
    ),
    EventType(
        "JournalFailed",
        "failure",
        None,
        ("Reason", "Detail"),
        "What was sent could not be written down: a restart may forget it.",
    ),
    EventType(
        "PeersNotKept",
        "failure",
        None,
        ("Listener", "Reason", "Detail"),
        "Where WireGuard peers are, or the stamps of handshakes, could not be written down: after a restart peers may "
        "have to speak first, and may not answer if the clock has gone back.",
    ),
    EventType(
        "TopicNotKept",
        "failure",
        None,
        ("Topic", "Reason", "Detail"),
        "A topic of the SNS endpoint could not be made, changed or deleted, because the state cannot be written.",
    ),
    EventType(
        "RoutesNotFollowed",
        "failure",
        None,
        ("Reason", "Detail"),
        "The kernel does not tell this machine's new addresses: a Listener at one may be sent to for a while.",
    ),
    EventType(
        "FunctionInitFailed",
        "failure",
        None,
        ("Listener", "Destination", "Reason", "Detail"),
        "A function did not start, after the gateway's start or a change of its code.",
    ),
    EventType(
        "FunctionReloaded",
        "life-cycle",
        None,
        ("Listener", "Destination", "Detail"),
        "A function's code changed, and the new code is running.",
    ),
    EventType(
        "LoopBlocked",
        "failure",
        None,
        ("Listener", "Destination", "PacketSource", "Reason", "Detail"),
        "Code in the event loop does not come back, and everything else waits for it; the detail has its place.",
    ),
    EventType(
        "StopForced",
        "failure",
        None,
        ("Listener", "Destination", "PacketSource", "Detail"),
        "A stop was not done within 10 s and was ended by force; the detail says what is lost.",
    ),
    EventType("GatewayStarted", "life-cycle", None, ("Listeners",), "The gateway serves."),
    EventType(
        "GatewayStopping", "life-cycle", None, (), "The gateway takes nothing new and ends what it has."
    ),
    EventType("GatewayStopped", "life-cycle", None, (), "The gateway has ended; the last event."),
    EventType(
        "ListenerChanged", "life-cycle", None, ("Listener", "Detail"), "A Listener runs with other settings."
    ),
    EventType(
        "DomainResolved",
        "life-cycle",
        None,
        ("Listener", "Domain", "Addresses", "Detail"),
        "A name in `Domains` stands for these addresses from now on; others of before are refused.",
    ),
    EventType(
        "DomainFailed",
        "failure",
        None,
        ("Listener", "Domain", "Reason", "Detail"),
        "A name in `Domains` cannot be looked up; it is tried again.",
    ),
    EventType(
        "DomainRecovered",
        "life-cycle",
        None,
        ("Listener", "Domain"),
        "A name in `Domains` can be looked up again.",
    ),
    EventType(
        "ListenerLost",
        "failure",
        None,
        ("Listener", "Reason", "Detail"),
        "A Listener ended for a change that was then refused, and could not be opened again.",
    ),
    EventType(
        "SourceStateChanged",
        "life-cycle",
        None,
        ("Listener", "PacketSource", "Detail", "State"),
        "A PacketSource is there, or its state is another one: approved, rejected, disabled.",
    ),
    EventType(
        "ResourceChanged",
        "life-cycle",
        None,
        ("Detail", "Actor", "Action", "Kind", "Name", "Result"),
        "Somebody changed a resource, or was refused to.",
    ),
    EventType("Reloaded", "life-cycle", None, ("Detail", "Actor"), "The configuration file was taken over."),
    EventType(
        "ReloadRefused",
        "failure",
        None,
        ("Detail", "Actor"),
        "The configuration file was not taken over; what ran before runs on.",
    ),
    EventType(
        "StackAnswered",
        "life-cycle",
        None,
        ("Detail", "Action", "Kind", "Name", "Result"),
        "A request of CloudFormation was done or refused, and answered.",
    ),
    EventType(
        "StackUnanswered",
        "failure",
        None,
        ("Reason", "Detail"),
        "A request of CloudFormation could not be read or answered.",
    ),
    EventType(
        "StackQueueRecovered",
        "life-cycle",
        None,
        (),
        "The queue of CloudFormation's requests can be read again.",
    ),
    EventType("ListenerStarted", "life-cycle", None, ("Listener", "Address", "Port"), "A Listener is bound."),
    EventType(
        "ListenerStopped", "life-cycle", None, ("Listener", "Totals", "Deliveries"), "A Listener is closed."
    ),
    EventType(
        "EventsSkipped",
        "note",
        None,
        ("Listener", "Suppressed"),
        "So many events of packets were left out by the limit of their rate.",
    ),
    EventType(
        "EventsDropped",
        "note",
        None,
        ("Suppressed",),
        "So many lines are missing here: this output or this client was too slow.",
    ),
)

TYPES: dict[str, EventType] = {one.name: one for one in _TYPES}
"""Every event by its name."""

NATIVE = ("PacketReceived", "PacketRejected", "ReplySent", "PacketSourced")
"""The events of single packets that the native side makes, for those who watch (`Port.events`)."""
