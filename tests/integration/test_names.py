"""Names with spaces, which the reference service takes: in URLs, the state, events, metrics and commands."""

import base64
import subprocess
from typing import Any

from harness import PROGRAM, TOPIC, Client, Gateway, run_program, source_of, wait_for_records

from conftest import StartGateway

FILE = f"""
listeners:
  - name: my gate
    bind: 127.0.0.1
    destinations: [{{ destination_arn: "file:kept.ndjson", batching: {{ count: 1 }} }}]
{source_of("my gate").replace("name: replies", "name: my replies")}
"""


def command(running: Gateway, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_program([PROGRAM, *arguments, "--api", running.api_url])


def test_a_name_with_spaces_in_a_file(gateway: StartGateway) -> None:
    running = gateway(FILE)
    shown = running.api("GET", "/v1/listeners/my%20gate").json()
    assert (shown["Id"], shown["DestinationNames"]) == ("my gate", ["my-gate-destination-1"])
    with Client() as client:
        client.send(b"in", running.address("my gate"))
        wait_for_records(running.directory / "kept.ndjson", 1)
        host, port = client.address
        message = {"Data": base64.b64encode(b"out").decode(), "Remote": {"IP": host, "Port": port}}
        outcome = running.api("POST", "/v1/packet-sources/my%20replies/messages", message).json()
        assert outcome["Sent"] == 1, outcome
        assert client.receive()[0] == b"out"
        running.publish(message, TOPIC)
        assert client.receive()[0] == b"out"
        sent = command(
            running, "send", "--source", "my replies", "--to", f"{host}:{port}", "--data", "by hand"
        )
        assert sent.returncode == 0, sent.stderr
        assert client.receive()[0] == b"by hand"
    assert running.metrics().value("received_packets", listener="my gate") == 1
    assert running.metrics().value("source_sent_packets", packet_source="my replies") == 3
    running.event("ListenerStarted", Listener="my gate")


def test_a_name_with_spaces_of_the_api(gateway: StartGateway) -> None:
    running = gateway("require_approval: true\nlisteners: []")
    document: dict[str, Any] = {"Name": "your gate", "Bind": "127.0.0.1"}
    made = running.api("POST", "/v1/listeners", document)
    assert made.headers["location"] == "/v1/listeners/your%20gate"
    source = {
        "Name": "your replies",
        "ListenerName": "your gate",
        "SnsTopicSource": {"TopicArn": TOPIC},
        "EgressNetworks": ["127.0.0.0/8"],
    }
    assert running.api("POST", "/v1/packet-sources", source).json()["State"] == "PendingApproval"
    approved = command(running, "sources", "approve", "your replies")
    assert approved.returncode == 0, approved.stderr
    running.kill()
    running.start()
    kept = running.api("GET", "/v1/listeners/your%20gate").json()
    assert kept["Port"] == made.json()["Port"]
    assert running.api("GET", "/v1/packet-sources/your%20replies").json()["State"] == "Active"
    changed = running.api("PUT", "/v1/listeners/your%20gate", {**kept, "Description": "changed"})
    assert changed.status_code == 200, changed.text
    taken = running.api("POST", "/v1/listeners", document).json()
    assert "change it with PUT /v1/listeners/your%20gate" in taken["Errors"][0]["Fix"]
    for path in ("packet-sources/your%20replies", "listeners/your%20gate"):
        assert running.api("DELETE", f"/v1/{path}").status_code == 204


def test_names_of_before_are_taken_as_they_were(gateway: StartGateway) -> None:
    running = gateway("listeners: []")
    for name in ("2nd.gate", "a_b-c", "gate 2"):
        assert running.api("POST", "/v1/listeners", {"Name": name, "Bind": "127.0.0.1"}).status_code == 201
    for name in (" gate", "a/b", "a:b", "*", ""):
        refused = running.api("PUT", "/v1/listeners/a_b-c", {"Name": name or " "})
        assert refused.status_code == 422, name
