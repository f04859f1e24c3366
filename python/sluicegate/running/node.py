"""The parts of a node that its Listeners share, and the making of the parts that each Listener has."""

import asyncio
import errno
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from sluicegate import _native, sources
from sluicegate.aws import Aws, Role, session_name
from sluicegate.config import Config
from sluicegate.deadletters.letter import DeadLetterPlace
from sluicegate.deadletters.places import DeadLetterPlaces
from sluicegate.destinations import DestinationContext
from sluicegate.egress.egress import Egress
from sluicegate.egress.ledger import Ledger
from sluicegate.egress.waiting import Waiting
from sluicegate.events import EventLog, LiveEvents
from sluicegate.events.log_groups import LOG_SECONDS, LogGroups
from sluicegate.linefile import Rotation
from sluicegate.localcode import Outside
from sluicegate.model import DestinationSpec, Finding, PacketSource
from sluicegate.running.documents import Desired, Refused
from sluicegate.running.domains import Domains
from sluicegate.running.metrics import Metrics
from sluicegate.sources.base import MessageSource, SourceContext
from sluicegate.sources.local.topics import Topics
from sluicegate.sources.topic.drainage import DRAINING, Wanted
from sluicegate.sources.topic.draining import DrainingSource
from sluicegate.sources.topic.leftovers import Leftovers
from sluicegate.sources.topic.reader import QueueReader
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.state import State, StateError, WireGuardTable
from sluicegate.state.journal import Journal


