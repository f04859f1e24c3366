"""From what runs to what is wanted, in one step (contract section 1; `docs/architecture.md`, "Changes").

Theory of operation. A start, a reload and a call of the API all come here. The wanted resources are compared with those
that run, and only Listeners that differ are touched. Every step that can be refused comes before the switch:
Destinations are made and provisioned, new sockets are bound, the state is written. If a step is refused, the steps
before it are undone. The switch itself hands what is ready to the native side and cannot be refused. Replaced and
removed resources then complete the packets and messages that they have.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import structlog

from sluicegate import _native
from sluicegate.model import BindAddress, DestinationSpec, Listener, PacketSource
from sluicegate.model.address import BoundAddresses
from sluicegate.running.bind import AssignedPorts
from sluicegate.running.change import Change
from sluicegate.running.documents import Desired, Refused
from sluicegate.running.listener import RunningListener
from sluicegate.running.node import Node
from sluicegate.running.peers import keyless, own_key, reserve_stamps
from sluicegate.running.provision import provision_all
from sluicegate.state import SealedPair

log = structlog.get_logger("sluicegate.runtime")

END_SECONDS = 4.0
"""Seconds that a replaced or deleted Listener has to complete its packets and messages. The client waits for it."""
VACATE_SECONDS = 1.0
"""Seconds that a replaced or deleted Listener has to complete them when another Listener needs its port."""

AT_ONCE = 16
"""Listeners that are made or opened between two turns of the event loop."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Plan:
    """Names of Listeners by what becomes of them. Unchanged Listeners are not in it."""

    create: list[str] = field(default_factory=list)
    change: dict[str, list[str]] = field(default_factory=dict)
    """Name of a Listener → the parts of it that change, in the words of the resource."""
    replace: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.create or self.change or self.replace or self.delete)

    def lines(self) -> list[str]:
        """The plan in words, one line for each Listener."""
        changed = [f"change Listener {name} ({', '.join(what)})" for name, what in self.change.items()]
        return [
            *(f"create Listener {name}" for name in self.create),
            *changed,
            *(
                f"replace Listener {name}: its port, protocol, key or kind of delivery changes"
                for name in self.replace
            ),
            *(f"delete Listener {name}" for name in self.delete),
        ]


