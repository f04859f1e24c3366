"""A thousand resources: each start, change and question does the work of what it touches. Counted, not timed."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import TOPIC, free_port

from sluicegate.config import load
from sluicegate.events import EventLog, Filter, MemorySink
from sluicegate.gateway import Gateway
from sluicegate.model import Listener
from sluicegate.model.address import BindAddress
from sluicegate.running import documents, judging, plan
from sluicegate.running.change import Change
from sluicegate.running.documents import Refused
from sluicegate.running.listener import RunningListener
from sluicegate.running.registry import Proposed
from sluicegate.state import State

pytestmark = pytest.mark.attack


def configuration(listeners: int, sources: int = 0, port: int = 0, extra: str = "") -> str:
    listed = [
        {"name": f"l{n}", "bind": f"{address(n)}{f':{port}' if port else ''}"} for n in range(listeners)
    ]
    sourced = [
        {"name": f"s{n}", "listener_name": "l0", "sns_topic_source": {"topic_arn": f"{TOPIC}-{n}"}}
        for n in range(sources)
    ]
    return (
        f"state: ./state.db\napi: null\nsns: {{ bind: 127.0.0.1:{free_port()} }}\n{extra}"
        f"listeners: {json.dumps(listed)}\npacket_sources: {json.dumps(sourced)}\n"
    )


def written(directory: Path, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / "gateway.yaml"
    file.write_text(text)
    return file


def address(number: int) -> str:
    return f"127.77.{number // 250}.{1 + number % 250}"


@asynccontextmanager
async def gateway(directory: Path, text: str) -> AsyncIterator[tuple[Gateway, MemorySink]]:
    """A gateway in this process."""
    file = written(directory, text)
    sink = MemorySink()
    running = Gateway(load(file), EventLog(sink))
    await running.start()
    try:
        yield running, sink
    finally:
        await running.stop(0.0)


class Calls:
    """How often methods were called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.counts: Counter[str] = Counter()

    def watch(self, owner: Any, name: str, count: Callable[..., int] = lambda *_: 1) -> None:
        real = getattr(owner, name)

        def counted(*given: Any, **more: Any) -> Any:
            self.counts[name] += count(*given)
            return real(*given, **more)

        self._patch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("port", "protocol"),
    [(True, "udp"), (False, "udp"), (True, "wg")],
    ids=["one port", "assigned ports", "WireGuard"],
)
async def test_a_start_compares_no_listener_with_each_other_and_writes_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: bool, protocol: str
) -> None:
    counted = []
    for count in (10, 200):
        with monkeypatch.context() as patch:
            calls = Calls(patch)
            calls.watch(State, "write")
            calls.watch(State, "read")
            calls.watch(BindAddress, "overlaps")
            text = configuration(count, port=free_port() if port else 0)
            text = text.replace('"bind":', f'"protocol": "{protocol}", "bind":')
            async with gateway(tmp_path / str(count), text) as (one, _):
                assert len(one.registry.names("Listener")) == count
            counted.append(calls.counts)
    few, many = counted
    assert many["overlaps"] == few["overlaps"]
    assert many["write"] == few["write"]
    # The key and the peers of each are its own; whatever is written is written together.
    assert many["read"] == few["read"] or protocol == "wg"


async def test_one_more_costs_the_same_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    for count in (10, 200):
        async with gateway(tmp_path / str(count), configuration(count, count)) as (one, _):
            await one.registry.create("Listener", {"Name": "first"}, "test")
            with monkeypatch.context() as patch:
                calls = Calls(patch)
                calls.watch(documents, "restored")
                calls.watch(judging, "restored")
                calls.watch(judging, "desire", lambda config, resources, decisions: len(resources))
                calls.watch(plan, "_differences")
                calls.watch(Listener, "dump")
                calls.watch(Listener, "bind_address")
                calls.watch(State, "write")
                bind = {"Bind": f"127.78.0.1:{free_port()}"}
                await one.registry.create("Listener", {"Name": "more", **bind}, "test")
                await one.registry.create(
                    "PacketSource",
                    {"Name": "more", "ListenerName": "l1", "SnsTopicSource": {"TopicArn": f"{TOPIC}-0"}},
                    "test",
                )
                await one.registry.replace(
                    "Listener", "more", bind | {"Description": "x"}, "test", versions=None
                )
                await one.registry.delete("PacketSource", "more", "test", versions=None)
                await one.registry.delete("Listener", "more", "test", versions=None)
            counted.append(calls.counts)
    few, many = counted
    assert many == few


async def test_a_dry_run_judges_each_step_by_what_it_touches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    async with gateway(tmp_path, configuration(2)) as (one, _):
        for count in (10, 100):
            with monkeypatch.context() as patch:
                calls = Calls(patch)
                calls.watch(judging, "desire", lambda config, resources, decisions: len(resources))
                steps = [
                    Proposed("Create", "Listener", f"new{n}", {"Bind": address(1000 + n)})
                    for n in range(count)
                ]
                assert len(await one.registry.check(steps)) == count
            counted.append(calls.counts["desire"] / count)
    assert counted == [1, 1]


