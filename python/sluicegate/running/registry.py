"""Resources as users change them: declared by the file or by the API, versioned, approved, and written down.

There is one change at a time, whoever asks for it. A change is checked as a whole (`documents.desire`), carried out
and written to the state (`plan.py`), and reported as events: `ResourceChanged` says who did what, `SourceStateChanged`
what became of a PacketSource. A refused change changes nothing, and is reported too.
"""

import asyncio
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from uuid import uuid4

import structlog

from sluicegate.config import Config, ConfigError, load
from sluicegate.events import EventLog
from sluicegate.faults import failure
from sluicegate.model import (
    Finding,
    FindingsError,
    GatewayConfig,
    Listener,
    Peer,
    keep_secrets,
    secrets_of,
)
from sluicegate.model.publickey import canonical, own_key_among, spellings
from sluicegate.model.text import absent, some
from sluicegate.running import descriptors
from sluicegate.running.documents import (
    KINDS,
    Desired,
    Refused,
    notes_about,
    parse,
    parse_peer,
    resource_url,
)
from sluicegate.running.inventory import Inventory, Key
from sluicegate.running.judging import Judged, decided, judge_part, judge_whole
from sluicegate.running.listener import RunningListener
from sluicegate.running.node import Node
from sluicegate.running.peers import peer_spec, secret_of
from sluicegate.running.plan import Runtime
from sluicegate.sources.topic.leftovers import Leftovers
from sluicegate.state import Commit, Decision, ResourceTable, StateError, Stored

log = structlog.get_logger("sluicegate.registry")

# Settings that a reload takes over; every other one needs a restart.
_RELOADED = {"listeners", "packet_sources", "require_approval", "ports", "local_code", "local_networks"}

_T = TypeVar("_T")

GONE_SECONDS = 4.0
"""Seconds that a delete waits until the PacketSource's leftovers on AWS are removed. Their removal goes on after it."""


class NotFound(Exception):
    """There is no resource of this kind and name."""


class WrongVersion(Exception):
    """A resource has changed since the client read it. `current` is its version now."""

    def __init__(self, message: str, current: str) -> None:
        super().__init__(message)
        self.current = current


@dataclass(frozen=True, slots=True)
class Declared:
    """A resource as it was declared. `owner` is `File` or `Api`. Every change of the resource changes `version`."""

    kind: str
    resource: Any
    owner: str
    version: str


@dataclass(frozen=True, slots=True)
class Proposed:
    """A change that may be made later. `name` is the resource's name. A delete ignores `document`."""

    action: Literal["Create", "Replace", "Delete"]
    kind: str
    name: str
    document: Any = None
    version: str | None = None
    """The version that the resource must have to be replaced; None allows any."""


