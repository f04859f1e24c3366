"""Listeners come and go for as long as a gateway runs: what they held must be gone with them (contract section 5).

`python -m bench --only cycles` does the same 3,000 times, and looks at the memory and the processor time, too.
"""

import asyncio
import gc
import socket
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import HANG_SECONDS, TOPIC, Client, Host, free_port, wait_for_records

from conftest import StartGateway
from sluicegate import _native
from sluicegate.config import load
from sluicegate.events import EventLog, Filter
from sluicegate.gateway import Gateway
from sluicegate.running.spec import LISTENER_DESCRIPTORS
from waiting import until

CYCLES = 25
"""In each of three rounds: the first one fills caches."""

pytestmark = pytest.mark.attack


class Held:
    """What the process has now."""

    def __init__(self) -> None:
        gc.collect()
        self.threads = len(list(Path("/proc/self/task").iterdir()))
        # Weak references are left out: classes keep them of every class that they were compared with.
        objects = (one for one in gc.get_objects() if not isinstance(one, weakref.ReferenceType))
        self.objects = Counter(map(type, objects))

    def more_than(self, before: "Held") -> dict[object, int]:
        """What is new by at least one for every second Listener: objects by their type, threads."""
        grown: dict[object, int] = dict(self.objects - before.objects)
        grown["threads"] = self.threads - before.threads
        return {what: count for what, count in grown.items() if count >= CYCLES // 2}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Node:
    """A gateway in this process, with one Listener that stays and a stream that shows every event."""

    def __init__(self, gateway: Gateway, directory: Path) -> None:
        self.gateway = gateway
        self.directory = directory
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.made = 0

    async def cycle(self, change: Callable[["Node", str, dict[str, Any]], Awaitable[None]]) -> None:
        """A Listener with a Destination and a PacketSource is made, used, changed and deleted."""
        self.made += 1
        name, registry = f"l{self.made}", self.gateway.registry
        file = self.directory / f"{name}.ndjson"
        document: dict[str, Any] = {
            "Name": name,
            "Protocols": ["udp"],
            "Bind": "127.0.0.1",
            "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
            "Destinations": [
                {"Name": "kept", "DestinationArn": f"file:{file.name}", "Batching": {"Count": "1"}}
            ],
        }
        source = {
            "Name": f"s{self.made}",
            "ListenerName": name,
            "SnsTopicSource": {"TopicArn": TOPIC, "Role": "arn:aws:iam::000000000000:role/r"},
            "EgressNetworks": ["127.0.0.0/8"],
            "DeadLetterQueueArn": f"file:dead-{name}.ndjson",
        }
        if change is with_peers:
            document |= {"Protocols": ["wg"], "Peers": []}
        await registry.create("Listener", document, "test")
        await registry.create("PacketSource", source, "test")
        running = registry.running(name)
        self.client.sendto(b"x", running.port.local_address)
        if change is not with_peers:
            await until(lambda: file.exists() and file.stat().st_size)
        assert running.port.submit([("m", None, 0, b"not JSON", None)]) == 1
        await change(self, name, document)
        await registry.delete("PacketSource", source["Name"], "test", versions=None)
        await registry.delete("Listener", name, "test", versions=None)

    async def round(self, change: Callable[["Node", str, dict[str, Any]], Awaitable[None]]) -> Held:
        tasks = len(asyncio.all_tasks())
        for _ in range(CYCLES):
            await self.cycle(change)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        return Held()


async def unchanged(node: Node, name: str, document: dict[str, Any]) -> None:
    pass


async def moved(node: Node, name: str, document: dict[str, Any]) -> None:
    """To another address: the Listener opens another socket."""
    registry = node.gateway.registry
    await registry.replace("Listener", name, document | {"Bind": "127.0.0.2"}, "test", versions=None)
    node.client.sendto(b"x", registry.running(name).port.local_address)


async def with_another_destination(node: Node, name: str, document: dict[str, Any]) -> None:
    destinations = [{"Name": "other", "DestinationArn": f"file:{name}.ndjson"}]
    changed = document | {"Destinations": destinations}
    await node.gateway.registry.replace("Listener", name, changed, "test", versions=None)


async def with_peers(node: Node, name: str, document: dict[str, Any]) -> None:
    key = _native.public_key(_native.generate_private_key())
    peer = {"PublicKey": key, "AllowedIPs": ["10.0.0.1/32"]}
    await node.gateway.registry.add_peers(name, [peer], "test")


async def watched(node: Node, name: str, document: dict[str, Any]) -> None:
    subscription = node.gateway.live_events(Filter.parse({"listener": [name]}))
    node.client.sendto(b"x", node.gateway.registry.running(name).port.local_address)
    assert await subscription.read(HANG_SECONDS)
    subscription.close()
    node.gateway.metrics()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f"state: {tmp_path}/state.db\napi: {{ bind: 127.0.0.1:{free_port()} }}\n"
        f"sns: {{ bind: 127.0.0.1:{free_port()} }}\n"
        "listeners: [{ name: stays, bind: 127.0.0.1, destinations: [{ name: unbound }] }]\n"
    )
    events = EventLog()
    gateway = Gateway(load(file), events)
    await gateway.start()
    made = Node(gateway, tmp_path)
    stream = gateway.live_events(Filter.parse({}))

    async def read() -> None:
        while await stream.read(HANG_SECONDS) is not None:
            pass

    reading = asyncio.create_task(read())
    yield made
    stream.close()
    await reading
    made.client.close()
    await gateway.stop(1.0)
    events.close()


