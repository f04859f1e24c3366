"""The REST API and /metrics over real HTTP, with a stand-in for the gateway."""

import json
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluicegate.api.app import create_app
from sluicegate.api.messages import BODY_LIMIT
from sluicegate.api.metrics import MetricSources
from sluicegate.deadletters.failures import Failure
from sluicegate.egress.message import EgressClosed, EgressFull, Message, Outcome
from sluicegate.events import EventLog, MemorySink
from sluicegate.http.server import BindError, Server
from sluicegate.model.text import absent
from sluicegate.sources.local.topics import Topics

FLAT = b'{"Data":"AQIDBA==","Remote":{"IP":"203.0.113.42","Port":4567}}'


class FakeSender:
    def __init__(self) -> None:
        self.full = False
        self.sent: list[Message] = []
        self.error: Exception | None = None

    def try_submit(self, messages: Sequence[Message]) -> int:
        raise NotImplementedError

    def submit_later(self, message: Message) -> None:
        raise NotImplementedError

    def send_now(self, message: Message) -> None:
        """Each waits."""

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        if self.error is not None:
            raise self.error
        self.sent.append(message)
        return Outcome(message.message_id, 3, 1, 1, [Failure(2, "RemoteDenied", "not listed")])

    async def settle(self, source: int) -> None:
        """Everything is kept at once."""


@dataclass
class Delivery:
    batches_delivered: int = 4
    packets_delivered: int = 40
    batches_failed: int = 1
    packets_failed: int = 10
    failed_by_reason: dict[str, int] = field(default_factory=lambda: {"Timeout": 1})
    known_reasons: tuple[str, ...] = ("Shutdown",)
    retries: int = 2
    in_flight: int = 3


class Stats:
    def stats(self) -> str:
        return json.dumps(
            {
                "Listener": 'odd "name"\\',
                "ReceivedPackets": 100,
                "ReceivedBytes": 1000,
                "KernelDrops": 5,
                "Rejected": {"ClientDenied": 2},
                "SentPackets": 50,
                "SentBytes": 500,
                "LoopsSuspected": 0,
                "IcmpErrors": {"PortUnreachable": 1},
                "RingBytes": 64,
                "RingMessages": 1,
                "Destinations": [
                    {
                        "Name": "echo",
                        "Packets": 98,
                        "Batches": 9,
                        "Dropped": {"QueueFull": 3},
                        "QueuedPackets": 1,
                        "QueuedBytes": 10,
                        "Replies": 20,
                        "RepliesSent": 19,
                        "RepliesFailed": {"InvalidTag": 1},
                    }
                ],
                "Sources": [
                    {
                        "Name": "replies",
                        "Messages": 1,
                        "Entries": 1000,
                        "Sent": 997,
                        "SentBytes": 3988,
                        "Duplicates": 0,
                        "Failed": {"MalformedRemote": 2, "MalformedData": 1},
                    }
                ],
            }
        )


class FakeRegistry:
    def absent(self, kind: str, name: str) -> str:
        return absent(kind, name, ["replies", "off"])


class FakeGateway:
    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self.sender = FakeSender()
        self.ready = True
        self.states = {"replies": "Active", "off": "Disabled"}
        self.events = EventLog(MemorySink())

    def healthy(self) -> tuple[bool, dict[str, object]]:
        return self.ready, {"Status": "ok" if self.ready else "starting"}

    def source(self, name: str) -> tuple[FakeSender, int, str] | None:
        return (self.sender, 1, self.states[name]) if name in self.states else None

    def metrics(self) -> MetricSources:
        return MetricSources(
            ports=[Stats()],
            deliveries=[('odd "name"\\', "echo", Delivery())],
            events=self.events,
            topics=Topics("us-east-1"),
        )


@dataclass
class Rig:
    gateway: FakeGateway
    http: httpx.AsyncClient
    server: Server


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    gateway = FakeGateway()
    server = Server(create_app(gateway), "127.0.0.1", 0, setting="api.bind")
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as http:
        yield Rig(gateway, http, server)
    await server.stop()


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["title"]
    return response.status_code, document["detail"]


async def test_health_follows_the_listeners(rig: Rig) -> None:
    assert (await rig.http.get("/healthz")).status_code == 200
    rig.gateway.ready = False
    answer = await rig.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"Status": "starting"})


async def test_a_posted_message_is_sent_and_each_entry_reported(rig: Rig) -> None:
    answer = await rig.http.post("/v1/packet-sources/replies/messages", content=FLAT)
    assert answer.status_code == 200
    (message,) = rig.gateway.sender.sent
    assert (message.body, message.source, message.refusal) == (FLAT, 1, None)
    assert answer.json() == {
        "MessageId": message.message_id,
        "Entries": 3,
        "Sent": 1,
        "Duplicates": 1,
        "Failures": [{"Index": 2, "Reason": "RemoteDenied", "Detail": "not listed"}],
        "Settled": True,
    }


