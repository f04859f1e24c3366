"""One Listener that runs.

The native queues, the egress and the sources know a Destination or PacketSource by its place in the Listener's spec.
`change.py` makes the places, and never moves one.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import structlog

from sluicegate import _native
from sluicegate.backoff import Backoff
from sluicegate.destinations import Destination
from sluicegate.destinations.delivery import Delivery, DeliveryStats
from sluicegate.egress.egress import Egress
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.model import DestinationSpec, Finding, Listener, PacketSource
from sluicegate.running.bind import AssignedPorts, open_port
from sluicegate.running.documents import Refused
from sluicegate.running.node import Node
from sluicegate.running.peers import PeerKeeper, own_key, refuse_own_key, wireguard_spec
from sluicegate.running.spec import listener_spec
from sluicegate.sources.base import MessageSource
from sluicegate.state import KeyPair, StampBlock, StateError

log = structlog.get_logger("sluicegate.running")

PAUSES = Backoff(1.0, 60.0)


@dataclass(slots=True, eq=False)
class DestinationPlace:
    """A Destination at its place. Without an ARN for this region it has neither `made` nor `delivery`."""

    resource: DestinationSpec
    made: Destination | None
    delivery: Delivery | None = None
    removed: bool = False
    ended: bool = False
    """True once the Destination is removed, and all of its packets have completed."""


@dataclass(slots=True, eq=False)
class SourcePlace:
    """A PacketSource at its place. `inlet` receives its messages, in `task`. None: it receives none."""

    resource: PacketSource
    state: str
    inlet: MessageSource | None = None
    task: "asyncio.Task[None] | None" = None
    removed: bool = False
    ended: bool = False
    """True once the PacketSource is removed, and all of its messages have completed."""


class RunningListener:
    """A Listener and everything that serves it. Belongs to the event loop; made by `Change`."""

    def __init__(self, node: Node, resource: Listener) -> None:
        self.node = node
        self.resource = resource
        self.number = 0
        """The Listener's id, from `open` on."""
        self.destinations: list[DestinationPlace] = []
        self.sources: list[SourcePlace] = []
        self.ended = False
        self.key_pair: KeyPair | None = None
        """The key pair of an open `wg` Listener. One that is not `kept` is written together with the change."""
        self.public_key = ""
        """The public key of an open `wg` Listener; empty for other Listeners."""
        self.stamps: Mapping[str, StampBlock] = {}
        """The stamps that were reserved before it is opened, by public key."""
        self.peers: PeerKeeper | None = None
        """The keeper of the peers of an open `wg` Listener; None for other Listeners."""
        self._port: _native.Port | None = None
        self._egress: Egress | None = None

    @property
    def name(self) -> str:
        return self.resource.name

    @property
    def port(self) -> _native.Port:
        assert self._port is not None  # noqa: S101  (a change opens it before anybody else sees the Listener)
        return self._port

    @property
    def is_open(self) -> bool:
        """True once its socket is bound."""
        return self._port is not None

    @property
    def egress(self) -> Egress:
        assert self._egress is not None  # noqa: S101
        return self._egress

    @property
    def live_destinations(self) -> list[DestinationPlace]:
        """The Destinations that are not removed."""
        return [place for place in self.destinations if not place.removed]

    @property
    def live_sources(self) -> list[tuple[int, SourcePlace]]:
        """The PacketSources that are not removed, each with the index of its place."""
        return [(index, place) for index, place in enumerate(self.sources) if not place.removed]

    def stats(self) -> dict[str, DeliveryStats]:
        """The counters of each Destination, by its name."""
        return {
            place.resource.name: place.delivery.stats
            for place in self.live_destinations
            if place.delivery is not None
        }

    def unfinished(self) -> list[str]:
        """What is accepted and has not completed, in words, for a stop that cannot wait for it. From any thread."""
        if self.ended or self._port is None:
            return []
        counts = json.loads(self._port.stats())
        found = []
        queued = {one["Name"]: one["QueuedPackets"] for one in counts["Destinations"]}
        for place in list(self.destinations):
            delivery, name = place.delivery, place.resource.name
            packets = queued.get(name, 0) + (delivery.packets_under_way if delivery is not None else 0)
            found += [f"{packets} packets for {self.name}/{name}"] if packets else []
        for one in counts["Sources"]:
            entries = one["Entries"] - one["Sent"] - one["Duplicates"] - sum(one["Failed"].values())
            found += [f"{entries} entries of {one['Name']}"] if entries > 0 else []
        return found

    def spec(
        self, resource: Listener, destinations: Sequence[DestinationPlace], sources: Sequence[SourcePlace]
    ) -> dict[str, object]:
        """The Listener as the native side reads it, with these places and the present addresses of its `Domains`."""
        node = self.node
        return listener_spec(
            resource,
            self.number,
            node.domain,
            node.domains.networks(resource),
            [(place.resource, place.made, place.removed) for place in destinations],
            [(place.resource, place.removed) for place in sources],
        )

    def readmit(self) -> None:
        """Have the native side admit the present addresses of its `Domains`, and no longer the ones before."""
        self.port.update(json.dumps(self.spec(self.resource, self.destinations, self.sources)))

    # Opening and ending

    def open(self, number: int, ports: AssignedPorts) -> None:
        """Bind the Listener's socket; `number` is its id. Raises `Refused`. Blocks."""
        node, self.number = self.node, number
        try:
            spec = self.spec(self.resource, self.destinations, self.sources)
            if self.resource.protocol == "wg":
                self.key_pair = own_key(self.resource, node.wireguard)
                self.public_key = _native.public_key(self.key_pair.private)
                refuse_own_key(self.resource, self.public_key)
                # A key that is not kept yet was not known when the stamps of the others were reserved.
                kept = self.key_pair.kept
                blocks = self.stamps if kept else node.wireguard.reserve_stamps([self.public_key])
                block = blocks.get(self.public_key, StampBlock(0, 0))
                spec["WireGuard"] = wireguard_spec(
                    self.resource, self.key_pair.private, node.wireguard, block
                )
            self._port = open_port(self.resource, spec, node.dataplane, ports)
        except StateError as error:
            raise Refused(Finding((), str(error), conflict=True).of(Listener, self.name)) from None

    def serve(self) -> None:
        """Begin to pass on the answers, completions and events of the Port, which is open."""
        loop = asyncio.get_running_loop()
        names = [place.resource.name for place in self.sources], [p.resource.name for p in self.destinations]
        self._egress = Egress(
            self.port, self.name, *names, self.node.events, self.node.ledger, self.node.waiting
        )
        self._egress.start(loop)
        self.node.log_groups.hold(self, self.resource)
        self.node.metrics.hold(self, self.resource)
        if self.resource.client_restrictions.domains:
            self.node.domains.hold(self, self.resource, self.readmit)
            self.readmit()  # the addresses may have changed while the socket was bound
        if self.public_key:
            self.peers = PeerKeeper(
                self.port, self.name, self.public_key, self.node.wireguard, self.node.events
            )
            self.peers.start()
        self.node.live.watch(self.name, self.port)
        host, number = self.port.local_address
        self.node.events.emit("ListenerStarted", Listener=self.name, Address=host, Port=number)
        self.node.note_receive_buffer(*self.port.receive_buffer)

    async def stop_sources(self) -> None:
        """Receive no more messages of its PacketSources."""
        await asyncio.gather(*(stop_inlet(place) for _, place in self.live_sources))

    async def end_sources(self, seconds: float) -> None:
        """Close the MessageSources, after the egress is drained and before the Port is closed: messages that have not
        completed by then stay where they came from, and must not count as given up."""
        await asyncio.gather(*(end_inlet(place, seconds) for _, place in self.live_sources))

    async def end(self, seconds: float) -> None:
        """Complete what was accepted within `seconds`, close the socket and report the totals. Call `stop_sources`
        before."""
        deadline = asyncio.get_running_loop().time() + seconds

        def left() -> float:
            return max(0.0, deadline - asyncio.get_running_loop().time())

        self.node.domains.drop(self)
        await asyncio.to_thread(self.port.stop)
        await self.end_deliveries(left())
        await self.egress.drain(left())
        await self.end_sources(left())
        await self.close(left())
        self.node.log_groups.drop(self)
        await self.node.metrics.drop(self)

    async def end_deliveries(self, seconds: float) -> None:
        """Deliver the queued packets for at most `seconds`. Stop the Port before."""
        deliveries = [place.delivery for place in self.destinations if place.delivery is not None]
        await asyncio.gather(*(delivery.drain(seconds) for delivery in deliveries))

    async def close(self, seconds: float) -> None:
        """Send the queued datagrams for at most `seconds`, close the socket and the Destinations, report the totals."""
        self.ended = True
        self.egress.give_back_unfinished()
        await asyncio.to_thread(self.port.close, seconds)
        if self.peers is not None:
            await self.peers.close()
        self.egress.close()
        self.node.events.emit(
            "ListenerStopped",
            Listener=self.name,
            Totals=json.loads(self.port.stats()),
            Deliveries={
                name: {
                    "PacketsDelivered": stats.packets_delivered,
                    "PacketsFailed": stats.packets_failed,
                    "FailedByReason": stats.failed_by_reason,
                }
                for name, stats in self.stats().items()
            },
        )
        self.node.live.unwatch(self.name, self.port)
        for place in self.live_destinations:
            await close_made(place.made)