class Runtime:
    """The Listeners that run. Belongs to the event loop. The caller makes one change at a time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.listeners: dict[str, RunningListener] = {}
        self._sources: dict[str, tuple[RunningListener, int]] = {}

    def source(self, name: str) -> tuple[RunningListener, int] | None:
        """The Listener that a PacketSource runs on, and its place there; None if none runs it."""
        return self._sources.get(name)

    async def plan(self, desired: Desired, touched: Collection[str] | None = None) -> Plan:
        """The steps from the Listeners that run to `desired`. The others than `touched` are as they were."""
        names = [*self.listeners, *desired.listeners] if touched is None else touched
        return await asyncio.to_thread(self._plan, desired, names)

    def _plan(self, desired: Desired, names: Iterable[str]) -> Plan:
        plan = Plan()
        for name in dict.fromkeys(names):
            running, listener = self.listeners.get(name), desired.listeners.get(name)
            if listener is None:
                plan.delete += [name] if running is not None else []
            elif running is None:
                plan.create.append(name)
            elif self._needs_another(running, listener):
                plan.replace.append(name)
            elif what := _differences(running, listener, desired.sources(name)):
                plan.change[name] = what
        return plan

    def _needs_another(self, running: RunningListener, listener: Listener) -> bool:
        before = running.resource
        if (listener.protocol, listener.bind, listener.multicast) != (
            before.protocol,
            before.bind,
            before.multicast,
        ):
            return True
        if listener.protocol != "wg":
            return False
        if listener.decapsulated_delivery != before.decapsulated_delivery:
            return True
        if (listener.private_key, listener.key_refresh_token) == (
            before.private_key,
            before.key_refresh_token,
        ):
            return False
        # A given key may be the one that the Listener has, and a token the one that its key was made for.
        pair = own_key(listener, self._node.wireguard)
        return not pair.kept or _native.public_key(pair.private) != running.public_key

    async def apply(
        self, desired: Desired, plan: Plan, commit: Callable[[list[SealedPair]], _T]
    ) -> tuple[_T, Coroutine[None, None, None]]:
        """Run `desired` by `plan`. `commit` (which blocks) writes it down, with new key pairs, once nothing else can be
        refused.

        Returns `(result of commit, ending)`. Await `ending`, which ends the replaced and deleted Listeners. Raises
        `Refused`, or what `commit` raises, and then everything is as before.
        """
        wanted = desired.listeners
        fresh = [*plan.create, *plan.replace]
        leaving = {name: self.listeners[name] for name in [*plan.delete, *plan.replace]}
        running = {name: RunningListener(self._node, wanted[name]) for name in fresh}
        running |= {name: self.listeners[name] for name in plan.change}
        changes = {name: Change(one, wanted[name], desired.sources(name)) for name, one in running.items()}
        clients = [*(wanted[name] for name in changes), *(one.resource for one in leaving.values())]
        async with self._node.domains.ahead(clients), AsyncExitStack() as undo:
            for some in batched(changes.values(), AT_ONCE):
                for change in some:
                    change.make()
                await asyncio.sleep(0)
            if fresh:
                await self._open([changes[name] for name in fresh], wanted.values(), leaving.values(), undo)
            recalled = await self._node.recall({s for change in changes.values() for s in change.new_sources})
            await provision_all(list(changes.values()), undo)
            result = await _completed(asyncio.to_thread(lambda: commit(self._new_pairs(changes.values()))))
            undo.pop_all()
            self._switch(desired, changes, recalled, plan)
        return result, self._end(leaving, plan)

    def _new_pairs(self, changes: Iterable[Change]) -> list[SealedPair]:
        """The key pairs that Listeners begin to use with these changes."""
        opened = [(change.running.name, change.running.key_pair) for change in changes]
        return [
            self._node.wireguard.sealed(name, pair)
            for name, pair in opened
            if pair is not None and not pair.kept
        ]

    def _switch(
        self,
        desired: Desired,
        changes: Mapping[str, Change],
        recalled: Mapping[str, list[tuple[str, float]]],
        plan: Plan,
    ) -> None:
        for name in [*plan.delete, *changes]:
            if name in self.listeners:
                self._forget_sources(self.listeners[name])
        for change in changes.values():
            change.switch(recalled)
            self._note_sources(change.running)
        self._node.want(desired)
        running = self.listeners | {name: change.running for name, change in changes.items()}
        self.listeners = {name: running[name] for name in desired.listeners}
        for name, what in plan.change.items():
            self._node.events.emit("ListenerChanged", Listener=name, Detail=", ".join(what))

    async def _end(self, leaving: Mapping[str, RunningListener], plan: Plan) -> None:
        await asyncio.sleep(0)  # the tasks of new sources begin
        still = [one for one in leaving.values() if not one.ended]
        await asyncio.gather(*(one.stop_sources() for one in still))
        await asyncio.gather(*(one.end(END_SECONDS) for one in still))
        for one in leaving.values():
            for _, place in one.live_sources:
                self._node.let_go(place.resource.name)
        await asyncio.to_thread(self._node.state.release_listeners, plan.delete)
        self._node.sweep()

    def _note_sources(self, running: RunningListener) -> None:
        self._sources |= {place.resource.name: (running, at) for at, place in running.live_sources}

    def _forget_sources(self, running: RunningListener) -> None:
        """Forget where the PacketSources of a Listener run, except those that another one has by now."""
        for _, place in running.live_sources:
            if self._sources.get(place.resource.name, (None, 0))[0] is running:
                del self._sources[place.resource.name]

    # Binding

    async def _open(
        self,
        changes: Sequence[Change],
        wanted: Iterable[Listener],
        leaving: Collection[RunningListener],
        undo: AsyncExitStack,
    ) -> None:
        """Bind new Listeners, some at a time, after those that leave have given up the ports for it."""
        state = self._node.state
        fixed = (port for listener in wanted if (port := listener.bind_address().port))
        # A Listener that ran before this start keeps its port and its key, even if it cannot be opened now.
        numbers, new = await asyncio.to_thread(
            state.listener_ids, [change.running.name for change in changes]
        )
        undo.push_async_callback(asyncio.to_thread, state.release_listeners, new)
        ports = await asyncio.to_thread(AssignedPorts, state, self._node.ports, fixed)
        resources = [change.running.resource for change in changes]
        await asyncio.to_thread(self._node.wireguard.make_key_pairs, keyless(resources))
        stamps = await asyncio.to_thread(reserve_stamps, resources, self._node.wireguard, self._node.events)
        for change in changes:
            change.running.stamps = stamps
        holders = _bound(leaving)
        for some in batched(changes, AT_ONCE):
            for holder in {
                id(one): one
                for change in some
                for one in holders.holders(_asks_for(change.running.resource, ports))
                if not one.ended
            }.values():
                undo.push_async_callback(self._revive, holder)
                await holder.stop_sources()
                await holder.end(VACATE_SECONDS)
            try:
                await _ended(asyncio.to_thread(_open_all, some, numbers, ports))
            finally:
                for change in some:
                    if change.running.is_open:
                        change.running.serve()
                        undo.push_async_callback(self._take_back, change.running)
        await asyncio.to_thread(ports.keep)

    async def _take_back(self, running: RunningListener) -> None:
        """Close a Listener that was opened for a refused change. Its Destinations have an undo step of their own."""
        running.destinations = []
        await running.end(0.0)

    async def _revive(self, ended: RunningListener) -> None:
        """Run a Listener again that has given up its port for a change that was refused later."""
        sources = [(place.resource, place.state) for _, place in ended.live_sources]
        again = Change(RunningListener(self._node, ended.resource), ended.resource, sources)
        try:
            async with AsyncExitStack() as undo:
                again.make()
                await self._open([again], [], [], undo)
                recalled = await self._node.recall(again.new_sources)
                await provision_all([again], undo)
                undo.pop_all()
        except Refused as error:
            self._node.events.emit(
                "ListenerLost",
                Listener=ended.name,
                Reason="NotReopened",
                Detail=f"it gave up its port for a change that was refused, and did not get it back: {error}",
            )
            return
        self._forget_sources(ended)
        again.switch(recalled)
        self._note_sources(again.running)
        self.listeners[ended.name] = again.running


async def _ended(work: Coroutine[None, None, None]) -> None:
    """Await `work`. Whoever cancels this waits until it has ended: what a thread has begun, it ends."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