async def test_what_cannot_be_sent_is_a_problem_that_says_why(rig: Rig) -> None:
    path = "/v1/packet-sources/replies/messages"
    unknown = await rig.http.post("/v1/packet-sources/nobody/messages", content=FLAT)
    assert problem(unknown) == (404, "there is no PacketSource 'nobody', there are: replies, off")
    near = await rig.http.post("/v1/packet-sources/replys/messages", content=FLAT)
    assert "did you mean 'replies'?" in problem(near)[1]
    status, detail = problem(await rig.http.post("/v1/packet-sources/off/messages", content=FLAT))
    assert (status, "Disabled" in detail) == (409, True)
    assert problem(await rig.http.post(path, content=b"x" * (BODY_LIMIT + 1)))[0] == 413
    assert (await rig.http.post(path, content=b"x" * BODY_LIMIT)).status_code == 200
    rig.gateway.sender.error = EgressFull("full")
    full = await rig.http.post(path, content=FLAT)
    assert problem(full)[0] == 429
    assert full.headers["retry-after"] == "1"
    rig.gateway.sender.error = EgressClosed("closed")
    assert problem(await rig.http.post(path, content=FLAT))[0] == 503
    rig.gateway.sender.error = RuntimeError("a fault of ours")
    failed = await rig.http.post(path, content=FLAT)
    assert problem(failed)[0] == 500
    assert "fault of ours" not in failed.text


async def test_unknown_paths_and_methods_are_problems_too(rig: Rig) -> None:
    assert problem(await rig.http.get("/v2")) == (404, "there is nothing at /v2")
    answer = await rig.http.delete("/v1/listeners")
    assert problem(answer)[0] == 405
    assert "GET" in answer.headers["allow"]


async def test_web_pages_cannot_send_or_look(rig: Rig) -> None:
    path = "/v1/packet-sources/replies/messages"
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "same-site"}):
        assert problem(await rig.http.post(path, content=FLAT, headers=headers))[0] == 403
    rebound = {"Host": "evil.example"}
    assert problem(await rig.http.post(path, content=FLAT, headers=rebound))[0] == 403
    assert problem(await rig.http.get("/v1/listeners", headers=rebound))[0] == 403
    assert rig.gateway.sender.sent == []


async def test_metrics_expose_every_counter(rig: Rig) -> None:
    rig.gateway.events.emit("SourceFailed", Reason="MalformedRemote")
    text = (await rig.http.get("/metrics")).text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    name = 'odd "name"\\'
    expected = {
        ("sluicegate_received_packets_total", name): 100,
        ("sluicegate_received_bytes_total", name): 1000,
        ("sluicegate_kernel_dropped_packets_total", name): 5,
        ("sluicegate_rejected_packets_total", "ClientDenied", name): 2,
        ("sluicegate_sent_packets_total", name): 50,
        ("sluicegate_icmp_errors_total", "PortUnreachable", name): 1,
        ("sluicegate_egress_ring_bytes", name): 64,
        ("sluicegate_destination_packets_total", "echo", name): 98,
        ("sluicegate_destination_dropped_packets_total", "QueueFull", "echo", name): 3,
        ("sluicegate_destination_queued_packets", "echo", name): 1,
        ("sluicegate_destination_replies_failed_total", "InvalidTag", "echo", name): 1,
        ("sluicegate_source_entries_total", name, "replies"): 1000,
        ("sluicegate_source_sent_packets_total", name, "replies"): 997,
        ("sluicegate_source_failed_entries_total", "MalformedRemote", name, "replies"): 2,
        ("sluicegate_source_failed_entries_total", "MalformedData", name, "replies"): 1,
        ("sluicegate_delivery_packets_total", "echo", name): 40,
        ("sluicegate_delivery_failures_total", "Timeout", "echo", name): 1,
        ("sluicegate_delivery_failures_total", "Shutdown", "echo", name): 0,
        ("sluicegate_delivery_in_flight_batches", "echo", name): 3,
        ("sluicegate_events_total", "SourceFailed"): 1,
        ("sluicegate_events_dropped_total", "memory"): 0,
        ("sluicegate_sns_throttled_messages_total",): 0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("process_cpu_seconds_total",) in found


async def test_a_port_in_use_says_so_and_what_to_do(rig: Rig) -> None:
    host, port = rig.server.address
    other = Server(create_app(rig.gateway), host, port, setting="api.bind")
    with pytest.raises(BindError, match=rf"127\.0\.0\.1:{port} is in use .*another port in api\.bind"):
        await other.start()
    await other.stop()


@pytest.mark.parametrize(
    ("host", "cause"),
    [("0.0.0.0", "loopback"), ("::", "loopback"), ("example.com", "not an IP address")],
)
async def test_only_loopback_is_served_without_keys(host: str, cause: str) -> None:
    with pytest.raises(BindError, match=cause):
        await Server(create_app(FakeGateway()), host, 0, setting="api.bind").start()


async def test_stop_frees_the_port_and_signals_stay_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = Server(create_app(FakeGateway()), "127.0.0.1", 0, setting="api.bind")
    await server.start()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    address = server.address
    await server.stop()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)
