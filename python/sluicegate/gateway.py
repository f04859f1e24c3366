"""One running node: what the configuration names becomes sockets, queues, workers and servers, and goes away in order.

Life cycle: parse → validate → provision → run → drain → close (`docs/architecture.md`). Everything that can be refused
is refused before the first side effect that others could see; a start that fails half-way takes back what it made.
"""

import asyncio
import contextlib
import errno
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import _native
from .aws import Aws
from .config import Config
from .control.api import create_app as create_api
from .control.metrics import MetricSources
from .control.server import BindError, Server
from .deadletter_queue import DeadLetterQueue
from .deadletters import DeadLetterFile, DeadLetterPlace
from .destinations import Destination, DestinationContext, DestinationError, create
from .destinations.delivery import Delivery
from .egress import Egress
from .events import EventLog, Filter, LiveEvents, Subscription
from .events.log_groups import LogGroups
from .functions import reload
from .journal import Journal
from .ledger import Ledger
from .model import Finding, Listener, PacketSource
from .sources.base import Sender, Source
from .sources.sns import SnsSetting, SnsSource
from .sources.sns_endpoint import create_app as create_sns
from .sources.sns_leftovers import clean_up
from .sources.topics import Binding, LocalTopicSource, Topics
from .state import State, StateError

# What one Listener may hold in memory, at most: its ring, plus this for each Destination, plus the session table
# (about 100 bytes a remote).
RING_BYTES = 32 << 20
DESTINATION_QUEUE_BYTES = 64 << 20
SESSION_LIMIT = 65_536
BYTES_PER_MB = 1 << 20

# The window in which an entry's `Id` is recognised, for each PacketSource (contract 4.1): whichever ends first.
DEDUP_SECONDS = 600.0
DEDUP_LIMIT = 1_000_000


DRAIN_SECONDS = 10.0
DEAD_LETTER_SECONDS = 2.0  # of these, for what fails at the very end
LOG_SECONDS = 2.0


class StartError(Exception):
    """The gateway cannot start; the message names the place in the configuration, the cause and the next step."""


@dataclass(slots=True)
class _Running:
    """A Listener and everything that serves it. Belongs to the event loop."""

    resource: Listener
    port: _native.Port
    egress: Egress
    sources: list[PacketSource]
    destinations: list[Destination]
    deliveries: list[Delivery] = field(default_factory=list)


