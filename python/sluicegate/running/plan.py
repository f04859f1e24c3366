"""From what runs to what is wanted, in one step (contract section 1; `docs/architecture.md`, "Changes").

Theory of operation. A start, a reload and a call of the API all come here. The wanted resources are compared with those
that run, and only Listeners that differ are touched. Every step that can be refused comes before the switch:
Destinations are made and provisioned, new sockets are bound, the state is written. If a step is refused, the steps
before it are undone. The switch itself hands what is ready to the native side and cannot be refused. Replaced and
removed resources then complete the packets and messages that they have.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from sluicegate import _native
from sluicegate.model import BindAddress, DestinationSpec, Listener, PacketSource
from sluicegate.running.change import Change
from sluicegate.running.documents import Desired, Refused
from sluicegate.running.listener import RunningListener
from sluicegate.running.node import Node
from sluicegate.running.peers import own_key
from sluicegate.state import SealedPair

log = structlog.get_logger("sluicegate.runtime")

END_SECONDS = 4.0
"""Seconds that a replaced or deleted Listener has to complete its packets and messages. The client waits for it."""
VACATE_SECONDS = 1.0
"""Seconds that a replaced or deleted Listener has to complete them when another Listener needs its port."""

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

    def plan(self, desired: Desired) -> Plan:
        """The steps from the Listeners that run to `desired`."""
        plan = Plan(delete=[name for name in self.listeners if name not in _names(desired)])
        for listener in desired.listeners:
            running = self.listeners.get(listener.name)
            if running is None:
                plan.create.append(listener.name)
            elif self._needs_another(running, listener):
                plan.replace.append(listener.name)
            elif what := _differences(running, listener, _sources(desired, listener.name)):
                plan.change[listener.name] = what
        return plan

    def _needs_another(self, running: RunningListener, listener: Listener) -> bool:
        before = running.resource
        if (listener.protocol, listener.bind) != (before.protocol, before.bind):
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
        self, desired: Desired, commit: Callable[[list[SealedPair]], _T]
    ) -> tuple[_T, Coroutine[None, None, None]]:
        """Run `desired`. `commit` (which blocks) writes it down, with new key pairs, once nothing else can be refused.

        Returns `(result of commit, ending)`. Await `ending`, which ends the replaced and deleted Listeners. Raises
        `Refused`, or what `commit` raises, and then everything is as before.
        """
        plan = self.plan(desired)
        wanted = {listener.name: listener for listener in desired.listeners}
        fresh = [*plan.create, *plan.replace]
        leaving = {name: self.listeners[name] for name in [*plan.delete, *plan.replace]}
        changes = {
            name: Change(
                RunningListener(self._node, wanted[name]) if name in fresh else self.listeners[name],
                wanted[name],
                _sources(desired, name),
            )
            for name in wanted
            if name in fresh or name in plan.change
        }
        fixed = {port for listener in desired.listeners if (port := listener.bind_address().port)}
        clients = [*(wanted[name] for name in changes), *(one.resource for one in leaving.values())]
        async with self._node.domains.ahead(clients), AsyncExitStack() as undo:
            for change in changes.values():
                change.make()
            # A Listener that ran before this start keeps its port and its key, even if it cannot be opened now.
            known = set(await asyncio.to_thread(self._node.state.listener_names))
            for name in fresh:
                await self._open(changes[name], fixed, leaving, name not in known, undo)
            recalled = await self._node.recall({s for change in changes.values() for s in change.new_sources})
            for change in changes.values():
                await change.provision(undo)
            result = await asyncio.to_thread(lambda: commit(self._new_pairs(changes.values())))
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
        for change in changes.values():
            change.switch(recalled)
        self._node.want(desired)
        running = {name: change.running for name, change in changes.items()}
        self.listeners = {name: running.get(name) or self.listeners[name] for name in _names(desired)}
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
        for name in plan.delete:
            await asyncio.to_thread(self._node.state.release_listener, name)
        self._node.sweep()

    # Binding

    async def _open(
        self,
        change: Change,
        fixed: set[int],
        leaving: Mapping[str, RunningListener],
        is_new: bool,
        undo: AsyncExitStack,
    ) -> None:
        name = change.running.name
        for holder in leaving.values():
            if not holder.ended and self._in_the_way(holder, change.running.resource):
                undo.push_async_callback(self._revive, holder)
                await holder.stop_sources()
                await holder.end(VACATE_SECONDS)
        try:
            await change.open(fixed)
        except Refused:
            if is_new:
                await asyncio.to_thread(self._node.state.release_listener, name)
            raise
        undo.push_async_callback(self._take_back, change.running, is_new)

    def _in_the_way(self, holder: RunningListener, listener: Listener) -> bool:
        host, number, dual_stack = listener.bind_address()
        if number is None:
            number = self._node.state.assigned_port(listener.name)
        theirs = holder.resource.bind_address()
        bound = BindAddress(theirs.host, holder.port.local_address[1], theirs.dual_stack)
        return number is not None and BindAddress(host, number, dual_stack).overlaps(bound)

    async def _take_back(self, running: RunningListener, is_new: bool) -> None:
        """Close a Listener that was opened for a refused change. Its Destinations have an undo step of their own."""
        running.destinations = []
        await running.end(0.0)
        if is_new:
            await asyncio.to_thread(self._node.state.release_listener, running.name)

    async def _revive(self, ended: RunningListener) -> None:
        """Run a Listener again that has given up its port for a change that was refused later."""
        sources = [(place.resource, place.state) for _, place in ended.live_sources]
        again = Change(RunningListener(self._node, ended.resource), ended.resource, sources)
        try:
            async with AsyncExitStack() as undo:
                again.make()
                await again.open(set())
                undo.push_async_callback(self._take_back, again.running, False)
                recalled = await self._node.recall(again.new_sources)
                await again.provision(undo)
                undo.pop_all()
        except Refused as error:
            self._node.events.emit(
                "ListenerLost",
                Listener=ended.name,
                Reason="NotReopened",
                Detail=f"it gave up its port for a change that was refused, and did not get it back: {error}",
            )
            return
        again.switch(recalled)
        self.listeners[ended.name] = again.running


def _names(desired: Desired) -> list[str]:
    return [listener.name for listener in desired.listeners]


def _sources(desired: Desired, listener: str) -> list[tuple[PacketSource, str]]:
    return [
        (one, desired.states[one.name]) for one in desired.packet_sources if one.listener_name == listener
    ]


def _differences(
    running: RunningListener, listener: Listener, sources: list[tuple[PacketSource, str]]
) -> list[str]:
    """The parts of a Listener that change: names of its fields, and of its Destinations and PacketSources."""
    before, after = running.resource, listener
    found = [
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