async def _completed(work: Coroutine[None, None, _T]) -> _T:
    """The result of `work`. A cancellation comes too late here: what is written down is going to run."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    return task.result()


def _open_all(changes: Iterable[Change], numbers: Mapping[str, int], ports: AssignedPorts) -> None:
    """Bind Listeners until one is refused. Blocks."""
    for change in changes:
        change.open(numbers[change.running.name], ports)


def _bound(running: Iterable[RunningListener]) -> BoundAddresses[RunningListener]:
    """The addresses that Listeners hold."""
    bound = BoundAddresses[RunningListener]()
    for one in running:
        address = one.resource.bind_address()
        bound.add(address._replace(port=one.port.local_address[1]), one)
    return bound


def _asks_for(listener: Listener, ports: AssignedPorts) -> BindAddress:
    """The address that a Listener is going to bind; without a port if a new one is assigned to it."""
    address = listener.bind_address()
    return address if address.port is not None else address._replace(port=ports.of(listener.name))


def _differences(
    running: RunningListener, listener: Listener, sources: Sequence[tuple[PacketSource, str]]
) -> list[str]:
    """The parts of a Listener that change: names of its fields, and of its Destinations and PacketSources."""
    before, after = running.resource, listener
    found: list[str] = []
    if before is not after and before != after:
        found += [
            name
            for name in Listener.model_fields
            if name != "destinations" and getattr(before, name) != getattr(after, name)
        ]
        found += _named("Destination", before.destination_specs, after.destination_specs)
    were = [place.resource for _, place in running.live_sources]
    found += _named("PacketSource", were, [source for source, _ in sources])
    states = {place.resource.name: place.state for _, place in running.live_sources}
    found += [f"state of PacketSource {s.name}" for s, state in sources if states.get(s.name, state) != state]
    return found


def _named(
    kind: str,
    before: Sequence[DestinationSpec | PacketSource],
    after: Sequence[DestinationSpec | PacketSource],
) -> list[str]:
    old = {one.name: one for one in before}
    new = {one.name: one for one in after}
    names = dict.fromkeys([*old, *new])
    changed = [f"{kind} {name}" for name in names if old.get(name) != new.get(name)]
    # `DestinationNames` shows the order, so a change of it counts.
    return changed or ([f"order of {kind}s"] if kind == "Destination" and list(old) != list(new) else [])


def batched(items: Iterable[_T], count: int) -> Iterator[list[_T]]:
    """The items, so many at a time."""
    rest = iter(items)
    while some := list(islice(rest, count)):
        yield some
