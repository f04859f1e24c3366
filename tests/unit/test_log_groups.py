"""Log groups while Listeners come, change and go."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_cloudwatch import Logs
from test_hub import RECEIVED, Port

from sluicegate.events import EventLog, LiveEvents
from sluicegate.events.log_groups import LogGroups
from sluicegate.model import GatewayConfig, Listener
from waiting import until


class Rig:
    def __init__(self) -> None:
        self.logs = Logs()
        self.events = EventLog()
        self.live = LiveEvents(self.events)
        self.groups = LogGroups(GatewayConfig(), self.logs, self.events, self.live)  # type: ignore[arg-type]

    def lines(self, group: str) -> list[Any]:
        return [line["Event"] for line in self.logs.lines(group)]

    async def close(self) -> None:
        self.live.close()
        await self.groups.close(5)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.close()


def listener(group: str | None, of_destination: str | None = None) -> Listener:
    destination = {"name": "kept", "destination_arn": "file:kept.ndjson", "log_group_name": of_destination}
    return Listener.model_validate({"name": "a", "log_group_name": group, "destinations": [destination]})


async def test_what_takes_over_writes_nothing_twice(rig: Rig) -> None:
    before, after = object(), object()
    rig.groups.hold(before, listener("one"))
    rig.groups.hold(after, listener("one"))
    rig.events.emit("ListenerStarted", Listener="a")
    rig.groups.drop(before)
    rig.events.emit("ListenerChanged", Listener="a")
    await until(lambda: rig.lines("one") == ["ListenerStarted", "ListenerChanged"])
    rig.groups.drop(after)
    await asyncio.sleep(0)
    rig.events.emit("ListenerStopped", Listener="a")
    await rig.close()
    assert rig.lines("one") == ["ListenerStarted", "ListenerChanged"]


async def test_another_group_gets_what_comes_from_then_on(rig: Rig) -> None:
    owner, port = object(), Port()
    rig.groups.hold(owner, listener("one"))
    rig.live.watch("a", port)
    arriving = next(watch for watch in port.watches if "PacketReceived" in watch.spec["Events"])
    arriving.happen(dict(RECEIVED, Time="2026-06-09T10:00:00.000Z"))
    await until(lambda: rig.lines("one") == ["PacketReceived"])
    rig.groups.hold(owner, listener("two", of_destination="failures"))
    await until(lambda: arriving.released)
    second = port.watches[-1]
    assert not second.released
    second.happen(dict(RECEIVED, Time="2026-06-09T10:00:01.000Z"))
    rig.live.batches.delivered("a", "kept", 1, "r1")
    rig.events.emit("DeliveryFailed", Listener="a", Destination="kept", Reason="Timeout")
    await until(lambda: len(rig.lines("two")) == 3)
    await until(lambda: rig.lines("failures") == ["DeliveryFailed"])
    assert rig.lines("one") == ["PacketReceived"]
    rig.live.unwatch("a", port)
    assert second.released
    # The Listener is bound anew: its next Port is sampled too.
    later = Port()
    rig.live.watch("a", later)
    assert any("PacketReceived" in watch.spec["Events"] for watch in later.watches)
    assert rig.events.dropped().keys() == {"live", "logs:a", "logs:a/kept"}