@pytest.mark.parametrize("change", [unchanged, moved, with_another_destination, with_peers, watched])
async def test_listeners_that_come_and_go_leave_nothing_behind(
    node: Node, change: Callable[[Node, str, dict[str, Any]], Awaitable[None]]
) -> None:
    before, opened = await node.round(change), descriptors()
    middle = await node.round(change)
    after = await node.round(change)
    await until(lambda: descriptors() <= opened)
    first, second = middle.more_than(before), after.more_than(middle)
    assert {what: (first[what], second[what]) for what in first.keys() & second.keys()} == {}, (
        "in both rounds"
    )


class Limited(Host):
    """The machine, for processes with the usual limit of descriptors, which they cannot raise."""

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        return ["prlimit", "--nofile=1024:1024", *command]


def many(count: int, settings: str) -> str:
    """Listeners at one port of different addresses; the first one writes what arrives."""
    port = free_port(socket.SOCK_DGRAM)
    kept = 'destinations: [{ name: kept, destination_arn: "file:kept.ndjson", batching: { count: 1 } }]'
    first = f"  - {{ name: decoder, bind: 127.0.0.1:{port}, {kept} }}\n"
    more = (
        f"  - {{ name: l{n}, bind: 127.0.{n // 250 + 1}.{n % 250 + 1}:{port}, {settings} }}\n"
        for n in range(count - 1)
    )
    return f"listeners:\n{first}{''.join(more)}"


DESTINATIONS = ", ".join(f"{{ name: d{n} }}" for n in range(4))


@pytest.mark.parametrize(
    "settings",
    [
        f"destinations: [{DESTINATIONS}]",
        "protocol: wg, allow_unknown_peers: true, destinations: [{ name: d }]",
    ],
    ids=["udp", "wg"],
)
def test_two_hundred_listeners_run_with_the_usual_limit(gateway: StartGateway, settings: str) -> None:
    one = gateway(many(200, settings), place=Limited())
    held = len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))
    assert held < 200 * LISTENER_DESCRIPTORS + 100
    client = Client()
    client.send(b"hello", one.address("decoder"))
    wait_for_records(one.directory / "kept.ndjson", 1)
    client.close()
    assert one.stop() == 0
