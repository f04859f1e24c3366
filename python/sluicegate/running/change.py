"""A Listener changes while it runs.

Theory of operation. The native queues, the egress and the sources know a Destination or PacketSource by its place in
the Listener's spec. A change therefore never moves one. It makes a new list of places, in which each place is the one
from before, or changed, or new, or removed. The place of a removed one is reused once nothing of it is left.

A Listener goes through the steps made → opened → provisioned → switched. Each step before the switch can be undone: if
one Listener refuses a step, the change is undone for all of them (`plan.py`).
"""

import asyncio
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from sluicegate.deadletters.letter import DeadLetterPlace
from sluicegate.destinations import Destination, DestinationError, create
from sluicegate.destinations.delivery import Delivery, DeliveryStats
from sluicegate.faults import failure
from sluicegate.model import DestinationSpec, Finding, Listener, PacketSource
from sluicegate.running.bind import AssignedPorts
from sluicegate.running.documents import Refused
from sluicegate.running.listener import (
    DestinationPlace,
    RunningListener,
    SourcePlace,
    close_made,
    end_inlet,
    run_inlet,
)
from sluicegate.running.peers import refuse_own_key
from sluicegate.sources import SourceError

_T = TypeVar("_T")
_Place = DestinationPlace | SourcePlace

RETIRE_SECONDS = 10.0
"""Seconds that a replaced or removed Destination or source has to complete its packets and messages."""
EMPTY_SECONDS = 0.2
"""Seconds between two looks whether all messages of a removed PacketSource have completed."""

# Fields that only the native side, the log groups and the metrics read: a change of them touches no delivery and no
# source.
_NATIVE_OF_DESTINATION = {"batching", "description", "enable_logging", "log_group_name", "metrics_enabled"}
_NATIVE_OF_SOURCE = {"default_ttl_seconds", "description", "egress_networks", "require_session"}
_NATIVE_OF_LOCAL_SOURCE = _NATIVE_OF_SOURCE | {"dead_letter_queue_arn", "hold_seconds", "rate_limit"}
"""Fields that only the native side reads where the topics are the gateway's own. A source on AWS needs the additional
ones: it fetches as fast as it may send, and its subscription names the dead-letter queue."""


