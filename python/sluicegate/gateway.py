"""One running node: a configuration becomes sockets, queues, workers and servers, which are closed in order.

Life cycle: parse → validate → provision → run → drain → close (`docs/architecture.md`). Everything that can be refused
is refused before the first side effect that others could see; a start that fails half-way takes back what it made.
While the node runs, the file and the API change its resources: `running/registry.py`.
"""

import asyncio
import contextlib
import dataclasses
import json
import shlex
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import structlog

from sluicegate import _native
from sluicegate.api.app import create_app as create_api
from sluicegate.api.metrics import MetricSources
from sluicegate.api.problems import busy as api_busy
from sluicegate.aws import Aws
from sluicegate.cfn.consumer import StackRequests
from sluicegate.config import Config
from sluicegate.deadletters.places import Keeper
from sluicegate.destinations import Destination, aws_services
from sluicegate.egress.egress import Egress
from sluicegate.egress.waiting import Waiting
from sluicegate.events import EventLog, Filter, LiveEvents, Subscription
from sluicegate.functions import reload
from sluicegate.http.auth import Authenticator
from sluicegate.http.direct import Direct
from sluicegate.http.server import BindError, Server
from sluicegate.http.tls import TlsError, server_context
from sluicegate.loopwatch import Doing, LoopWatch
from sluicegate.model import Api, Finding, FindingsError
from sluicegate.model.address import is_loopback
from sluicegate.model.text import some
from sluicegate.running import descriptors, views
from sluicegate.running.documents import Desired, Refused, declared, desire, removal
from sluicegate.running.listener import RunningListener
from sluicegate.running.node import Node
from sluicegate.running.pulse import Pulse
from sluicegate.running.registry import Registry, fault
from sluicegate.running.spec import DEDUP_LIMIT, DEDUP_SECONDS
from sluicegate.sources.local.access import LocalAccess
from sluicegate.sources.local.endpoint import Authorize
from sluicegate.sources.local.endpoint import busy as sns_busy
from sluicegate.sources.local.endpoint import create_app as create_sns
from sluicegate.sources.local.kept import KeptTopics
from sluicegate.sources.local.signature import SigV4
from sluicegate.sources.local.topics import Topics
from sluicegate.sources.topic.drainage import DRAINING
from sluicegate.sources.topic.reader import QueueReader
from sluicegate.state import ResourceTable, State, StateError, WireGuardTable
from sluicegate.state.journal import Journal
from sluicegate.state.keys import KeyFile, KeysError
from sluicegate.state.local_key import LocalKey, admin_key_file
from sluicegate.state.notes import remove_note, write_note
from sluicegate.state.waiting import WaitingTable

log = structlog.get_logger("sluicegate.gateway")

DRAIN_SECONDS = 7.0
"""Seconds that a stop has to complete the packets and messages that were accepted."""
DEAD_LETTER_SECONDS = 2.0
"""Seconds of a stop that are kept for the dead letters of the last failures."""


class StartError(FindingsError):
    """The gateway cannot start."""


