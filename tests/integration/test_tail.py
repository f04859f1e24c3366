"""The live stream of a real gateway: `sluicegate tail`, GET /v1/events, and the events' file."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import HANG_SECONDS, PROGRAM, Client, Process, free_port, source_of, until

from conftest import StartGateway
from sluicegate.events.types import TYPES

CONFIG = f"""
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{{ name: sink, destination_arn: "file:packets.ndjson", batching: {{ count: 1 }} }}]
  - name: other
    bind: 127.0.0.1
    client_restrictions: {{ networks: [192.0.2.0/24] }}
    destinations: [{{ name: nothing, destination_arn: "file:nothing.ndjson" }}]
{source_of("decoder")}
"""

StartTail = Callable[..., Process]


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[StartTail]:
    """Starts `sluicegate tail` at a gateway's API; returns once it watches, without `wait` at once."""
    made: list[Process] = []

    def start(api_url: str, *options: str, wait: bool = True) -> Process:
        environment = {"SLUICEGATE_API": api_url, "NO_COLOR": "1"}
        one = Process([PROGRAM, "tail", *options], tmp_path, environment=environment)
        made.append(one)
        if wait:
            one.stderr.wait(lambda lines: lines == [f"watching {api_url}"], "tail watches")
        return one

    yield start
    for one in made:
        one.close()


def events_of(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.stdout.all]


def wait_for(process: Process, count: int, **fields: object) -> list[dict[str, Any]]:
    """The events with these fields, once there are `count`."""

    def enough(lines: list[str]) -> list[dict[str, Any]] | None:
        found = [event for event in map(json.loads, lines) if fields.items() <= event.items()]
        return found if len(found) >= count else None

    found = process.stdout.wait(enough, f"{count} events with {fields}")
    assert found is not None
    return found


def test_one_readable_line_per_event(gateway: StartGateway, tail: StartTail) -> None:
    running = gateway(CONFIG)
    with Client() as client:
        process = tail(running.api_url)
        client.send(b"\x01\x02\x03", running.address("decoder"))
        running.post({"Messages": [{"Data": "AQ==", "Remote": client.remote}]})
        running.post({"Messages": [{"Data": "AQ==", "Remote": {"Address": "192.0.2.1", "Port": 1}}]})
        host, port = client.address

        def lines(wanted: str) -> Callable[[list[str]], list[str]]:
            return lambda shown: [line.partition("Z ")[2] for line in shown if wanted in line]

        [received] = process.stdout.wait(lines(" 3 bytes"), "the packet")
        assert received.startswith(f"PacketReceived decoder {host}:{port} 3 bytes Tag=")
        [sourced] = process.stdout.wait(lines("PacketSourced"), "the sourced packet")
        assert sourced.startswith(f"PacketSourced  decoder/replies {host}:{port} 1 byte MessageId=")
        [failed] = process.stdout.wait(lines("SourceFailed"), "the failure")
        assert failed.startswith(
            "SourceFailed   decoder/replies 192.0.2.1:1 1 byte RemoteDenied: 192.0.2.1 is"
        )
        assert "\x1b" not in process.stdout.text
        process.signal(signal.SIGINT)
        assert process.wait() == 0


def test_filters_and_the_end_after_so_many(gateway: StartGateway, tail: StartTail) -> None:
    running = gateway(CONFIG)
    url = running.api_url
    with Client() as first, Client() as second:
        host, port = second.address
        everything = tail(url, "--output", "json")
        chosen = {
            "listener": tail(url, "--output", "json", "--listener", "other"),
            "remote": tail(url, "--output", "json", "--remote", f"{host}:{port}", "--count", "2"),
            "direction": tail(url, "--output", "json", "--direction", "out"),
            "reason": tail(url, "--output", "json", "--reason", "RemoteDenied"),
            "event": tail(url, "--output", "json", "--event", "PacketRejected"),
        }
        first.send(b"one", running.address("decoder"))
        second.send(b"two", running.address("decoder"))
        second.send(b"refused", running.address("other"))
        running.post({"Messages": [{"Data": "AQ==", "Remote": first.remote}]})
        running.post({"Messages": [{"Data": "AQ==", "Remote": {"Address": "192.0.2.1", "Port": 1}}]})
        wait_for(everything, 1, Event="SourceFailed")
        wait_for(everything, 1, Event="PacketSourced")
        wait_for(everything, 1, Event="PacketRejected")
        wait_for(chosen["listener"], 1)
        wait_for(chosen["direction"], 2)
        wait_for(chosen["reason"], 1)
        wait_for(chosen["event"], 1)
        assert chosen["remote"].wait() == 0  # the end after two
        shown = {name: sorted(event["Event"] for event in events_of(one)) for name, one in chosen.items()}
    assert shown == {
        "listener": ["PacketRejected"],
        "remote": ["PacketReceived", "PacketRejected"],
        "direction": ["PacketSourced", "SourceFailed"],
        "reason": ["SourceFailed"],
        "event": ["PacketRejected"],
    }
    [rejected] = events_of(chosen["event"])
    assert rejected["Reason"] == "RefusedNetwork"
    for event in events_of(everything):
        assert set(event) - {"Time", "Event", "Node", "Region"} <= set(TYPES[event["Event"]].fields)