class Registry:
    """The resources of a node, and every way to change them. Belongs to the event loop. `config`: the file in force."""

    def __init__(
        self,
        config: Config,
        table: ResourceTable,
        node: Node,
        events: EventLog,
        renew: Callable[[Config], Callable[[], list[str]]] = lambda config: list,
    ) -> None:
        """`renew` gets ready what a reload takes over beside the resources, and may raise `Refused`; what it returns
        is called once the resources have changed."""
        self.config = config
        self._renew = renew
        self._table = table
        self._node = node
        self._events = events
        self._changing = asyncio.Lock()
        self._stopping = False
        self._step: asyncio.Future[Any] | None = None
        """What a change waits for and may still be given up at."""
        self._stored: dict[Key, Stored] = {}
        self._inventory = Inventory()
        self._digests: dict[Key, str] = {}
        """Versions of resources of the file, as far as somebody has asked."""
        self._decisions: dict[str, Decision] = {}
        self._states: dict[str, str] = {}
        self.desired = Desired()
        self.runtime = Runtime(node)
        node.leftovers.drained = self._on_drained

    async def start(self) -> None:
        """Run the resources of the file and of the state. Raises `Refused` and `StateError`."""
        self._stored, self._decisions = await asyncio.to_thread(self._read)
        async with self._turn():
            await self._change(Commit(), starting=True)
        known = await asyncio.to_thread(self._node.state.listener_names)
        gone = [name for name in known if name not in self.runtime.listeners]
        await asyncio.to_thread(self._node.state.release_listeners, gone)

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Wait for a change under way, and refuse every later one: the gateway stops."""
        self.stop()
        async with self._changing:
            yield

    def stop(self) -> None:
        """Refuse every change from now on. One under way is undone and refused too, unless it is written down already:
        then it is completed."""
        self._stopping = True
        if self._step is not None:
            self._step.cancel()

    async def _unless_stopping(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, which is cancelled when the gateway stops. Raises `Refused` then."""
        self._step = step = asyncio.ensure_future(work)
        try:
            return await step
        except asyncio.CancelledError:
            if step.cancelled():
                self._refuse_stopping()
            raise
        finally:
            self._step = None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for the turn of a change: there is one at a time. Raises `Refused` once the gateway stops."""
        self._refuse_stopping()
        async with self._changing:
            self._refuse_stopping()
            yield

    def _refuse_stopping(self) -> None:
        if self._stopping:
            raise Refused(Finding((), "the gateway is stopping", "try again when it runs", conflict=True))

    # What there is

    def declared(self, kind: str) -> list[Declared]:
        """Every resource of this kind: the file's, then the API's in the order of their creation."""
        return [self.find(*key) for key in self.names(kind)]

    def names(self, kind: str) -> list[Key]:
        """The keys of `declared`, each for `find`."""
        return [key for key in self._inventory.resources if key[0] == kind]

    def find(self, kind: str, name: str) -> Declared:
        """The resource of this kind and name. Raises `NotFound`."""
        resource = self._inventory.resources.get((kind, name))
        if resource is None:
            raise NotFound(self.absent(kind, name))
        stored = self._stored.get((kind, name))
        if stored is not None:
            return Declared(kind, resource, "Api", str(stored.version))
        if (kind, name) not in self._digests:
            self._digests[kind, name] = _digest(resource.dump())
        return Declared(kind, resource, "File", self._digests[kind, name])

    def running(self, name: str) -> RunningListener:
        """The running Listener `name`. Raises `NotFound`."""
        found = self.runtime.listeners.get(name)
        if found is None:
            raise NotFound(self.absent("Listener", name))
        return found

    def absent(self, kind: str, name: str) -> str:
        """A sentence that says so, and what there is."""
        return absent(kind, name, [known for _, known in self.names(kind)])

    # Changes by the API

    async def create(
        self,
        kind: str,
        data: Any,
        who: str,
        *,
        lenient: bool = False,
        more_code: tuple[str, ...] = (),
    ) -> tuple[Declared, list[str]]:
        """Make a resource. Returns it with warnings. Raises `Refused`, as a conflict if its name is in use.

        `more_code`: folders in which its code may lie beside those of the configuration; kept with it.
        """
        generated = f"{kind.lower()}-{uuid4().hex[:10]}"
        async with self._turn():
            with self._audit(who, "Create", kind, "") as audit:
                resource, warnings = await asyncio.to_thread(
                    parse, kind, data, self.config, name=generated, lenient=lenient, more_code=more_code
                )
                audit.name = name = resource.name
                self._refuse_file(kind, name)
                self._refuse_taken(kind, name)
                await self._change(Commit(put=[_stored(kind, resource, more_code)]))
        return self.find(kind, name), warnings

    async def replace(
        self,
        kind: str,
        name: str,
        data: Any,
        who: str,
        *,
        versions: Collection[str] | None,
        lenient: bool = False,
        more_code: tuple[str, ...] = (),
    ) -> tuple[Declared, list[str]]:
        """Give a resource another document. Returns it with warnings. `more_code` as for `create`, in place of those of
        before.

        Raises `NotFound`, `Refused`, and `WrongVersion` unless its version is among `versions` (None: any).
        """
        async with self._turn():
            with self._audit(who, "Replace", kind, name):
                self._refuse_file(kind, name)
                self._check_version(kind, name, versions)
                resource, warnings = await asyncio.to_thread(
                    parse, kind, data, self.config, name=name, lenient=lenient, more_code=more_code
                )
                if resource.name != name:
                    cause = f'the document is of "{resource.name}", not of "{name}"'
                    found = Finding(("name",), cause, "a name cannot be changed: create another one")
                    raise Refused(found.of(KINDS[kind], name))
                if isinstance(resource, Listener) and not lenient:
                    # A template has every secret each time. Other clients send back what they read, without secrets.
                    resource = keep_secrets(resource, self.find(kind, name).resource)
                    refreshed = resource.refreshed_own_key()
                    if refreshed is not None:
                        raise Refused(refreshed.of(KINDS[kind], name))
                if isinstance(resource, Listener):
                    await self._refuse_known_peers(resource, [peer.public_key for peer in resource.peers])
                await self._change(Commit(put=[_stored(kind, resource, more_code)]))
        return self.find(kind, name), warnings

    async def delete(self, kind: str, name: str, who: str, *, versions: Collection[str] | None) -> None:
        """Delete a resource. Raises `NotFound`, `WrongVersion` unless its version is among `versions` (None: any), and
        `Refused`, as a conflict while another resource needs it."""
        async with self._turn():
            with self._audit(who, "Delete", kind, name):
                self._refuse_file(kind, name)
                self._check_version(kind, name, versions)
                self._refuse_needed(kind, name)
                await self._change(Commit(delete=[(kind, name)]))
        if kind == "PacketSource":
            # The client may delete the role next, and then the gateway could not unsubscribe.
            await self._node.gone(name, GONE_SECONDS)

    @property
    def leftovers(self) -> Leftovers:
        """The queues on AWS that no PacketSource uses any more."""
        return self._node.leftovers

    async def discard(self, name: str, who: str) -> int:
        """Delete the queues on AWS that are left of the PacketSource `name`, with what waits in them; how many. Raises
        `NotFound` if there is none. What takes longer goes on after it."""
        with self._audit(who, "Discard", "PacketSource", name):
            count = await self.leftovers.discard(name, GONE_SECONDS)
            if not count:
                raise NotFound(f"no queue is left of a PacketSource {name!r}")
        return count

    async def add_peers(self, name: str, data: Sequence[Any], who: str) -> list[Peer]:
        """Add peers to the WireGuard Listener `name`: all of them or none. Raises `NotFound` and `Refused`."""
        async with self._turn():
            with self._audit(who, "AddPeers", "Listener", name) as audit:
                listener = self._with_peers(name)
                running = self.running(name)
                places = [("peers", index) if len(data) > 1 else () for index in range(len(data))]
                peers = await asyncio.to_thread(lambda: list(map(parse_peer, data, places)))
                audit.detail = ", ".join(peer.public_key for peer in peers[:10]) + ", …" * (len(peers) > 10)
                keys = [peer.public_key for peer in peers]
                await self._refuse_known_peers(listener, keys, [one.public_key for one in listener.peers])
                added = [(peer.dump(), secret_of(peer)) for peer in peers]
                await asyncio.to_thread(self._node.wireguard.add_peers, name, added)
                change = {"Set": [peer_spec(peer) for peer in peers]}
                running.port.change_peers(json.dumps(change))
        return peers

    async def remove_peer(self, name: str, public_key: str, who: str) -> None:
        """Remove a peer of the WireGuard Listener `name`, and cut its session at once. Raises `NotFound`, `Refused`."""
        async with self._turn():
            with self._audit(who, "RemovePeer", "Listener", name) as audit:
                audit.detail = public_key
                listener = self._with_peers(name)
                left = [one for one in listener.peers if one.public_key != public_key]
                if len(left) < len(listener.peers):
                    changed = listener.model_copy(update={"peers": left})
                    more_code = self._stored["Listener", name].local_code
                    await self._change(Commit(put=[_stored("Listener", changed, more_code)]))
                elif await asyncio.to_thread(self._node.wireguard.remove_peer, name, public_key):
                    self.running(name).port.change_peers(json.dumps({"Remove": [public_key]}))
                else:
                    raise _no_peer(name, public_key)

    async def reset_peer(self, name: str, public_key: str, who: str) -> None:
        """Forget the stamps of a peer of the WireGuard Listener `name`, whoever declared it: the peer's clock was set
        back. Its session goes on. Raises `NotFound`, `Refused`."""
        async with self._turn():
            with self._audit(who, "ResetPeer", "Listener", name) as audit:
                audit.detail = public_key
                listener = self._tunnels(name)
                listed = any(one.public_key == public_key for one in listener.peers)
                if not listed and not listener.allow_unknown_peers:
                    added = await asyncio.to_thread(self._node.wireguard.peers_among, name, [public_key])
                    if not added:
                        raise _no_peer(name, public_key)
                self.running(name).port.change_peers(json.dumps({"ForgetStamps": [public_key]}))

    def _with_peers(self, name: str) -> Listener:
        """The Listener `name`, if its peers may be changed. Raises `NotFound` and `Refused`."""
        listener = self._tunnels(name)
        self._refuse_file("Listener", name)
        return listener

    def _tunnels(self, name: str) -> Listener:
        """The Listener `name`, which has peers. Raises `NotFound` and `Refused`."""
        listener: Listener = self.find("Listener", name).resource
        if listener.protocol != "wg":
            cause = f'the Listener "{name}" speaks {listener.protocol} and has no peers'
            fix = "name one with `protocol: wg`"
            raise Refused(Finding(("protocol",), cause, fix, conflict=True).of(Listener, name))
        return listener

    async def _refuse_known_peers(
        self, listener: Listener, keys: Sequence[str], others: Collection[str] = ()
    ) -> None:
        """Refuse a key that belongs to another peer, whether the document has that peer or the API added it, and in
        whatever spelling; and the Listener's own key."""
        running = self.runtime.listeners.get(listener.name)
        if running is not None and listener.private_key == running.resource.private_key:
            found = own_key_among(((("public_key",), key) for key in keys), running.public_key)
            if found is not None:
                raise Refused(found.of(Peer, ""))
        every = [one for key in keys for one in spellings(key)]
        added = await asyncio.to_thread(self._node.wireguard.peers_among, listener.name, every)
        known = {canonical(key) for key in (*others, *added)}
        counts = Counter(canonical(key) for key in keys)
        twice = [key for key in counts if key in known or counts[key] > 1]
        if twice:
            cause = f'the Listener "{listener.name}" has a peer with the key {twice[0]}'
            fix = "remove it first, or choose another key"
            raise Refused(Finding(("public_key",), cause, fix, conflict=True).of(Peer, ""))

    async def decide(self, name: str, decision: str, who: str) -> Declared:
        """Record the decision about a PacketSource, `Approved` or `Rejected`. Raises `NotFound`."""
        async with self._turn():
            with self._audit(who, "Approve" if decision == "Approved" else "Reject", "PacketSource", name):
                source = self.find("PacketSource", name).resource
                await self._change(Commit(decide={name: Decision(source.listener_name, decision, who)}))
        return self.find("PacketSource", name)

    async def check(self, changes: Sequence[Proposed], more_code: tuple[str, ...] = ()) -> list[list[str]]:
        """Check whether all of these would be accepted, and change nothing. Returns the warnings of each. Raises
        `Refused` with every reason. `more_code` as for `create`."""
        async with self._turn():
            inventory, desired = self._inventory.copy(), self.desired.copy()
            taken: set[Key] = set()
            found: list[Finding] = []
            warnings: list[tuple[str, str, list[str]]] = []
            for one in changes:
                try:
                    commit = Commit()
                    warnings.append((one.kind, *await self._propose(one, commit, taken, more_code)))
                    if not found:
                        # One after the other, as they will be made: what comes later is not there yet.
                        await asyncio.to_thread(
                            judge_part, self.config, inventory, desired, self._decisions, commit
                        )
                except Refused as error:
                    found += error.findings
            if found:
                raise Refused(*found)
            return [[*said, *notes_about(desired, kind, name)] for kind, name, said in warnings]

    async def _propose(
        self, one: Proposed, commit: Commit, taken: set[Key], more_code: tuple[str, ...]
    ) -> tuple[str, list[str]]:
        """Add a change to `commit`; `taken` are the resources that changes before it make, and this one. Returns
        `(name, warnings)`. Raises `Refused`."""
        model = KINDS[one.kind]
        if one.action == "Delete":
            self._refuse_file(one.kind, one.name)
            commit.delete.append((one.kind, one.name))
            return one.name, []
        resource, warnings = await asyncio.to_thread(
            parse, one.kind, one.document, self.config, name=one.name, lenient=True, more_code=more_code
        )
        self._refuse_file(one.kind, resource.name)
        if one.action == "Create":
            self._refuse_taken(one.kind, resource.name)
        elif one.version is not None:
            try:
                self._check_version(one.kind, resource.name, [one.version])
            except (NotFound, WrongVersion) as error:
                raise Refused(Finding((), str(error), conflict=True).of(model, resource.name)) from None
        if isinstance(resource, Listener) and one.action != "Create":
            await self._refuse_known_peers(resource, [peer.public_key for peer in resource.peers])
        if (one.kind, resource.name) in taken:
            cause = f'two of these are a {one.kind} named "{resource.name}"'
            found = Finding(("name",), cause, "give each its own name", conflict=True)
            raise Refused(found.of(model, resource.name))
        taken.add((one.kind, resource.name))
        commit.put.append(_stored(one.kind, resource, more_code))
        return resource.name, warnings

    # The file

    async def reload(self, who: str) -> list[str]:
        """Apply the file as it is now. Returns the changes in words. Raises `ReloadRefused` if nothing was changed."""
        async with self._turn():
            config = self.config
            try:
                config = await self._unless_stopping(asyncio.to_thread(load, self.config.path))
                _refuse_restart(self.config.gateway, config)
                renewed = self._renew(config)
                lines = await self._change(Commit(), config)
                lines += renewed()
            except Exception as error:
                match error:
                    case ConfigError():
                        found = error.findings
                    case Refused():
                        found = error.located(config)
                    case StateError():
                        found = [Finding((), str(error))]
                    case _:
                        log.exception("a reload failed")
                        found = [fault("take the file over", error)]
                self._events.emit("ReloadRefused", Actor=who, Detail="; ".join(map(str, found)))
                raise ReloadRefused(*found) from None
            self._events.emit("Reloaded", Actor=who, Detail="; ".join(lines) or "nothing changes")
            return lines

    # Steps

    def _read(self) -> tuple[dict[Key, Stored], dict[str, Decision]]:
        return {(one.kind, one.name): one for one in self._table.all()}, self._table.decisions()

    async def _change(
        self, commit: Commit, config: Config | None = None, *, starting: bool = False
    ) -> list[str]:
        self._refuse_stopping()
        if starting or config is not None:
            judging = asyncio.to_thread(
                judge_whole, config or self.config, self.config, self._stored, self._decisions, commit
            )
            judged = await self._unless_stopping(judging)
        else:
            inventory, desired = self._inventory.copy(), self.desired.copy()
            touched = await asyncio.to_thread(
                judge_part, self.config, inventory, desired, self._decisions, commit
            )
            judged = Judged(dict(self._stored), inventory, desired, touched)
        config = config or self.config
        await self._note_drains(judged)
        descriptors.check(judged.desired, config.gateway)
        plan = await self.runtime.plan(judged.desired, judged.touched)
        before, self._node.config = self._node.config, config
        try:
            applying = self.runtime.apply(
                judged.desired,
                plan,
                lambda pairs: self._table.commit(dataclasses.replace(commit, key_pairs=pairs)),
            )
            versions, ending = await self._unless_stopping(applying)
        except BaseException:
            self._node.config = before
            raise
        # No other task runs between the switch and these lines, so that every reader sees what runs.
        if config is not self.config:
            self._digests = {}
        self.config, self.desired, self._inventory = config, judged.desired, judged.inventory
        self._stored = judged.stored
        for key in commit.delete:
            self._stored.pop(key, None)
        for one in commit.put:
            key = one.kind, one.name
            self._stored[key] = dataclasses.replace(one, version=versions[key])
        self._decisions = decided(self._decisions, commit)
        if starting:
            # At a start, the only news is a PacketSource that waits for a decision.
            self._states = {
                name: state for name, state in self.desired.states.items() if state != "PendingApproval"
            }
        self._tell_states(self.desired)
        await ending
        return plan.lines()

    async def _note_drains(self, judged: Judged) -> None:
        """Let the PacketSources that are gone send what waits on AWS, for as long as something may wait."""
        before, desired = self.desired.drains, judged.desired
        await asyncio.to_thread(self._node.note_drains, desired)
        if judged.touched is not None:
            names = {
                name for name in {*before, *desired.drains} if before.get(name) != desired.drains.get(name)
            }
            changed = [
                one for drains in (before, desired.drains) for name, one in drains.items() if name in names
            ]
            judged.touched |= {one.listener_name for one in changed}

    def _on_drained(self) -> None:
        self._node.later(self._end_drained(), "end PacketSources that have drained")

    async def _end_drained(self) -> None:
        with suppress(Refused):  # the gateway stops
            async with self._turn():
                try:
                    await self._change(Commit())
                except Exception:
                    # The next change ends them as well.
                    log.exception("PacketSources that have drained were not ended")

    def _tell_states(self, desired: Desired) -> None:
        for name, state in desired.states.items():
            if self._states.get(name) != state:
                decision = self._decisions.get(name)
                by = f"decided by {decision.by}" if decision and state in ("Active", "Rejected") else ""
                self._events.emit(
                    "SourceStateChanged",
                    Listener=desired.packet_sources[name].listener_name,
                    PacketSource=name,
                    State=state,
                    Detail=by or None,
                )
        self._states = dict(desired.states)

    def _refuse_file(self, kind: str, name: str) -> None:
        if (kind, name) in self._inventory.resources and (kind, name) not in self._stored:
            cause = f'the {kind} "{name}" is declared by {self.config.path}, and the file owns what it names'
            fix = "change it there: the gateway takes it over when the file is reloaded"
            raise Refused(Finding(("name",), cause, fix, conflict=True).of(KINDS[kind], name))

    def _refuse_taken(self, kind: str, name: str) -> None:
        if (kind, name) in self._stored:
            fix = f"change it with PUT {resource_url(kind, name)}, delete it first, or choose another name"
            cause = f'there is already a {kind} named "{name}"'
            raise Refused(Finding(("name",), cause, fix, conflict=True).of(KINDS[kind], name))

    def _check_version(self, kind: str, name: str, versions: Collection[str] | None) -> None:
        current = self.find(kind, name).version
        if versions is not None and not {"*", current} & set(versions):
            raise WrongVersion(
                f"the {kind} {name} has changed since: its version is {current} now, read it again", current
            )

    def _refuse_needed(self, kind: str, name: str) -> None:
        """Refuse to delete a Listener that other resources need."""
        if kind != "Listener":
            return
        users = self._inventory.users(self.find(kind, name).resource)
        if users:
            cause = f'the Listener "{name}" is needed by {some([f"{kind} {user}" for kind, user in users])}'
            raise Refused(Finding((), cause, "delete them first", conflict=True).of(KINDS[kind], name))

    def _audit(self, who: str, action: str, kind: str, name: str) -> "_Audit":
        return _Audit(self._events, who, action, kind, name)