class Node:
    """The parts that all Listeners of a node share. Belongs to the event loop. A reload of the file sets `config`."""

    def __init__(
        self,
        config: Config,
        events: EventLog,
        live: LiveEvents,
        state: State,
        dataplane: _native.Dataplane,
        journal: Journal,
        topics: Topics,
        aws: Aws,
        wireguard: WireGuardTable,
        waiting: Waiting,
    ) -> None:
        self.waiting = waiting
        self.config = config
        self.events = events
        self.live = live
        self.state = state
        self.dataplane = dataplane
        self.journal = journal
        self.topics = topics
        self._aws = aws
        letters = config.gateway.dead_letters
        rotation = Rotation(letters.rotate_mb << 20, letters.keep)
        self.dead_letters = DeadLetterPlaces(aws, events, rotation)
        self.ledger = Ledger(journal, self.dead_letters.by_source, events)
        self.domains = Domains(events)
        self.log_groups = LogGroups(config.gateway, aws, events, live)
        self.metrics = Metrics(aws, config.gateway.region, events)
        self._sns = SnsSetting(config.gateway, aws, state, events)
        self._desired = Desired()
        self.wireguard = wireguard
        self._background: set[asyncio.Task[None]] = set()
        self._receive_buffers = set[int]()

    @property
    def region(self) -> str:
        return self.config.gateway.region

    @property
    def domain(self) -> str:
        return self.config.gateway.domain

    @property
    def ports(self) -> range:
        """The range from which ports are assigned."""
        return self.config.gateway.port_range()

    @property
    def base_dir(self) -> Path:
        return self.config.base_dir

    @property
    def has_topics(self) -> bool:
        """True if the topics are the gateway's own; otherwise they are on AWS."""
        return self.config.gateway.sns is not None

    def destination_context(
        self, listener: str, destination: DestinationSpec, arn: str
    ) -> DestinationContext:
        """The context of a Destination of this Listener, for this one of its ARNs."""
        return DestinationContext(
            listener=listener,
            region=self.region,
            node=self.config.gateway.node,
            base_dir=self.base_dir,
            events=self.events,
            aws=self._aws,
            role=self._destination_role(destination),
            local_code=destination.bounds_of(arn),
        )

    def _destination_role(self, destination: DestinationSpec) -> Role | None:
        role = destination.role
        if role is None:
            return None
        account = role.arn.split(":")[4]
        # Names that templates make begin with the word already.
        purpose = f"dstn-{destination.name.removeprefix('dstn-')}"
        return Role(role.arn, session_name(self.region, account, purpose), role.seconds)

    def inlet(self, source: PacketSource, index: int, state: str, egress: Egress) -> MessageSource | None:
        """The MessageSource of a PacketSource in this state; None if it is to receive no messages. Raises
        `SourceError`."""
        draining = state == DRAINING
        context = SourceContext(
            sender=egress,
            index=index,
            listener=source.listener_name,
            state="Active" if draining else state,
            region=self.region,
            base_dir=self.base_dir,
            events=self.events,
            local_code=source.bounds,
            services={Topics: self.topics} if self.has_topics else {SnsSetting: self._sns},
        )
        if draining:
            return DrainingSource(self._sns, source, context)
        made = sources.create(source, context)
        if state == "Active" and not isinstance(made, QueueReader) and self._sns.leftovers.has(source.name):
            return DrainingSource(self._sns, source, context, made)
        return made

    def dead_letter_place(self, source: PacketSource) -> DeadLetterPlace | None:
        """The place for a PacketSource's dead letters; None if it has none. Raises `Refused`."""
        try:
            return self.dead_letters.find(source.dead_letter_queue_arn, self.base_dir, source.bounds)
        except Outside as error:
            outside = Finding(("dead_letter_queue_arn",), error.cause, error.fix)
            raise Refused(outside.of(PacketSource, source.name)) from None
        except OSError as error:
            cause = f"dead letters cannot be written to {error.filename} ({error.strerror})"
            fix = "check the directory and its permissions"
            if error.errno == errno.EINVAL:
                fix = "name a file, or a path where there is nothing yet"
            found = Finding(("dead_letter_queue_arn",), cause, fix)
            raise Refused(found.of(PacketSource, source.name)) from None

    def want(self, desired: Desired) -> None:
        """Note what is to run from now on. `let_go` and `sweep` end what is not wanted any more."""
        self._desired = desired
        self.dead_letters.tidy()

    def let_go(self, source: str) -> None:
        """Forget a PacketSource that was removed from a Listener and whose messages there have all completed."""
        if source not in self._desired.states and source not in self._desired.drains:
            self.dead_letters.use(source, None)
            self.dead_letters.tidy()

    def sweep(self) -> None:
        """Begin to remove what was made on AWS for PacketSources that receive no messages any more."""
        self._sns.leftovers.sweep(self._wanted(self._desired), self._desired.able)

    def _wanted(self, desired: Desired) -> dict[str, Wanted]:
        on_aws = not self.has_topics
        return {
            name: Wanted(
                one,
                desired.states[name],
                one.sns_topic_source.topic_arn if on_aws and one.sns_topic_source else None,
            )
            for name, one in desired.packet_sources.items()
        }

    def note_drains(self, desired: Desired) -> None:
        """Add the PacketSources to `desired` that it does not declare and that still have to send what waits in their
        queues on AWS. Blocks."""
        leftovers = self._sns.leftovers
        try:
            able = leftovers.still_able(desired.packet_sources, desired.listeners)
            desired.able = {name: one for name, one in able.items() if self._keeps_letters(one)}
            desired.drains = leftovers.draining(self._wanted(desired), desired.able) if desired.able else {}
        except StateError as error:
            self.events.emit("SourceProvisionFailed", Reason="StateFailed", Detail=str(error))

    def _keeps_letters(self, source: PacketSource) -> bool:
        """True unless its dead letters cannot be written: then nothing of it is sent, and nobody is refused for it."""
        if (source.dead_letter_queue_arn or "").startswith("file:"):
            try:
                self.dead_letter_place(source)
            except Refused as error:
                self.events.emit(
                    "SourceProvisionFailed",
                    Listener=source.listener_name,
                    PacketSource=source.name,
                    Reason="DeadLetterFailed",
                    Detail=f"what waits in its queue is not sent: {error}",
                )
                return False
        return True

    @property
    def leftovers(self) -> Leftovers:
        """The queues on AWS that no PacketSource uses any more."""
        return self._sns.leftovers

    async def gone(self, source: str, seconds: float) -> None:
        """Wait at most `seconds` until `sweep` has removed what a PacketSource had on AWS."""
        await self._sns.leftovers.gone(source, seconds)

    async def recall(self, sources: set[str]) -> dict[str, list[tuple[str, float]]]:
        """`(Id, seconds ago)` of the entries that each of these PacketSources sent lately, oldest first; less than 0 of
        those that are to be sent later."""
        recalled: dict[str, list[tuple[str, float]]] = {}
        if sources:
            for name, entry_id, ago in await asyncio.to_thread(self.journal.recall):
                if name in sources:
                    recalled.setdefault(name, []).append((entry_id, ago))
            for name, entry_id in await self.waiting.ids(sources):
                recalled.setdefault(name, []).append((entry_id, -1.0))
        return recalled

    def note_receive_buffer(self, asked: int, given: int) -> None:
        """Report a receive buffer that is smaller than asked for; Listeners with the same size once."""
        if given < asked and given not in self._receive_buffers:
            self._receive_buffers.add(given)
            detail = (
                f"the kernel gives receive buffers of {given:,} bytes instead of {asked:,}: set the sysctl"
                f" net.core.rmem_max={asked} and start again, or give the gateway CAP_NET_ADMIN"
            )
            self.events.emit("ReceiveBufferLimited", Asked=asked, Given=given, Detail=detail)

    def later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do `work` in the background; `settle` waits for it."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def settle(self, seconds: float) -> None:
        """Wait at most `seconds` for work in the background, then cancel it."""
        if not self._background:
            return
        _, late = await asyncio.wait(self._background, timeout=max(0.0, seconds))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def close(self) -> None:
        """Close the shared parts, after the Listeners and the live events."""
        await self.domains.close()
        await self.dead_letters.close(0.0)
        await self._sns.close()
        await asyncio.gather(self.log_groups.close(LOG_SECONDS), self.metrics.close(LOG_SECONDS))
