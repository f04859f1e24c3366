"""A change is all or nothing: what cannot be written or bound leaves everything as it was, and nothing piles up."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness import Client, free_port

from sluicegate.config import load
from sluicegate.events import EventLog, MemorySink
from sluicegate.gateway import Gateway
from sluicegate.running.documents import Refused
from sluicegate.state import StateError

CONFIG = """
state: ./state.db
api: null
ports: {low}-{high}
listeners: [{{ name: decoder, bind: 127.0.0.1 }}]
"""


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Gateway, MemorySink]]:
    """A gateway in this process."""
    low = free_port(socket.SOCK_DGRAM)
    (tmp_path / "gateway.yaml").write_text(CONFIG.format(low=low, high=low + 50))
    sink = MemorySink()
    gateway = Gateway(load(tmp_path / "gateway.yaml"), EventLog(sink))
    await gateway.start()
    yield gateway, sink
    await gateway.stop()


def listener(*destinations: str, **properties: Any) -> dict[str, Any]:
    named = [{"Name": name, "DestinationArn": f"file:{name}.ndjson"} for name in destinations]
    return {"Name": "made", "Bind": "127.0.0.1", "Destinations": named, **properties}


def names(gateway: Gateway) -> list[str]:
    return [str(one["Name"]) for one in gateway.listeners()]


async def test_what_cannot_be_written_is_taken_back(
    running: tuple[Gateway, MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, sink = running
    registry = gateway.registry
    made, _ = await registry.create("Listener", listener("first"), "test")
    port = gateway.listeners()[1]["Port"]

    def full(commit: object) -> None:
        raise StateError("the disk is full, free some space")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.table, "commit", full)
        with pytest.raises(StateError):
            await registry.replace("Listener", "made", listener("second"), "test", versions=None)
        with pytest.raises(StateError):
            await registry.replace("Listener", "made", listener(Bind="127.0.0.2"), "test", versions=None)
        wide = listener(
            "first", Bind=f"0.0.0.0:{port}"
        )  # wants the very port: the old one gives it up meanwhile
        with pytest.raises(StateError):
            await registry.replace("Listener", "made", wide, "test", versions=None)
        with pytest.raises(StateError):
            await registry.create("Listener", listener() | {"Name": "other"}, "test")
        with pytest.raises(StateError):
            await registry.delete("Listener", "made", "test", versions=None)
    assert names(gateway) == ["decoder", "made"]
    shown = gateway.listeners()[1]
    assert (shown["Version"], shown["Port"], shown["DestinationNames"]) == (made.version, port, ["first"])
    assert gateway.healthy()[0]
    refused = [event for event in sink.named("ResourceChanged") if event["Result"] == "Refused"]
    assert {event["Detail"] for event in refused} == {"the disk is full, free some space"}
    assert len(refused) == 5
    # All of it works once there is room.
    await registry.create("Listener", listener() | {"Name": "other"}, "test")
    await registry.replace("Listener", "made", wide, "test", versions=[made.version])
    assert gateway.listeners()[1]["Port"] == port


async def test_a_listener_gets_its_port_back_when_its_successor_is_refused(
    running: tuple[Gateway, MemorySink],
) -> None:
    gateway, sink = running
    await gateway.registry.create("Listener", listener("first"), "test")
    port = int(str(gateway.listeners()[1]["Port"]))
    wide = listener(Bind=f"0.0.0.0:{port}")
    wide["Destinations"] = [{"Name": "bad", "DestinationArn": "file:gateway.yaml/under/a/file"}]
    with pytest.raises(Refused):
        await gateway.registry.replace("Listener", "made", wide, "test", versions=None)
    assert gateway.listeners()[1]["Address"] == "127.0.0.1"
    assert not sink.named("ListenerLost")
    with Client() as client:
        client.send(b"x", ("127.0.0.1", port))
    running_one = gateway.registry.runtime.listeners["made"]
    for _ in range(1000):
        stats = json.loads(running_one.port.stats())
        if stats["ReceivedPackets"]:
            break
    assert stats["ReceivedPackets"] == 1


async def test_places_are_used_again(running: tuple[Gateway, MemorySink]) -> None:
    gateway, _ = running
    registry = gateway.registry
    await registry.create("Listener", listener("d0"), "test")
    for number in range(1, 21):
        await registry.replace("Listener", "made", listener(f"d{number}"), "test", versions=None)
        node = registry.runtime.listeners["made"].node
        await node.settle(10.0)
    stats = json.loads(registry.runtime.listeners["made"].port.stats())
    assert [one["Name"] for one in stats["Destinations"] if not one.get("Removed")] == ["d20"]
    assert len(stats["Destinations"]) <= 3


async def test_nothing_changes_once_it_stops(running: tuple[Gateway, MemorySink]) -> None:
    gateway, _ = running
    async with gateway.registry.frozen():
        with pytest.raises(Refused, match="stopping"):
            await gateway.registry.create("Listener", listener(), "test")