class Change:
    """The change of one Listener to `listener` with `sources` and their states.

    `running` is a Listener that runs, or a new one that has neither Port nor places. Every step before the switch may
    raise `Refused`.
    """

    def __init__(
        self, running: RunningListener, listener: Listener, sources: Sequence[tuple[PacketSource, str]]
    ) -> None:
        self.running = running
        self._node = running.node
        self._listener = listener
        self._sources = sources
        self._kept: set[int] = set()
        self._destination_places: list[DestinationPlace] = []
        self._source_places: list[SourcePlace] = []
        self._new_sources: list[tuple[int, str]] = []
        self._dead_letters: dict[str, DeadLetterPlace | None] = {}

    @property
    def new_sources(self) -> set[str]:
        """The names of PacketSources that the Listener did not have before."""
        return {name for _, name in self._new_sources}

    def make(self) -> None:
        """Make the new Destinations and the list of places, without side effects that others could see."""
        if self.running.public_key:
            refuse_own_key(self._listener, self.running.public_key)
        self._kept = {id(place.made) for place in self.running.destinations}
        self._destination_places = [
            place if place.removed else dataclasses.replace(place, removed=True)
            for place in self.running.destinations
        ]
        before = _by_name(self.running.destinations)
        free = self._free(self.running.destinations, self._destination_places)
        for index, resource in enumerate(self._listener.destination_specs):
            self._place_destination(index, resource, before.get(resource.name), free)
        self._source_places = [
            place if place.removed else dataclasses.replace(place, removed=True)
            for place in self.running.sources
        ]
        before = _by_name(self.running.sources)
        free = self._free(self.running.sources, self._source_places)
        for source, state in self._sources:
            self._place_source(source, state, before.get(source.name), free)
            self._dead_letters[source.name] = self._node.dead_letter_place(source)

    def new_destinations(self) -> list[tuple[int, DestinationPlace]]:
        """The Destinations that are to be provisioned, each with its index in the Listener's document."""
        live = {place.resource.name: place for place in self._destination_places if not place.removed}
        found = [(index, live[one.name]) for index, one in enumerate(self._listener.destination_specs)]
        return [(at, one) for at, one in found if one.made is not None and id(one.made) not in self._kept]

    async def provision_destination(self, index: int, place: DestinationPlace, undo: AsyncExitStack) -> None:
        """Provision one of `new_destinations`; `undo` closes it again."""
        assert place.made is not None  # noqa: S101
        undo.push_async_callback(close_made, place.made)
        try:
            await place.made.provision()
        except (Exception, SystemExit) as error:
            if not isinstance(error, DestinationError):
                cause = f"the Destination {place.resource.name} failed to begin ({failure(error)})"
                error = DestinationError(cause, "report it to those who provide it")
            raise self._refused_destination(index, error) from None

    async def provision_sources(self, undo: AsyncExitStack) -> None:
        """Provision the new sources, one after the other; `undo` closes them again."""
        for at, source in enumerate(self._source_places):
            if source.removed or source.inlet is not None:
                continue
            try:
                inlet = self._node.inlet(source.resource, at, source.state, self.running.egress)
                if inlet is not None:
                    source.inlet = inlet
                    undo.push_async_callback(close_made, inlet)
                    await inlet.provision()
            except (Exception, SystemExit) as error:
                if not isinstance(error, SourceError):
                    cause = f"its MessageSource failed to begin ({failure(error)})"
                    error = SourceError(cause, "report it to those who provide it")
                raise self._refused_source(source.resource, error) from None

    def spec(self) -> dict[str, object]:
        """The Listener after the change, as the native side reads it."""
        return self.running.spec(self._listener, self._destination_places, self._source_places)

    def open(self, number: int, ports: AssignedPorts) -> None:
        """Bind a new Listener, whose id is `number`. It receives from here on; its packets wait for the switch. Blocks;
        `running.serve` is next."""
        self.running.destinations, self.running.sources = self._destination_places, self._source_places
        self.running.open(number, ports)

    def switch(self, recalled: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        """Give packets and messages to the new Destinations and sources from here on. The switch cannot be refused.

        `recalled` has, by PacketSource, `(Id, seconds ago)` of entries that it sent before this start, or is to send
        later (less than 0).
        """
        running = self.running
        before: list[DestinationPlace] = []
        sources_before: list[SourcePlace] = []
        if running.destinations is not self._destination_places:
            before, sources_before = running.destinations, running.sources
            running.port.update(json.dumps(self.spec()))
            if running.peers is not None:
                running.peers.change(running.resource, self._listener)
            running.egress.rename(
                [place.resource.name for place in self._source_places],
                [place.resource.name for place in self._destination_places],
            )
        running.resource = self._listener
        self._node.log_groups.hold(running, self._listener)
        self._node.metrics.hold(running, self._listener)
        self._node.domains.hold(running, self._listener, running.readmit)
        running.destinations, running.sources = self._destination_places, self._source_places
        running.port.remember(
            [
                (at, entry_id, ago)
                for at, name in self._new_sources
                for entry_id, ago in recalled.get(name, ())
            ]
        )
        for name, place_of_letters in self._dead_letters.items():
            self._node.dead_letters.use(name, place_of_letters)
        for index, place in enumerate(running.destinations):
            self._switch_destination(index, before[index] if index < len(before) else None, place)
        for index, source in enumerate(running.sources):
            self._switch_source(index, sources_before[index] if index < len(sources_before) else None, source)

    # Places

    def _free(self, before: Sequence[_Place], after: Sequence[_Place]) -> Iterator[int]:
        """Places of removed ones of which nothing is left, from the first on."""
        for at, place in enumerate(before):
            if place.removed and place.ended and after[at] is place and not self._held(place, at):
                yield at

    def _held(self, place: _Place, at: int) -> bool:
        egress = self.running.egress
        return egress.holds(source=at) if isinstance(place, SourcePlace) else egress.holds(destination=at)

    def _place_destination(
        self, index: int, resource: DestinationSpec, at: int | None, free: Iterator[int]
    ) -> None:
        """Give a Destination its place: that from before is `at`."""
        arn = resource.arn_for(self._node.region)
        place = self.running.destinations[at] if at is not None else None
        # Answers are read with the formatter of their packets, and queued packets still go to the target of before.
        stays = (
            place is not None
            and place.resource.formatter == resource.formatter
            and (place.made is None or arn is not None)
        )
        if place is None or at is None or not stays:
            made = self._create(index, resource, arn)
            _put(self._destination_places, next(free, None), DestinationPlace(resource, made))
        elif place.made is not None and _delivers_alike(place.resource, resource, self._node.region):
            self._destination_places[at] = dataclasses.replace(place, resource=resource)
        else:
            made = self._create(index, resource, arn)
            self._destination_places[at] = DestinationPlace(resource, made, place.delivery)

    def _place_source(self, source: PacketSource, state: str, at: int | None, free: Iterator[int]) -> None:
        """Give a PacketSource its place: that from before is `at`."""
        if at is None:
            given = next(free, None)
            self._new_sources.append((len(self._source_places) if given is None else given, source.name))
            _put(self._source_places, given, SourcePlace(source, state))
            return
        place = self.running.sources[at]
        native = _NATIVE_OF_LOCAL_SOURCE if self._node.has_topics else _NATIVE_OF_SOURCE
        alike = place.state == state and _differ_only_in(place.resource, source, native)
        kept = (place.inlet, place.task) if alike else (None, None)
        self._source_places[at] = SourcePlace(source, state, *kept)

    def _create(self, index: int, resource: DestinationSpec, arn: str | None) -> Destination | None:
        if arn is None:
            return None
        try:
            context = self._node.destination_context(self._listener.name, resource, arn)
            return create(resource, arn, context, resource.arguments_for(self._node.region))
        except DestinationError as error:
            raise self._refused_destination(index, error) from None

    def _refused_destination(self, index: int, error: DestinationError) -> Refused:
        found = error.finding(("destination_arn",)).under("destinations", index)
        return Refused(found.of(Listener, self._listener.name))

    def _refused_source(self, resource: PacketSource, error: SourceError) -> Refused:
        path = ("sns_topic_source" if resource.sns_topic_source else "message_source",)
        return Refused(Finding(path, error.cause, error.fix).of(PacketSource, resource.name))

    # The switch

    def _switch_destination(
        self, index: int, before: DestinationPlace | None, place: DestinationPlace
    ) -> None:
        if before is place:
            return
        if place.removed:
            if before is not None and not before.removed:
                self._node.later(self._retire(place), f"retire {place.resource.name}")
            return
        was = before if before is not None and not before.removed else None
        if was is not None and place.made is was.made:
            return
        counters = None
        if was is not None and was.delivery is not None:
            was.delivery.hand_over()
            counters = was.delivery.counters
            self._node.later(_end_delivery(was), f"retire {was.resource.name}")
        place.delivery = self._delivery(index, place, counters) if place.made is not None else None

    def _delivery(self, index: int, place: DestinationPlace, counters: DeliveryStats | None) -> Delivery:
        running = self.running
        assert place.made is not None  # noqa: S101

        delivery = Delivery(
            place.made,
            running.port.reader(index),
            listener=running.name,
            events=self._node.events,
            reply=partial(running.egress.reply, index),
            reply_now=partial(running.egress.reply_now, index),
            on_delivered=partial(self._node.live.batches.delivered, running.name, place.resource.name),
            counters=counters,
        )
        delivery.start()
        return delivery

    def _switch_source(self, index: int, before: SourcePlace | None, place: SourcePlace) -> None:
        if before is place:
            return
        was = before if before is not None and not before.removed else None
        if was is not None and (place.removed or was.inlet is not place.inlet):
            # The old source is cancelled and the new one begun in one step: no message is lost, and none comes twice.
            if was.task is not None:
                was.task.cancel()
            self._node.later(self._end_inlet(was, place, index), f"end {was.resource.name}")
        if not place.removed and place.task is None and place.inlet is not None:
            place.task = asyncio.create_task(
                run_inlet(place.inlet, self.running.name, self._node.events),
                name=f"source {place.resource.name}",
            )

    async def _end_inlet(self, was: SourcePlace, place: SourcePlace, index: int) -> None:
        await end_inlet(was, RETIRE_SECONDS)
        if place.removed:
            # Nobody is in a hurry here: its place and its dead letters are kept for as long as a message is held.
            while self.running.egress.holds(source=index):  # noqa: ASYNC110
                await asyncio.sleep(EMPTY_SECONDS)
            place.ended = True
            self._node.let_go(place.resource.name)

    async def _retire(self, place: DestinationPlace) -> None:
        """Deliver the packets that a removed Destination still has, and close it."""
        if place.delivery is not None:
            await place.delivery.drain(RETIRE_SECONDS)
        await close_made(place.made)
        place.ended = True


async def _end_delivery(place: DestinationPlace) -> None:
    """Complete the running deliveries of a Destination whose queue has a new Delivery, and close it."""
    if place.delivery is not None:
        await place.delivery.end_running(RETIRE_SECONDS)
    await close_made(place.made)


def _delivers_alike(before: DestinationSpec, after: DestinationSpec, region: str) -> bool:
    was, now = ((one.arn_for(region), one.arguments_for(region)) for one in (before, after))
    return was == now and _differ_only_in(
        before, after, _NATIVE_OF_DESTINATION | {"destination_arn", "arguments"}
    )


def _differ_only_in(
    before: DestinationSpec | PacketSource, after: DestinationSpec | PacketSource, fields: set[str]
) -> bool:
    return before.model_dump(exclude=fields) == after.model_dump(exclude=fields)


def _by_name(places: Sequence[_Place]) -> dict[str, int]:
    """The places that are not removed, by name."""
    return {place.resource.name: at for at, place in enumerate(places) if not place.removed}


def _put(places: list[_T], index: int | None, place: _T) -> None:
    if index is None:
        places.append(place)
    else:
        places[index] = place