def test_what_is_beyond_the_rate_is_counted(gateway: StartGateway, tail: StartTail) -> None:
    running = gateway(CONFIG)
    with Client() as client:
        options = ("--output", "json", "--event", "PacketReceived", "--rate", "10")
        process = tail(running.api_url, *options)
        address = running.address("decoder")
        for number in range(300):
            client.send(b"%d" % number, address)
        until(lambda: running.metrics().value("received_packets") == 300, "they arrived")

        def all_told(lines: list[str]) -> bool:
            return sum(json.loads(line).get("Suppressed", 1) for line in lines) >= 300

        process.stdout.wait(all_told, "300 packets, one by one or summed up")
    events = events_of(process)
    assert sum(event.get("Suppressed", 1) for event in events) == 300
    assert any(event["Event"] == "EventsSkipped" for event in events)


def test_a_restart_of_the_gateway_is_a_note(gateway: StartGateway, tail: StartTail) -> None:
    running = gateway(CONFIG)
    process = tail(running.api_url, "--output", "json")
    assert running.stop() == 0
    wait_for(process, 1, Event="GatewayStopping")
    process.stderr.wait(lambda lines: any("went away" in line for line in lines), "the first note")
    running.start()
    process.stderr.wait(lambda lines: any("is back" in line for line in lines), "the second note")
    shown = len(process.stdout.all)
    with Client() as client:

        def more() -> bool:
            client.send(b"x", running.address("decoder"))
            return len(process.stdout.all) > shown

        until(more, "it goes on")


def test_exit_codes(gateway: StartGateway, tail: StartTail) -> None:
    nobody = tail(f"http://127.0.0.1:{free_port()}", wait=False)
    assert nobody.wait() == 3
    assert "no gateway answers" in nobody.stderr.text
    running = gateway(CONFIG)
    refused = tail(running.api_url, "--event", "PacketRecieved", wait=False)
    assert refused.wait() == 1
    assert "did you mean PacketReceived?" in refused.stderr.text
    unknown = tail(running.api_url, "--listener", "nowhere", wait=False)
    assert unknown.wait() == 1
    assert "there are decoder, other" in unknown.stderr.text
    silent = tail(running.api_url, "--count", "1", "--timeout", "0.2")
    assert silent.wait() == 1
    assert "saw 0 of 1 events in 0.2 s" in silent.stderr.text
    nothing = tail(running.api_url, "--timeout", "0.2", "--event", "SourceFailed")
    assert nothing.wait() == 0
    assert "nothing happened in 0.2 s" in nothing.stderr.text
    assert "error" not in nothing.stderr.text
    assert tail(running.api_url, "--direction", "up", wait=False).wait() == 2


def test_server_sent_events_end_with_the_gateway(gateway: StartGateway) -> None:
    running = gateway(CONFIG)
    http = httpx.Client(base_url=running.api_url, timeout=HANG_SECONDS, trust_env=False)
    wanted = {"direction": "in", "event": "PacketReceived"}
    with http, http.stream("GET", "/v1/events", params=wanted) as response, Client() as client:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        client.send(b"x", running.address("decoder"))
        first = next(line for line in lines if line.startswith("data: "))
        assert json.loads(first.removeprefix("data: "))["Event"] == "PacketReceived"
        running.process.signal(signal.SIGTERM)
        assert not [line for line in lines if line.startswith("data: ")]
    assert running.process.wait() == 0
    running.event("GatewayStopped")


def test_streams_are_bounded_freed_and_closed_to_web_pages(gateway: StartGateway) -> None:
    running = gateway(CONFIG)
    http = httpx.Client(base_url=running.api_url, timeout=HANG_SECONDS, trust_env=False)

    def open_one(**headers: str) -> httpx.Response:
        return http.send(http.build_request("GET", "/v1/events", headers=headers), stream=True)

    with http:
        refused = open_one(**{"Sec-Fetch-Site": "cross-site"})
        assert refused.status_code == 403
        assert open_one(Host="evil.example").status_code == 403
        streams = [open_one() for _ in range(16)]
        assert {one.status_code for one in streams} == {200}
        full = open_one()
        assert (full.status_code, full.headers["retry-after"]) == (503, "5")
        streams[0].close()
        until(lambda: open_one().status_code == 200, "the place of the client that went is free")


@pytest.mark.usefixtures("icmp")
def test_icmp_errors_are_always_events(gateway: StartGateway) -> None:
    with Client() as gone:
        remote = gone.remote
    running = gateway(CONFIG)
    running.post({"Messages": [{"Data": "AQ==", "Remote": remote}]})
    event = running.event("IcmpError")
    assert (event["Listener"], event["Remote"]["Port"]) == ("decoder", remote["Port"])
    assert running.metrics().value("icmp_errors", listener="decoder") == 1


def test_a_file_and_a_sample_of_packets_by_configuration(gateway: StartGateway) -> None:
    settings = "events: { file: logs/events.ndjson, packets_per_second: 5 }\n"
    running = gateway(settings + CONFIG)
    with Client() as client:
        address = running.address("decoder")
        for _ in range(100):
            client.send(b"x", address)

        def told(lines: list[str]) -> int:
            return sum(
                json.loads(line).get("Suppressed", 1)
                for line in lines
                if '"Event":"Packet' in line or "Skipped" in line
            )

        running.process.stdout.wait(lambda lines: told(lines) >= 100, "every packet is told or counted")
        assert told(running.process.stdout.all) == 100
    assert running.stop() == 0
    written = (running.directory / "logs" / "events.ndjson").read_text().splitlines()
    assert written == running.process.stdout.all


def test_an_events_file_that_cannot_be_written_is_told_with_its_place(gateway: StartGateway) -> None:
    running = gateway("events: { file: gateway.yaml/events.ndjson }\n" + CONFIG, start=False)
    process = running.spawn()
    assert process.wait() == 1
    assert "gateway.yaml:5:17:" in process.stderr.text