async def test_a_reload_touches_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = configuration(100, 100)
    async with gateway(tmp_path, text) as (one, sink):
        changed = text.replace('"name": "l7"', '"session_idle_seconds": 7, "name": "l7"')
        written(tmp_path, changed)
        with monkeypatch.context() as patch:
            calls = Calls(patch)
            calls.watch(Change, "make")
            calls.watch(State, "write")
            assert await one.registry.reload("test") == ["change Listener l7 (session_idle_seconds)"]
        assert calls.counts == {"make": 1, "write": 1}
        assert [event["Listener"] for event in sink.named("ListenerChanged")] == ["l7"]


async def test_whoever_asks_for_a_source_finds_it_without_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, configuration(2, 100)) as (one, _):
        calls = Calls(monkeypatch)
        searched = RunningListener.live_sources.fget
        assert searched is not None
        monkeypatch.setattr(
            RunningListener,
            "live_sources",
            property(lambda self: calls.counts.update(["search"]) or searched(self)),
        )
        assert one.source("s99") == (one.registry.running("l0").egress, 99, "Active")
        assert one.source("s100") is None
        assert not calls.counts


async def test_a_source_is_found_wherever_changes_have_brought_it(tmp_path: Path) -> None:
    async with gateway(tmp_path, configuration(3)) as (one, _):

        def where(name: str) -> tuple[str, str] | None:
            found = one.source(name)
            return found and (found[0].listener, found[2])  # type: ignore[attr-defined]

        document = {"Name": "s", "ListenerName": "l0", "SnsTopicSource": {"TopicArn": TOPIC}}
        await one.registry.create("PacketSource", document, "test")
        assert where("s") == ("l0", "Active")
        moved = document | {"ListenerName": "l1", "Enabled": False}
        await one.registry.replace("PacketSource", "s", moved, "test", versions=None)
        assert where("s") == ("l1", "Disabled")
        await one.registry.decide("s", "Rejected", "test")
        assert where("s") == ("l1", "Rejected")
        await one.registry.delete("PacketSource", "s", "test", versions=None)
        assert where("s") is None
        await one.registry.create("Listener", {"Name": "other"}, "test")
        await one.registry.create("PacketSource", document | {"ListenerName": "other"}, "test")
        await one.registry.replace(
            "Listener", "other", {"Bind": "127.79.0.1"}, "test", versions=None
        )  # another socket
        assert where("s") == ("other", "Active")


async def test_health_asks_one_listener_once_a_second_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    async with gateway(tmp_path, configuration(50)) as (one, _):
        real = RunningListener.port.fget
        assert real is not None
        monkeypatch.setattr(
            RunningListener, "port", property(lambda self: asked.append(self.name) or real(self))
        )
        assert [one.healthy()[0] for _ in range(1000)] == [True] * 1000
        assert len(asked) <= 1


async def test_the_list_of_listeners_lets_the_loop_go_on(tmp_path: Path) -> None:
    text = configuration(200).replace("api: null", f"api: {{ bind: 127.0.0.1:{free_port()} }}")
    async with gateway(tmp_path, text) as (one, _):
        assert one.api is not None
        turns = 0
        shown = one.live_events(Filter())

        async def ask() -> bytes:
            host, _, number = one.api.url.removeprefix("http://").partition(":")  # type: ignore[union-attr]
            reader, writer = await asyncio.open_connection(host, int(number))
            writer.write(b"GET /v1/listeners HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

        asking = asyncio.create_task(ask())
        while not asking.done():
            turns += 1
            await asyncio.sleep(0)
        shown.close()
        assert asking.result().count(b'"Port":') == 200
        assert turns >= 200 / 50


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


ABSURD = {
    "deep": ({"Destinations": [{"DestinationArn": "console:", "Arguments": {"a": nested(60)}}]}, "50 deep"),
    "deep elsewhere": ({"Name": nested(200)}, "50 deep"),
    "many values": ({"Destinations": [1] * 40_000}, "more than 30,000 values"),
    "many mistakes": ({"ClientRestrictions": {"Networks": ["?"] * 5000}}, "4900 more problems"),
    "many unknown keys": ({f"kei{number}": 1 for number in range(5000)}, "4900 more problems"),
    "a huge name": ({"Name": "x" * 200_000}, "(200,"),
}


@pytest.mark.parametrize(("document", "words"), ABSURD.values(), ids=ABSURD)
async def test_an_absurd_document_is_refused_in_a_few_words(
    tmp_path: Path, document: dict[str, Any], words: str
) -> None:
    async with gateway(tmp_path, configuration(1)) as (one, sink):
        with pytest.raises(Refused) as refused:
            await one.registry.create("Listener", document, "test")
        if "kei0" not in document:  # of a template, unknown keys are warnings
            with pytest.raises(Refused):
                await one.registry.check([Proposed("Create", "Listener", "a", document)])
        assert words in str(refused.value)
        assert len(refused.value.findings) <= Refused.most + 1
        assert len(str(sink.named("ResourceChanged")[-1]["Detail"])) < 150_000