class Gateway:
    """Runs `config` between `start` and `stop`, in one event loop. `events` belongs to the caller and outlives it.

    With `reload_functions` a local function is loaded anew when its code is saved.
    """

    def __init__(self, config: Config, events: EventLog, *, reload_functions: bool = False) -> None:
        self._config = config
        self._settings = config.gateway
        self._events = events
        self._live = LiveEvents(events, config.gateway.events.packets_per_second)
        self._reload_functions = reload_functions
        self._tasks: list[asyncio.Task[None]] = []
        self._aws = Aws(config.gateway.region, config.gateway.aws.endpoint_url)
        self._topics: Topics | None = None
        self._node: Node | None = None
        self._registry: Registry | None = None
        self._table: ResourceTable | None = None
        self._keys = KeyFile(Path(self._settings.state + ".keys"))
        self._local_key = LocalKey(self._keys, admin_key_file(self._settings.state))
        self._ready = False
        self._pulse = Pulse()
        self._closing = contextlib.AsyncExitStack()
        self._counted: Desired | None = None
        self._budget = 0
        self.watch = LoopWatch(self._report_blocked)
        """Knows what the event loop is doing."""
        self.api: Server | None = None
        self.sns: Server | None = None

    @property
    def registry(self) -> Registry:
        """The gateway's resources, and every way to change them. Available from `start` on."""
        if self._registry is None:
            raise RuntimeError("the gateway was not started")
        return self._registry

    @property
    def table(self) -> ResourceTable:
        """The part of the state that keeps resources. Available from `start` on."""
        if self._table is None:
            raise RuntimeError("the gateway was not started")
        return self._table

    @property
    def topics(self) -> Topics | None:
        """The gateway's own topics; None if they are on AWS."""
        return self._topics if self._settings.sns is not None else None

    async def start(self) -> None:
        """Returns once every Listener is bound, every handler is loading and both servers answer. Raises
        `StartError`."""
        self.watch.start()
        try:
            # Before any side effect; later again, with the state's resources.
            await asyncio.to_thread(lambda: desire(self._config, declared(self._config, []), {}))
            await self._start()
        except Refused as error:
            await self._abandon()
            raise StartError(*map(self._removable, error.located(self._config))) from None
        except Exception as error:
            await self._abandon()
            if isinstance(error, StartError):
                raise
            log.exception("the start failed")
            raise StartError(fault("start", error)) from None
        except BaseException:
            await self._abandon()
            raise

    async def _start(self) -> None:
        settings, closing = self._settings, self._closing
        try:
            state = State.open(settings.state)
            closing.callback(state.close)
            self._table = table = ResourceTable(state)
            table.vault.check()
            table.all()  # a key that does not fit is found here
            keys = WireGuardTable(state, table.vault)
        except StateError as error:
            raise self._refused(("state",), str(error)) from None
        kept = KeptTopics(state, self._events)
        self._topics = Topics(
            settings.region,
            known=state.topic_attributes().items(),
            on_change=kept.keep,
            on_delete=kept.remove,
        )
        closing.push_async_callback(self._aws.close)
        journal = Journal(Path(settings.state + ".journal"), seconds=DEDUP_SECONDS, limit=DEDUP_LIMIT)
        closing.callback(journal.close)
        dataplane = _native.Dataplane(self._dataplane_spec(state))
        closing.push_async_callback(asyncio.to_thread, dataplane.close)
        if (refusal := dataplane.routes_error) is not None:
            detail = f"this machine's addresses are looked up every 10 s, because netlink does not tell them: {refusal}"
            self._events.emit("RoutesNotFollowed", Reason="NoNetlink", Detail=detail)
        waiting_table = WaitingTable(state)
        try:
            dataplane.set_waiting(waiting_table.count())
            waiting = Waiting(waiting_table, self._events, dataplane.leave_waiting)
        except StateError as error:
            raise self._refused(("state",), str(error)) from None
        closing.push_async_callback(waiting.close)
        self._topics.keep_in(waiting, every=settings.sns is not None and settings.sns.durable)
        loop = asyncio.get_running_loop()
        loop.add_reader(dataplane.fileno(), dataplane.dispatch)
        closing.callback(loop.remove_reader, dataplane.fileno())
        self._node = Node(
            self._config,
            self._events,
            self._live,
            state,
            dataplane,
            journal,
            self._topics,
            self._aws,
            keys,
            waiting,
        )
        closing.push_async_callback(self._node.close)
        closing.callback(self._live.close)
        self._registry = Registry(self._config, table, self._node, self._events, self._renew_tls)
        self._bind_servers()
        try:
            await self._registry.start()
        except StateError as error:
            raise self._refused(("state",), str(error)) from None
        waiting.start(self.source, self._source_names)
        self._tasks.append(asyncio.create_task(self._pulse.run(self._listeners), name="pulse"))
        if self._reload_functions:
            watching = reload.watch(_Destinations(self._registry))
            self._tasks.append(asyncio.create_task(watching, name="reload functions"))
        for server in (self.api, self.sns):
            if server is not None:
                await server.start()
        self._note_key()
        self._read_stack_requests()
        self._ready = True
        self._events.emit("GatewayStarted", Listeners=len(self._listeners()))

    async def _abandon(self) -> None:
        """End at once what a failed start has begun."""
        for running in self._listeners():
            await running.stop_sources()
            await running.end(0.0)
        await self._closing.aclose()
        self.watch.stop()

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Accept nothing new, complete what was accepted within `drain_seconds`, close. Packets and messages that did
        not complete are reported as failed."""
        self._ready = False
        self._events.emit("GatewayStopping")
        assert self._node is not None  # noqa: S101
        dead_letters = self._node.dead_letters
        reserve = min(DEAD_LETTER_SECONDS, drain_seconds) if dead_letters.used else 0.0
        deadline = asyncio.get_running_loop().time() + drain_seconds - reserve

        def left() -> float:
            return max(0.0, deadline - asyncio.get_running_loop().time())

        self.registry.stop()
        if self.sns is not None:
            await self.sns.stop(left() / 2)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self.registry.frozen():
            running = self._listeners()
            await self._node.waiting.stop()
            await self._node.domains.close()
            await asyncio.gather(*(one.stop_sources() for one in running))
            await asyncio.gather(*(asyncio.to_thread(one.port.stop) for one in running))
            await asyncio.gather(*(one.end_deliveries(left()) for one in running))
            await asyncio.gather(*(one.egress.drain(left()) for one in running))
            await asyncio.gather(*(one.end_sources(left()) for one in running))
            self._live.end_subscriptions()
            if self.api is not None:
                await self.api.stop(left())
            await self._node.settle(left())
            await asyncio.gather(*(one.close(left()) for one in running))
            await dead_letters.close(left() + reserve)
        await self._closing.aclose()
        self.watch.stop()
        self._events.emit("GatewayStopped")

    def unfinished(self) -> str:
        """What is accepted and has not completed, in words; empty if there is nothing. From any thread."""
        found: list[str] = []
        for running in self._listeners():
            with contextlib.suppress(RuntimeError):  # it is closed, or changes at this moment
                found += running.unfinished()
        return some(found)

    def _report_blocked(self, seconds: float, doing: Doing) -> None:
        what = "code that waits without `await` holds everything up; docs/write-a-destination.md says how to do it"
        detail = f"the event loop has not turned for {seconds:.1f} s, held up by {doing}: {what}"
        log.warning("the event loop is blocked", seconds=round(seconds, 1), by=str(doing))
        self._events.emit("LoopBlocked", Reason="Blocked", Detail=detail, **doing.names)

    # What the API shows (api.app.GatewayView)

    def healthy(self) -> tuple[bool, dict[str, object]]:
        """True once every Listener is bound, and while the data plane runs."""
        alive, running = self._ready and self._pulse.alive, self._listeners()
        return alive, {
            "Status": "ok" if alive else "starting or stopping",
            "Region": self._settings.region,
            "Listeners": len(running),
        }

    def about(self) -> dict[str, object]:
        """Facts about this node, for programs that prepare resources for it."""
        emulator = self._settings.aws.emulator()
        return {
            "Region": self._settings.region,
            "Node": self._settings.node,
            "Domain": self._settings.domain,
            "Sns": {"Url": self.sns.url} if self.sns is not None else None,
            "Emulator": {"Url": emulator, "Services": aws_services()} if emulator else None,
            "RequireApproval": self._settings.require_approval,
        }

    def listeners(self) -> list[dict[str, object]]:
        """The Listeners with their return values (contract section 1.1)."""
        return [views.shown(self.registry, one) for one in self.registry.declared("Listener")]

    def packet_sources(self) -> list[dict[str, object]]:
        """The PacketSources with their state (contract section 1.3)."""
        return [views.shown(self.registry, one) for one in self.registry.declared("PacketSource")]

    def source(self, name: str) -> tuple[Egress, int, str] | None:
        """`(sender, index, state)` for a message of the PacketSource `name`; None if no Listener runs it."""
        found = self._registry.runtime.source(name) if self._registry is not None else None
        if found is None:
            return None
        running, index = found
        if running.sources[index].state == DRAINING:
            return None  # it is not declared any more
        return running.egress, index, running.sources[index].state

    @property
    def waiting(self) -> Waiting:
        """The entries that wait for their `SendAt`."""
        assert self._node is not None  # noqa: S101  (the API serves from the end of `start` on)
        return self._node.waiting

    def live_events(self, wanted: Filter) -> Subscription:
        """A stream of what happens from now on."""
        return self._live.subscribe(wanted)

    def metrics(self) -> MetricSources:
        """All counters of the gateway, for the metrics."""
        running = self._listeners()
        return MetricSources(
            ports=[one.port for one in running],
            deliveries=((one.name, name, stats) for one in running for name, stats in one.stats().items()),
            events=self._events,
            topics=self._topics,
            queues=(
                (one.name, place.resource.name, place.inlet.stats)
                for one in running
                for _, place in one.live_sources
                if isinstance(place.inlet, QueueReader)
            ),
            draining=self._node.leftovers.counts() if self._node is not None else {},
            dead_letters=[(place.name, place.stats) for place in self._dead_letter_places()],
            domains=self._node.domains.stats() if self._node is not None else [],
        )

    # Steps of the start

    def _listeners(self) -> list[RunningListener]:
        return list(self._registry.runtime.listeners.values()) if self._registry is not None else []

    def _source_names(self) -> list[str]:
        """The PacketSources that run."""
        return [place.resource.name for one in self._listeners() for _, place in one.live_sources]

    def _dead_letter_places(self) -> list[Keeper]:
        return self._node.dead_letters.used if self._node is not None else []

    def _refused(self, place: tuple[str | int, ...], cause: str) -> StartError:
        return StartError(self._config.locate(Finding(place, cause)))

    def _removable(self, found: Finding) -> Finding:
        """The finding, with the command that removes a resource of the API while no gateway runs."""
        if found.file or found.resource is None:
            return found
        remove = removal(self._config, found.kind, found.name)
        return dataclasses.replace(found, fix=f"{found.fix}\nor start without it, for good: {remove}".strip())

    def _bind_servers(self) -> None:
        settings = self._settings
        if settings.api is not None:
            host, port = settings.api.address()
            self.api = Server(
                self._api(host),
                host,
                port,
                setting="api.bind",
                authenticated=True,
                busy=api_busy,
                connections=self._connections,
                tls=self._tls(self._config, "api"),
            )
        if settings.sns is not None:
            assert self._topics is not None  # noqa: S101
            host, port = settings.sns.address()
            signed: Authorize = SigV4(self._keys)
            if is_loopback(host):
                signed = LocalAccess(settings.sns.local_access, signed, str(self._config.path))
            self.sns = Server(
                create_sns(self._topics, signed),
                host,
                port,
                setting="sns.bind",
                authenticated=True,
                busy=sns_busy,
                connections=self._connections,
                tls=self._tls(self._config, "sns"),
            )
        for name, server in (("api", self.api), ("sns", self.sns)):
            if server is None:
                continue
            try:
                server.bind()
            except BindError as error:
                raise self._refused((name, "bind"), str(error)) from None
            self._closing.push_async_callback(server.stop)

    def _connections(self) -> int:
        """How many connections each server may have beside what runs now."""
        desired = self.registry.desired
        if desired is not self._counted:
            self._counted = desired
            self._budget = descriptors.connections(desired, self._settings)
        return self._budget

    def _tls(self, config: Config, name: Literal["api", "sns"]) -> ssl.SSLContext | None:
        """What the server of this name speaks with `config`. Raises `Refused`."""
        setting: Api | None = getattr(config.gateway, name)
        if setting is None or setting.tls is None:
            return None
        try:
            return server_context(config.base_dir / setting.tls.cert, config.base_dir / setting.tls.key)
        except TlsError as error:
            raise Refused(error.finding.under(name, "tls")) from None

    def _renew_tls(self, config: Config) -> Callable[[], list[str]]:
        """Read the certificates of `config`; the call of the answer gives them to new connections, and says so."""
        read = [(self.api, self._tls(config, "api")), (self.sns, self._tls(config, "sns"))]

        def renew() -> list[str]:
            for server, tls in read:
                if server is not None:
                    server.tls = tls
            names = [name for name, (server, tls) in zip(("api", "sns"), read, strict=True) if server and tls]
            return [f"read the certificates of {' and '.join(names)} anew"] if names else []

        return renew

    def _api(self, host: str) -> Direct:
        """The API for an address. Raises `StartError` if the key for commands on this machine cannot be made."""
        assert self._settings.api is not None  # noqa: S101
        try:
            self._local_key.ensure()
        except KeysError as error:
            raise self._refused(("state",), str(error)) from None
        file = shlex.quote(str(self._config.path.absolute()))
        advice = (
            f"the key of the gateway's own user is in {self._local_key.path}, where commands find it "
            f"(--config {file}); `sluicegate keys create {file} --name NAME --scope admin` makes one for others, who "
            "give it as SLUICEGATE_API_KEY, --api-key or `Authorization: Bearer KEY`"
        )
        anonymous = self._settings.api.local_access if is_loopback(host) else None
        return create_api(
            self, Authenticator(self._keys, anonymous=anonymous, local=self._local_key, advice=advice)
        )

    def _note_key(self) -> None:
        """Let commands of this user find the key by the API's address."""
        if self.api is not None:
            host, port = self.api.address
            write_note(host, port, self._local_key.path)
            self._closing.callback(remove_note, host, port, self._local_key.path)

    def _read_stack_requests(self) -> None:
        """Begin to read CloudFormation's requests, even where no API can be reached by others."""
        setting = self._settings.cloudformation
        if setting is None:
            return
        region = setting.region() or self._settings.region
        requests = StackRequests(
            self._aws.queue(setting.queue_url, region=region),
            create_api(self, Authenticator(self._keys)),
            self._events,
            partition="aws-cn" if region.startswith("cn-") else "aws",
            hosts=setting.response_hosts,
        )
        self._tasks.append(asyncio.create_task(requests.run(), name="stack requests"))

    def _dataplane_spec(self, state: State) -> str:
        return json.dumps(
            {
                "Node": self._settings.node,
                "Region": self._settings.region,
                "TagKeys": [{"Id": number, "Key": key} for number, key in state.tag_keys()],
                "TagSeconds": self._settings.tag_lifetime_seconds,
                "Answers": {
                    "RefusePorts": self._settings.refuse_answers_to_ports,
                    "LoopGuard": self._settings.loop_guard,
                    "LoopExempt": self._settings.loop_guard_exempt_networks,
                    "PerSecond": self._settings.answers_per_remote_per_second,
                },
            }
        )


class _Destinations:
    """The Destinations that run when the iteration begins."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __iter__(self) -> Iterator[Destination]:
        for running in self._registry.runtime.listeners.values():
            for place in running.live_destinations:
                if place.made is not None:
                    yield place.made