async def run_inlet(inlet: MessageSource, listener: str, events: EventLog) -> None:
    """Let a MessageSource receive messages until it is cancelled or has no more. Exceptions, which it must not raise,
    are reported, and it begins anew after a pause."""
    for failures in count(1):
        try:
            await inlet.run()
            return
        except (Exception, SystemExit) as error:
            log_fault(log, "a MessageSource ended", error, packet_source=inlet.name)
            detail = f"its MessageSource ended with an unexpected {type(error).__name__} and begins anew"
            events.emit(
                "SourcePollFailed",
                Listener=listener,
                PacketSource=inlet.name,
                Reason="InternalError",
                Detail=f"{detail}; the gateway's log says where",
            )
        await asyncio.sleep(PAUSES.pause(failures))


async def stop_inlet(place: SourcePlace) -> None:
    """Receive no more messages of a PacketSource."""
    if place.task is not None:
        place.task.cancel()
        await asyncio.gather(place.task, return_exceptions=True)
        place.task = None


async def end_inlet(place: SourcePlace, seconds: float) -> None:
    """Receive no more messages of a PacketSource, let those under way complete for at most `seconds`, and close it."""
    await stop_inlet(place)
    if place.inlet is not None:
        try:
            await place.inlet.drain(seconds)
        except (Exception, SystemExit) as error:
            log_fault(log, "a message source failed to drain", error, packet_source=place.resource.name)
        await close_made(place.inlet)


async def close_made(made: Destination | MessageSource | None) -> None:
    """Close a Destination or a message source. An exception of its code is logged: everything else still closes."""
    if made is None:
        return
    try:
        await made.close()
    except (Exception, SystemExit) as error:
        log_fault(log, f"a {type(made).__name__} failed to close", error, name=made.name)