class Gateway:
    """Runs `config` between `start` and `stop`, in one event loop. `events` is the caller's, and outlives it.

    With `reload_functions` a local function is loaded anew when its code is saved.
    """

    def __init__(self, config: Config, events: EventLog, *, reload_functions: bool = False) -> None:
        self._config = config
        self._settings = config.gateway
        self._events = events
        self._live = LiveEvents(events, config.gateway.events.packets_per_second)
        self._reload_functions = reload_functions
        self._listeners: list[_Running] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._aws = Aws(config.gateway.region, config.gateway.aws.endpoint_url)
        self._topics: Topics | None = None
        self._sources: list[Source] = []
        self._dead_letter_queues: list[DeadLetterQueue] = []
        self._ready = False
        self._closing = contextlib.AsyncExitStack()
        self.api: Server | None = None
        self.sns: Server | None = None

    async def start(self) -> None:
        """Returns once every Listener is bound, every handler is loading and both servers answer. Raises
        `StartError`."""
        unavailable = self._config.unavailable()
        if unavailable:
            raise StartError("\n".join(map(str, unavailable)))
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise

    async def _start(self) -> None:
        settings, closing = self._settings, self._closing
        destinations = [self._create_destinations(index) for index in range(len(settings.listeners))]
        try:
            state = State.open(settings.state)
        except StateError as error:
            raise self._refused(("state",), str(error), "") from None
        closing.callback(state.close)
        self._topics = Topics(
            settings.region,
            known=[(arn, {}) for arn in state.topics()],
            on_create=lambda arn, attributes: state.add_topic(arn),
            on_delete=state.remove_topic,
        )
        self._bind_servers()
        closing.push_async_callback(self._aws.close)
        journal = Journal(Path(settings.state + ".journal"), seconds=DEDUP_SECONDS, limit=DEDUP_LIMIT)
        closing.callback(journal.close)
        self._ledger = Ledger(journal, self._dead_letters(), self._events)
        dataplane = _native.Dataplane(self._dataplane_spec(state))
        closing.push_async_callback(asyncio.to_thread, dataplane.close)
        log_groups = LogGroups(settings, self._aws, self._events, self._live)
        closing.push_async_callback(log_groups.close, LOG_SECONDS)
        closing.callback(self._live.close)
        loop = asyncio.get_running_loop()
        for index, made in enumerate(destinations):
            await self._open(index, made, dataplane, state)
            running = self._listeners[-1]
            running.egress.start(loop)
            self._live.watch(running.resource.name, running.port)
        await asyncio.to_thread(self._recall, journal)
        for running in self._listeners:
            for destination in running.destinations:
                closing.push_async_callback(destination.close)
                await self._provision(running, destination)
        for running in self._listeners:
            self._deliver(running)
        await self._start_sources(state)
        if self._reload_functions:
            made_all = [destination for running in self._listeners for destination in running.destinations]
            self._tasks.append(asyncio.create_task(reload.watch(made_all), name="reload functions"))
        for server in (self.api, self.sns):
            if server is not None:
                await server.start()
        self._ready = True
        self._events.emit("GatewayStarted", Listeners=len(self._listeners))

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Take nothing new, end what was taken within `drain_seconds`, close. Whatever did not end is reported as
        failed."""
        self._ready = False
        self._events.emit("GatewayStopping")
        reserve = min(DEAD_LETTER_SECONDS, drain_seconds) if self._dead_letter_queues else 0.0
        deadline = asyncio.get_running_loop().time() + drain_seconds - reserve

        def left() -> float:
            return max(0.0, deadline - asyncio.get_running_loop().time())

        if self.sns is not None:
            await self.sns.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(running.port.stop) for running in self._listeners))
        deliveries = [delivery for running in self._listeners for delivery in running.deliveries]
        await asyncio.gather(*(delivery.drain(left()) for delivery in deliveries))
        await asyncio.gather(*(running.egress.drain(left()) for running in self._listeners))
        # Before the Ports close: what has not ended by then stays in its queue, and is not to be counted as given up.
        await asyncio.gather(*(source.drain(left()) for source in self._sources))
        await asyncio.gather(*(source.close() for source in self._sources))
        self._live.end_subscriptions()
        if self.api is not None:
            await self.api.stop()
        await asyncio.gather(*(asyncio.to_thread(running.port.close, left()) for running in self._listeners))
        for running in self._listeners:
            running.egress.close()
            self._events.emit(
                "ListenerStopped",
                Listener=running.resource.name,
                Totals=json.loads(running.port.stats()),
                Deliveries=_deliveries(running),
            )
        await asyncio.gather(*(queue.close(left() + reserve) for queue in self._dead_letter_queues))
        await self._closing.aclose()
        self._events.emit("GatewayStopped")

    # What the API shows (control.api.GatewayView)

    def healthy(self) -> tuple[bool, dict[str, object]]:
        """True once every Listener is bound, and while the data plane runs."""
        alive = self._ready
        try:
            for running in self._listeners:
                running.port.stats()
        except RuntimeError:
            alive = False
        return alive, {
            "Status": "ok" if alive else "starting or stopping",
            "Region": self._settings.region,
            "Listeners": len(self._listeners),
        }

    def listeners(self) -> list[dict[str, object]]:
        """Resources with their return values (contract section 1.1)."""
        return [
            {
                **running.resource.dump(),
                "Id": running.resource.name,
                "Domain": self._settings.domain,
                "Address": running.port.local_address[0],
                "Port": running.port.local_address[1],
                "DestinationNames": [destination.name for destination in running.destinations],
                "WireGuardPublicKey": "",
                "DtlsServerCertificate": "",
            }
            for running in self._listeners
        ]

    def packet_sources(self) -> list[dict[str, object]]:
        """Resources with their state (contract section 1.3)."""
        return [
            {**source.dump(), "Id": source.name, "State": _source_state(source)}
            for source in self._settings.packet_sources
        ]

    def source(self, name: str) -> tuple[Sender, int, str] | None:
        """Where a message for the PacketSource `name` goes."""
        for running in self._listeners:
            for index, source in enumerate(running.sources):
                if source.name == name:
                    return running.egress, index, _source_state(source)
        return None

    def live_events(self, wanted: Filter) -> Subscription:
        """A stream of what happens from now on."""
        return self._live.subscribe(wanted)

    def metrics(self) -> MetricSources:
        """Everything that counts."""
        return MetricSources(
            ports=[running.port for running in self._listeners],
            deliveries=[
                (running.resource.name, destination.name, delivery.stats)
                for running in self._listeners
                for destination, delivery in zip(running.destinations, running.deliveries, strict=False)
            ],
            events=self._events,
            topics=self._topics,
            queues=[
                (source.listener, source.name, source.stats)
                for source in self._sources
                if isinstance(source, SnsSource)
            ],
            dead_letters=[(queue.name, queue.stats) for queue in self._dead_letter_queues],
        )

    # Steps of the start

    def _refused(self, place: tuple[str | int, ...], cause: str, fix: str) -> StartError:
        return StartError(str(self._config.locate(Finding(place, cause, fix))).removesuffix(", "))

    def _create_destinations(self, listener_index: int) -> list[Destination | None]:
        """Destinations of a Listener in order; None for one without an ARN for this region."""
        listener = self._settings.listeners[listener_index]
        context = DestinationContext(
            listener=listener.name,
            region=self._settings.region,
            base_dir=self._config.base_dir,
            events=self._events,
        )
        made: list[Destination | None] = []
        for index, resource in enumerate(listener.destinations):
            arn = resource.arn_for(self._settings.region)
            try:
                made.append(create(resource, arn, context) if arn else None)
            except DestinationError as error:
                place = ("listeners", listener_index, "destinations", index, "destination_arn")
                raise self._refused(place, error.cause, error.fix) from None
        return made

    def _bind_servers(self) -> None:
        settings = self._settings
        if settings.api is not None:
            self.api = Server(create_api(self), *settings.api.address(), setting="api.bind")
        if settings.sns is not None:
            assert self._topics is not None  # noqa: S101
            app = create_sns(self._topics)
            self.sns = Server(app, *settings.sns.address(), setting="sns.bind")
        for name, server in (("api", self.api), ("sns", self.sns)):
            if server is None:
                continue
            try:
                server.bind()
            except BindError as error:
                raise self._refused((name, "bind"), str(error), "") from None
            self._closing.push_async_callback(server.stop)

    def _dead_letters(self) -> dict[str, DeadLetterPlace]:
        """By PacketSource. Each file is opened once, so that a path which cannot be written is found at the start; a
        queue may come and go."""
        places: dict[str, DeadLetterPlace] = {}
        queues: dict[str, DeadLetterQueue] = {}
        for index, source in enumerate(self._settings.packet_sources):
            arn = source.dead_letter_queue_arn or ""
            scheme, _, path = arn.partition(":")
            if scheme == "arn":
                if arn not in queues:
                    queues[arn] = DeadLetterQueue(arn, self._aws, self._events)
                places[source.name] = queues[arn]
            if scheme != "file":
                continue
            file = DeadLetterFile(self._config.base_dir / path)
            try:
                file.append([], settles=False)
            except OSError as error:
                place = ("packet_sources", index, "dead_letter_queue_arn")
                cause = f"dead letters cannot be written to {file.path} ({error.strerror})"
                raise self._refused(place, cause, "check the directory and its permissions") from None
            places[source.name] = file
        for queue in queues.values():
            queue.start()
            self._closing.push_async_callback(queue.close, 0.0)
        self._dead_letter_queues = list(queues.values())
        return places

    def _recall(self, journal: Journal) -> None:
        """Tell the Listeners which Ids were sent before this start."""
        places = {
            source.name: (running, index)
            for running in self._listeners
            for index, source in enumerate(running.sources)
        }
        recalled: dict[int, list[tuple[int, str, float]]] = {}
        for name, entry_id, ago in journal.recall():
            if name in places:
                running, index = places[name]
                recalled.setdefault(id(running), []).append((index, entry_id, ago))
        for running in self._listeners:
            running.port.remember(recalled.get(id(running), []))

    def _dataplane_spec(self, state: State) -> str:
        return json.dumps(
            {
                "Node": self._settings.node,
                "Region": self._settings.region,
                "TagKeys": [{"Id": number, "Key": key} for number, key in state.tag_keys()],
                "TagSeconds": self._settings.tag_lifetime_seconds,
            }
        )

    async def _open(
        self, index: int, made: list[Destination | None], dataplane: _native.Dataplane, state: State
    ) -> None:
        listener = self._settings.listeners[index]
        sources = [s for s in self._settings.packet_sources if s.listener_name == listener.name]
        spec = {
            "Id": state.listener_id(listener.name),
            "Name": listener.name,
            "Domain": self._settings.domain,
            "ClientNetworks": listener.client_restrictions.networks,
            "SessionIdleSeconds": listener.session_idle_seconds,
            "SessionLimit": SESSION_LIMIT,
            "RingBytes": RING_BYTES,
            "Destinations": [
                {
                    "Name": resource.name,
                    "Formatter": resource.formatter,
                    "Count": resource.batching.count,
                    "TimeoutSeconds": resource.batching.timeout_in_seconds,
                    "SizeBytes": _batch_bytes(resource.batching.size_in_mb, destination),
                    "QueueBytes": DESTINATION_QUEUE_BYTES,
                    "Bound": destination is not None,
                }
                for resource, destination in zip(listener.destinations, made, strict=True)
            ],
            "Sources": [
                {
                    "Name": source.name,
                    "EgressNetworks": source.egress_networks
                    if source.egress_networks is not None
                    else listener.client_restrictions.networks,
                    "DefaultTtlSeconds": source.default_ttl_seconds,
                    "HoldSeconds": source.hold_seconds,
                    "RateLimit": source.rate_limit.dump() if source.rate_limit else None,
                    "RequireSession": source.require_session,
                    "DedupSeconds": DEDUP_SECONDS,
                    "DedupLimit": DEDUP_LIMIT,
                }
                for source in sources
            ],
        }
        try:
            port = await asyncio.to_thread(self._bind, index, spec, dataplane, state)
        except StateError as error:
            raise self._refused(("listeners", index), str(error), "") from None
        names = [resource.name for resource in listener.destinations]
        egress = Egress(
            port, listener.name, [source.name for source in sources], names, self._events, self._ledger
        )
        self._closing.callback(egress.close)
        running = _Running(listener, port, egress, sources, [d for d in made if d is not None])
        self._listeners.append(running)
        host, number = port.local_address
        self._events.emit("ListenerStarted", Listener=listener.name, Address=host, Port=number)

    def _bind(
        self, index: int, spec: dict[str, Any], dataplane: _native.Dataplane, state: State
    ) -> _native.Port:
        """Bind at the configured port, at the one assigned before, or at a new one of the range."""
        listener = self._settings.listeners[index]
        host, fixed, dual_stack = listener.bind_address()
        kept = fixed if fixed is not None else state.assigned_port(listener.name)
        taken = {fixed for other in self._settings.listeners if (fixed := other.bind_address().port)}
        while True:
            number = kept if kept is not None else state.free_port(self._settings.port_range(), taken)
            try:
                port = self._bind_at(spec, host, number, dual_stack, dataplane)
            except _native.NativeError as error:
                if error.args[1] == errno.EADDRINUSE and kept is None:
                    taken.add(number)
                    continue
                raise self._bind_error(index, number, error) from None
            if fixed is None:
                state.assign_port(listener.name, number)
            return port

    def _bind_at(
        self,
        spec: dict[str, Any],
        host: str | None,
        number: int,
        dual_stack: bool,
        dataplane: _native.Dataplane,
    ) -> _native.Port:
        address = host or "::"
        where = {"Bind": f"[{address}]:{number}" if ":" in address else f"{address}:{number}"}
        try:
            return dataplane.open(json.dumps(spec | where | {"DualStack": dual_stack}))
        except _native.NativeError as error:
            # A kernel without IPv6 still serves every address that it has.
            if host is None and error.args[1] in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return dataplane.open(json.dumps(spec | {"Bind": f"0.0.0.0:{number}", "DualStack": False}))
            raise

    def _bind_error(self, index: int, number: int, error: _native.NativeError) -> StartError:
        attempt, code = error.args
        name = self._settings.listeners[index].name
        place = ("listeners", index, "bind")
        match code:
            case errno.EADDRINUSE:
                cause = f"UDP port {number} of Listener {name} is in use by another program"
                fix = f"stop it (`ss -lunp 'sport = :{number}'` names it), or choose another port"
            case errno.EACCES:
                cause = f"UDP port {number} of Listener {name} needs privileges"
                fix = "choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
            case errno.EADDRNOTAVAIL:
                cause = f"the address of Listener {name} is not one of this machine"
                fix = "`ip address` lists them; 0.0.0.0 or [::] stands for all"
            case _:
                code_name = errno.errorcode.get(code, code)
                cause = f"Listener {name} cannot be opened: the kernel refused to {attempt} ({code_name})"
                fix = "check the address and the limits of the process"
        return self._refused(place, cause, fix)

    async def _provision(self, running: _Running, destination: Destination) -> None:
        try:
            await destination.provision()
        except DestinationError as error:
            index = self._settings.listeners.index(running.resource)
            names = [resource.name for resource in running.resource.destinations]
            place = ("listeners", index, "destinations", names.index(destination.name), "destination_arn")
            raise self._refused(place, error.cause, error.fix) from None

    def _deliver(self, running: _Running) -> None:
        """Each Destination reads its own queue, so that none can delay another."""
        names = [resource.name for resource in running.resource.destinations]
        for destination in running.destinations:
            index = names.index(destination.name)

            async def reply(request_id: str, body: bytes, *, index: int = index) -> None:
                await running.egress.reply(index, request_id, body)

            delivery = Delivery(
                destination,
                running.port.reader(index),
                listener=running.resource.name,
                events=self._events,
                reply=reply,
                on_delivered=partial(self._live.batches.delivered, running.resource.name, destination.name),
            )
            running.deliveries.append(delivery)
            delivery.start()

    async def _start_sources(self, state: State) -> None:
        setting = SnsSetting(self._settings, self._aws, state, self._events)
        self._closing.callback(setting.close)
        for running in self._listeners:
            for index, resource in enumerate(running.sources):
                self._sources.append(self._source_of(running, index, resource, setting))
        for source in self._sources:
            await source.provision()
            self._closing.push_async_callback(source.close)
        for source in self._sources:
            self._tasks.append(asyncio.create_task(source.run(), name=f"source {source.name}"))
        leftovers = [
            queue
            for queue in state.source_queues()
            if not any(isinstance(source, SnsSource) and source.owns(queue) for source in self._sources)
        ]
        self._tasks.append(asyncio.create_task(clean_up(setting, leftovers), name="clean up on AWS"))
        await asyncio.sleep(0)  # each has bound its topic before the first publish can come

    def _source_of(
        self, running: _Running, index: int, resource: PacketSource, setting: SnsSetting
    ) -> Source:
        if self._settings.sns is None:
            return SnsSource(setting, resource, running.resource.name, index, running.egress)
        assert self._topics is not None  # noqa: S101
        binding = Binding(resource.name, index, running.egress, resource.home_region, resource.enabled)
        return LocalTopicSource(self._topics, resource.sns_topic_source.topic_arn, binding)


def _source_state(source: PacketSource) -> str:
    return "Active" if source.enabled else "Disabled"


def _batch_bytes(size_in_mb: float, destination: Destination | None) -> int:
    size = int(size_in_mb * BYTES_PER_MB)
    limit = destination.batch_bytes_limit if destination is not None else None
    return size if limit is None else min(size, limit)


def _deliveries(running: _Running) -> dict[str, dict[str, object]]:
    """What became of the packets that each Destination read: beside the Port's counters, the whole account."""
    return {
        destination.name: {
            "PacketsDelivered": delivery.stats.packets_delivered,
            "PacketsFailed": delivery.stats.packets_failed,
            "FailedByReason": delivery.stats.failed_by_reason,
        }
        for destination, delivery in zip(running.destinations, running.deliveries, strict=True)
    }
