"""A Listener's log group at an independent CloudWatch Logs (contract sections 1.1 and 6)."""

import json
from collections import Counter
from typing import Any

import pytest
from harness import ECHO, Client, Gateway, free_port, source_of, until
from ministack import ACCOUNT, ENVIRONMENT, Ministack, unique

from conftest import StartGateway


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


FAILING = """
def handler(event, context):
    raise ValueError("no such device")
"""


def configuration(endpoint: str, group: str, destination: str = "", events: str = "") -> str:
    return f"""
aws: {{ endpoint_url: "{endpoint}" }}
events: {{ log_group_packets_per_second: 50{events} }}
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.1/32] }}
    log_group_name: {group}
    role: arn:aws:iam::{ACCOUNT}:role/logs
    destinations:
      - {{ name: echo, destination_arn: "function:echo.py:handler", batching: {{ count: 1 }} }}
      - name: store
        destination_arn: function:failing.py:handler
        batching: {{ count: 1 }}
{destination}
{source_of("decoder", "[203.0.113.0/24]")}
"""


def content(ministack: Ministack, group: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of each stream of a group, as they are stored."""
    logs = ministack.client("logs")
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        return {}
    names = [one["logStreamName"] for one in logs.describe_log_streams(logGroupName=group)["logStreams"]]
    found = {}
    for name in names:
        events = logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"]
        lines = [json.loads(event["message"]) for event in events]
        assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
        found[name] = lines
    return found


def session(one: Gateway) -> None:
    """Success and failure: a packet in with its answer, one refused on arrival, a sourced entry refused."""
    with Client() as client, Client("127.0.0.2") as stranger:
        client.send(b"hello", one.address())
        assert client.receive()[0] == b"hello"
        stranger.send(b"let me in", one.address())
        one.post({"Data": "AQID", "Remote": {"Address": "169.254.169.254", "Port": 80}, "Id": "fw-17/3"})
    one.wait_for("DeliveryFailed")
    until(lambda: one.metrics().value("rejected_packets") == 1, "the stranger was refused")


def test_one_session_of_success_and_failure(gateway: StartGateway, ministack: Ministack) -> None:
    group, failures = unique("/devices/decoder"), unique("/devices/store")
    one = gateway(
        configuration(ministack.url, group, f"        log_group_name: {failures}"),
        {"echo": ECHO, "failing": FAILING},
    )
    session(one)
    assert one.stop() == 0
    (stream,) = content(ministack, group)
    lines = content(ministack, group)[stream]
    listener, node, day = stream.split("/")
    assert (listener, node) == ("decoder", "1")
    assert {line["Time"][:10] for line in lines} == {day}
    assert Counter(line["Event"] for line in lines) == {
        "ListenerStarted": 1,
        "PacketReceived": 1,
        "PacketRejected": 1,
        "BatchDelivered": 1,
        "DeliveryFailed": 1,
        "SourceFailed": 1,
        "ListenerStopped": 1,
    }
    by_event = {line["Event"]: line for line in lines}
    assert by_event["BatchDelivered"]["Destination"] == "echo"
    assert by_event["DeliveryFailed"]["Destination"] == "store"
    assert by_event["PacketRejected"]["Remote"]["IpAddress"] == "127.0.0.2"
    # The same lines as elsewhere: what is no single packet's is on standard output too.
    for name in ("DeliveryFailed", "SourceFailed", "ListenerStopped"):
        assert one.named(name) == [by_event[name]]
    assert one.named("PacketReceived") == []
    # The Destination's own group has its failure and nothing else.
    assert list(content(ministack, failures).values()) == [[by_event["DeliveryFailed"]]]


def test_logging_of_a_destination_can_be_off(gateway: StartGateway, ministack: Ministack) -> None:
    group, failures = unique("/devices/decoder"), unique("/devices/store")
    more = f"        log_group_name: {failures}\n        enable_logging: false"
    one = gateway(configuration(ministack.url, group, more), {"echo": ECHO, "failing": FAILING})
    session(one)
    assert one.stop() == 0
    assert content(ministack, group)
    assert content(ministack, failures) == {}


def test_packets_flow_while_the_log_service_is_away(gateway: StartGateway) -> None:
    one = gateway(
        configuration(f"http://127.0.0.1:{free_port()}", "devices"), {"echo": ECHO, "failing": FAILING}
    )
    with Client() as client:
        for number in range(200):
            client.send(b"%d" % number, one.address())
            assert client.receive()[0] == b"%d" % number
    event = one.event("LogGroupFailed")
    assert (event["Listener"], event["Reason"]) == ("decoder", "Unavailable")
    assert "devices" in event["Detail"]
    assert one.stop() == 0
    assert len(one.named("LogGroupFailed")) == 2, "one at the beginning, one for what is lost at the end"
    last = one.named("LogGroupFailed", Reason="Shutdown")[0]
    assert last["Dropped"] > 0


def test_sampling_says_what_it_left_out(gateway: StartGateway, ministack: Ministack) -> None:
    group = unique("devices")
    text = configuration(ministack.url, group).replace("packets_per_second: 50", "packets_per_second: 1")
    one = gateway(text, {"echo": ECHO, "failing": FAILING})
    with Client() as client:
        for number in range(300):
            client.send(b"%d" % number, one.address())
            client.receive()
    assert one.stop() == 0
    (lines,) = content(ministack, group).values()
    told = Counter[str]()
    for line in lines:
        told[line["Event"]] += line.get("Suppressed", 1)
    assert told["PacketReceived"] + told["EventsSkipped"] == 300
    assert told["BatchDelivered"] == 300
    sampled = [
        line for line in lines if line["Event"] in ("PacketReceived", "EventsSkipped", "BatchDelivered")
    ]
    assert len(sampled) < 300
