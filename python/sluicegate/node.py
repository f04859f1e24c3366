"""What every Listener of a node shares, and the making of what a Listener consists of."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from . import _native
from .config import Config
from .deadletters import DeadLetterFile
from .destinations import DestinationContext
from .egress import Egress
from .events import EventLog, LiveEvents
from .journal import Journal
from .ledger import Ledger
from .model import PacketSource
from .resources import Complaint, Refused
from .sources.base import Source
from .sources.topics import Binding, LocalTopicSource, Topics
from .state import State, WireGuardTable


class Node:
    """Belongs to the event loop. `config` follows the file as it is reloaded."""

    def __init__(
        self,
        config: Config,
        events: EventLog,
        live: LiveEvents,
        state: State,
        dataplane: _native.Dataplane,
        journal: Journal,
        topics: Topics,
        wireguard: WireGuardTable,
    ) -> None:
        self.config = config
        self.events = events
        self.live = live
        self.state = state
        self.dataplane = dataplane
        self.journal = journal
        self.topics = topics
        self.wireguard = wireguard
        self.dead_letters: dict[str, DeadLetterFile] = {}
        """By PacketSource."""
        self.ledger = Ledger(journal, self.dead_letters, events)
        self.wanted: set[tuple[str, str]] = set()
        """`(PacketSource, topic)` of those that take messages."""
        self._background: set[asyncio.Task[None]] = set()

    @property
    def region(self) -> str:
        return self.config.gateway.region

    @property
    def domain(self) -> str:
        return self.config.gateway.domain

    @property
    def ports(self) -> range:
        """From which ports are assigned."""
        return self.config.gateway.port_range()

    @property
    def base_dir(self) -> Path:
        return self.config.base_dir

    def destination_context(self, listener: str) -> DestinationContext:
        """What a Destination of this Listener may know."""
        return DestinationContext(
            listener=listener, region=self.region, base_dir=self.base_dir, events=self.events
        )

    def inlet(self, source: PacketSource, index: int, state: str, egress: Egress) -> Source | None:
        """What takes the messages of a PacketSource that is in this state; None if nothing is to be taken.

        A local topic is bound in every state: what is published to a source that is not Active fails, and is told.
        """
        binding = Binding(source.name, index, egress, source.home_region, state)
        return LocalTopicSource(self.topics, source.sns_topic_source.topic_arn, binding)

    def dead_letter_place(self, source: PacketSource) -> DeadLetterFile | None:
        """Where its dead letters go; opened once, so that a path which cannot be written is found early."""
        scheme, _, path = (source.dead_letter_queue_arn or "").partition(":")
        if scheme != "file":
            return None
        file = DeadLetterFile(self.base_dir / path)
        try:
            file.append([])
        except OSError as error:
            cause = f"dead letters cannot be written to {file.path} ({error.strerror})"
            fix = "check the directory and its permissions"
            raise Refused(
                Complaint("PacketSource", source.name, ("dead_letter_queue_arn",), cause, fix)
            ) from None
        return file

    async def recall(self, sources: set[str]) -> dict[str, list[tuple[str, float]]]:
        """`(Id, seconds ago)` of what these PacketSources sent lately, oldest first."""
        recalled: dict[str, list[tuple[str, float]]] = {}
        if sources:
            for name, entry_id, ago in await asyncio.to_thread(self.journal.recall):
                if name in sources:
                    recalled.setdefault(name, []).append((entry_id, ago))
        return recalled

    def later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do it in the background; `settle` waits for it."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def settle(self, seconds: float) -> None:
        """Wait for what is done in the background, then give it up."""
        if not self._background:
            return
        _, late = await asyncio.wait(self._background, timeout=max(0.0, seconds))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