def fault(what: str, error: Exception) -> Finding:
    """The finding for an exception that nobody expected, in our words."""
    cause = f"the gateway failed to {what} ({failure(error)}), and its log says where"
    return Finding((), cause, "this is a fault of Sluicegate: please report it")


class ReloadRefused(FindingsError):
    """A reload was refused. Everything that ran before still runs."""


class _Audit:
    """Reports who did what, and whether it was done (`ResourceChanged`)."""

    def __init__(self, events: EventLog, who: str, action: str, kind: str, name: str) -> None:
        self.name = name
        self.detail: str | None = None
        self._events = events
        self._who, self._action, self._kind = who, action, kind

    def __enter__(self) -> "_Audit":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._events.emit(
            "ResourceChanged",
            Actor=self._who,
            Action=self._action,
            Kind=self._kind,
            Name=self.name or None,
            Result="Done" if error is None else "Refused",
            Detail=str(error)
            if isinstance(error, Refused | NotFound | WrongVersion | StateError)
            else self.detail,
        )


def _stored(kind: str, resource: Any, more_code: tuple[str, ...]) -> Stored:
    return Stored(kind, resource.name, resource.dump(), secrets_of(resource), local_code=more_code)


def _no_peer(listener: str, public_key: str) -> NotFound:
    return NotFound(f"the Listener {listener!r} has no peer with the key {public_key!r}")


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_restart(running: GatewayConfig, config: Config) -> None:
    running, wanted = _without_tls(running), _without_tls(config.gateway)
    fix = "restart the gateway, or change it back"
    found = [
        Finding((name,), f"`{name}` has changed, which a reload cannot take over", fix)
        for name in GatewayConfig.model_fields
        if name not in _RELOADED and getattr(running, name) != getattr(wanted, name)
    ]
    if found:
        raise Refused(*found)


def _without_tls(gateway: GatewayConfig) -> GatewayConfig:
    """The settings without certificates, which a reload takes over."""
    servers = {"api": gateway.api, "sns": gateway.sns}
    bare = {name: one and one.model_copy(update={"tls": None}) for name, one in servers.items()}
    return gateway.model_copy(update=bare)
