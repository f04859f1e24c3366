"""Resources over the API of a real gateway: created, changed under traffic, approved, deleted; and what is refused."""

import contextlib
import socket
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import HANG_SECONDS, TOPIC, Client, Gateway, free_port, source_of, until, wait_for_records

from conftest import StartGateway

PLAIN = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{ name: kept, destination_arn: "file:kept.ndjson", batching: { count: 1 } }]
"""


def request(gateway: Gateway, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.Client(base_url=gateway.api_url, timeout=HANG_SECONDS, trust_env=False) as http:
        return http.request(method, path, json=body, headers=gateway.credentials | named)


def listener(name: str, **properties: Any) -> dict[str, Any]:
    return {"Name": name, "Protocols": ["udp"], "Bind": "127.0.0.1", **properties}


def to_file(name: str, path: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "DestinationArn": f"file:{path or name}.ndjson",
        "Batching": {"Count": "1", "TimeoutInSeconds": "0.05"},
        **properties,
    }


def source(name: str, listener_name: str, **properties: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "ListenerName": listener_name,
        "SnsTopicSource": {"TopicArn": TOPIC, "Role": "arn:aws:iam::000000000000:role/r"},
        "EgressNetworks": ["127.0.0.0/8"],
        **properties,
    }


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    return response.status_code, f"{document['detail']} {document.get('Errors', '')}"


def test_a_listener_from_its_creation_to_its_deletion(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    made = request(one, "POST", "/v1/listeners", listener("sensors", Destinations=[to_file("log")]))
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/v1/listeners/sensors"
    shown = made.json()
    assert {
        key: shown[key] for key in ("Id", "Domain", "DestinationNames", "WireGuardPublicKey", "DeclaredBy")
    } == {
        "Id": "sensors",
        "Domain": "ingress-1",
        "DestinationNames": ["log"],
        "WireGuardPublicKey": "",
        "DeclaredBy": "Api",
    }
    port = shown["Port"]
    with Client() as client:
        client.send(b"\x01", ("127.0.0.1", port))
        wait_for_records(one.directory / "log.ndjson", 1)

        # In place: the socket stays, packets keep coming.
        shown["Destinations"].append(to_file("second"))
        changed = request(one, "PUT", "/v1/listeners/sensors", shown, If_Match=made.headers["etag"])
        assert changed.status_code == 200, changed.text
        assert changed.json()["Port"] == port
        assert changed.json()["DestinationNames"] == ["log", "second"]
        client.send(b"\x02", ("127.0.0.1", port))
        wait_for_records(one.directory / "log.ndjson", 2)
        wait_for_records(one.directory / "second.ndjson", 1)
    assert (
        one.named("ListenerStarted", Listener="sensors")
        == one.named("ListenerStarted", Listener="sensors")[:1]
    )

    late = request(one, "PUT", "/v1/listeners/sensors", shown, If_Match=made.headers["etag"])
    assert problem(late)[0] == 412
    assert late.headers["etag"] == changed.headers["etag"]
    assert problem(request(one, "DELETE", "/v1/listeners/sensors", If_Match='"1000"'))[0] == 412

    gone = request(one, "DELETE", "/v1/listeners/sensors", If_Match=changed.headers["etag"])
    assert gone.status_code == 204, gone.text
    assert is_free(port), "its port is free when the answer comes"
    assert problem(request(one, "GET", "/v1/listeners/sensors"))[0] == 404
    totals = one.event("ListenerStopped", Listener="sensors")["Totals"]
    assert totals["ReceivedPackets"] == 2
    actions = [(event["Action"], event["Result"]) for event in one.named("ResourceChanged", Name="sensors")]
    assert actions == [
        ("Create", "Done"),
        ("Replace", "Done"),
        ("Replace", "Refused"),
        ("Delete", "Refused"),
        ("Delete", "Done"),
    ]
    again = request(one, "POST", "/v1/listeners", listener("sensors"))
    assert int(again.headers["etag"].strip('"')) > int(changed.headers["etag"].strip('"'))


def test_what_is_refused_says_where_why_and_what_next(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    for body, status, words in [
        (listener("decoder"), 409, "the file owns what it names"),
        (
            listener("x", Destinations=[to_file("twice"), to_file("twice", "other")]),
            409,
            'two Destinations of this Listener are named "twice"',
        ),
        (listener("x", Nonsense=1), 422, "unknown key `Nonsense`"),
        (
            listener("x", ClientRestrictions={"Networks": ["10.0.0.1/8"]}),
            422,
            "/ClientRestrictions/Networks/0",
        ),
        (
            listener("x", Destinations=[{"DestinationArn": "gopher://x"}]),
            422,
            "/Destinations/0/DestinationArn",
        ),
        (listener("x", Bind=f"127.0.0.1:{one.port()}"), 409, "is in use"),
        (listener("x", Bind="203.0.113.1:2048"), 409, "not one of this machine"),
        (listener("x", Destinations=[to_file("a"), to_file("b", "gateway.yaml/b")]), 422, "DestinationArn"),
        (["a list"], 422, "not a JSON object"),
    ]:
        answered, text = problem(request(one, "POST", "/v1/listeners", body))
        assert (answered, words in text) == (status, True), text
    refused, text = problem(request(one, "POST", "/v1/packet-sources", source("r", "nowhere")))
    assert (refused, "use one of: decoder" in text) == (409, True)
    assert problem(request(one, "PUT", "/v1/listeners/decoder", listener("decoder")))[0] == 409
    assert problem(request(one, "DELETE", "/v1/listeners/decoder"))[0] == 409
    assert problem(request(one, "PUT", "/v1/listeners/none", listener("none")))[0] == 404
    huge = request(one, "POST", "/v1/listeners", listener("x", Description="x" * 300_000))
    assert problem(huge)[0] == 413
    page = request(one, "POST", "/v1/listeners", listener("x"), Origin="https://evil.example")
    assert problem(page)[0] == 403
    listed = request(one, "GET", "/v1/listeners").json()
    assert [item["Name"] for item in listed["Items"]] == ["decoder"], "nothing was changed"
    assert listed.keys() == {"Items", "NextToken"}
    assert not [path for path in one.directory.iterdir() if path.name == "a.ndjson" and path.stat().st_size]


def test_names_strings_and_unknown_properties_as_cloudformation_sends_them(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    body = {
        "ServiceToken": "arn:aws:lambda:us-east-1:000000000000:function:cr",
        "Protocols": ["udp"],
        "Bind": "127.0.0.1",
        "DecapsulatedDelivery": "true",
        "SessionIdleSeconds": "30",
        "Destinations": [{"DestinationArn": {}}],
    }
    assert problem(request(one, "POST", "/v1/listeners", body))[0] == 422
    made = request(one, "POST", "/v1/listeners", body, Prefer="handling=lenient")
    assert made.status_code == 201, made.text
    shown = made.json()
    unknown, nobody = shown["Warnings"]
    assert unknown == "Listener: unknown property ServiceToken is ignored"
    assert "admits nobody" in nobody
    assert (shown["SessionIdleSeconds"], shown["DecapsulatedDelivery"]) == (30, True)
    assert shown["DestinationNames"] == [f"{shown['Name']}-destination-1"]


def test_a_repeated_create_has_the_first_answer(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    body = listener("sensors")
    first = request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-1")
    assert first.status_code == 201
    again = request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-1")
    assert (again.status_code, again.json(), again.headers["etag"]) == (
        201,
        first.json(),
        first.headers["etag"],
    )
    # Who made it deletes it: a request of somebody else is not told that it was made for it.
    assert problem(request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-2"))[0] == 409
    assert problem(request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-2"))[0] == 409
    assert problem(request(one, "POST", "/v1/listeners", listener("x"), Idempotency_Key="k-1"))[0] == 422
    assert problem(request(one, "POST", "/v1/listeners", body))[0] == 409
    unlike = listener("sensors", Description="other")
    assert problem(request(one, "POST", "/v1/listeners", unlike, Idempotency_Key="k-3"))[0] == 409


def test_a_repeated_create_after_a_crash_before_its_answer(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    body = listener("sensors")
    first = request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-1").json()
    assert one.stop() == 0
    # As the crash leaves it: the request was begun, the Listener is there, the answer is not.
    with contextlib.closing(sqlite3.connect(one.directory / "sluicegate.db")) as db, db:
        assert db.execute("UPDATE answers SET status = 0, headers = '{}', body = x''").rowcount == 1
    one.start()
    again = request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-1")
    assert (again.status_code, again.json()) == (201, first)
    assert problem(request(one, "POST", "/v1/listeners", body, Idempotency_Key="k-2"))[0] == 409


def test_what_the_api_declared_survives_a_restart(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    made = request(one, "POST", "/v1/listeners", listener("sensors", Destinations=[to_file("log")])).json()
    request(one, "POST", "/v1/packet-sources", source("out", "sensors"))
    binding = {"Destination": "log", "IngressRegionKey": "us-east-1", "Arn": "file:bound.ndjson"}
    assert request(one, "POST", "/v1/destination-arns", binding).status_code == 201
    before = [
        request(one, "GET", f"/v1/{kind}").json()
        for kind in ("listeners", "packet-sources", "destination-arns")
    ]
    assert one.stop() == 0
    one.start()
    after = [
        request(one, "GET", f"/v1/{kind}").json()
        for kind in ("listeners", "packet-sources", "destination-arns")
    ]
    assert after == before
    with Client() as client:
        client.send(b"\x01", ("127.0.0.1", made["Port"]))
        wait_for_records(one.directory / "bound.ndjson", 1)
        assert one.post({"Data": "AQ==", "Remote": client.remote}, "out")["Sent"] == 1
        assert client.receive() == (b"\x01", ("127.0.0.1", made["Port"]))


def test_an_arn_is_bound_and_unbound_while_packets_come(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    unbound = {"Name": "late", "Batching": {"Count": 1}}
    inline = {"Name": "both", "DestinationArn": {"*": "file:inline.ndjson"}, "Batching": {"Count": 1}}
    made = request(one, "POST", "/v1/listeners", listener("sensors", Destinations=[unbound, inline])).json()
    address = ("127.0.0.1", made["Port"])
    bindings = [
        {"Destination": name, "IngressRegionKey": "us-east-1", "Arn": f"file:{name}.ndjson"}
        for name in ("late", "both")
    ]
    path = "/v1/destination-arns"

    def count(name: str, by: str) -> int:
        return one.metrics().value(by, destination=name)

    with Client() as client:
        client.send(b"\x00", address)
        until(lambda: count("late", "destination_dropped_packets") == 1, "the packet is dropped and counted")
        wait_for_records(one.directory / "inline.ndjson", 1)
        for binding in bindings:
            answer = request(one, "POST", path, binding)
            assert answer.status_code == 201, answer.text
            assert answer.headers["location"] == f"{path}/{binding['Destination']}%40us-east-1"
        for number in range(1, 101):
            client.send(bytes([number]), address)
            if number == 50:
                for binding in bindings:
                    body = binding | {"Arn": binding["Arn"].replace(".ndjson", "-2.ndjson")}
                    answer = request(one, "PUT", f"{path}/{binding['Destination']}%40us-east-1", body)
                    assert answer.status_code == 200, answer.text
        until(lambda: count("both", "delivery_packets") >= 101, "everything is delivered")
        until(lambda: count("late", "delivery_packets") >= 100, "everything is delivered")
        for name in ("late", "both"):
            first = [
                one_packet["Data"] for one_packet in wait_for_records(one.directory / f"{name}.ndjson", 1)
            ]
            second = [
                one_packet["Data"] for one_packet in wait_for_records(one.directory / f"{name}-2.ndjson", 50)
            ]
            assert len(set(first + second)) == len(first + second) == 100, (
                "every packet once, at one of the two"
            )
        for binding in bindings:
            assert request(one, "DELETE", f"{path}/{binding['Destination']}%40us-east-1").status_code == 204
        client.send(b"\xff", address)
        wait_for_records(one.directory / "inline.ndjson", 2)
        until(lambda: count("late", "destination_dropped_packets") == 1, "it is dropped and counted again")
    unknown = {"Destination": "nobody", "IngressRegionKey": "*", "Arn": "console:"}
    assert problem(request(one, "POST", path, unknown))[0] == 409
    request(one, "POST", path, bindings[0])
    refused, text = problem(request(one, "DELETE", "/v1/listeners/sensors"))
    assert (refused, "DestinationArn late@us-east-1" in text) == (409, True)


def test_a_packet_source_comes_changes_and_goes_while_its_listener_runs(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    port = one.port("decoder")
    made = request(one, "POST", "/v1/packet-sources", source("out", "decoder"))
    assert (made.status_code, made.json()["State"]) == (201, "Active")
    with Client() as client:
        entry = {"Data": "AQ==", "Remote": client.remote, "Id": "one"}
        one.publish(entry)
        assert client.receive() == (b"\x01", ("127.0.0.1", port))
        closed = source("out", "decoder", EgressNetworks=["203.0.113.0/24"])
        assert request(one, "PUT", "/v1/packet-sources/out", closed).status_code == 200
        assert one.post(entry, "out")["Duplicates"] == 1, "its Ids are remembered"
        assert one.post(entry | {"Id": "two"}, "out")["Failures"][0]["Reason"] == "RemoteDenied"
        off = source("out", "decoder", Enabled="false")
        assert request(one, "PUT", "/v1/packet-sources/out", off).json()["State"] == "Disabled"
        assert problem(request(one, "POST", "/v1/packet-sources/out/messages", entry))[0] == 409
        assert problem(request(one, "DELETE", "/v1/listeners/decoder"))[0] == 409
        assert request(one, "DELETE", "/v1/packet-sources/out").status_code == 204
        one.publish(entry | {"Id": "three"})
        request(one, "POST", "/v1/packet-sources", source("out", "decoder"))
        assert one.post(entry, "out")["Duplicates"] == 1, "as after a restart"
        assert one.post(entry | {"Id": "four"}, "out")["Sent"] == 1
        assert client.receive()[0] == b"\x01"
        assert client.waiting() == []
    assert one.port("decoder") == port


def test_a_new_source_waits_for_approval(gateway: StartGateway) -> None:
    one = gateway(f"require_approval: true\n{PLAIN}{source_of('decoder')}")
    assert one.event("SourceStateChanged")["State"] == "PendingApproval"
    path = "/v1/packet-sources/replies"
    with Client() as client:
        entry = {"Data": "AQ==", "Remote": client.remote}
        refused, text = problem(request(one, "POST", f"{path}/messages", entry))
        assert (refused, "PendingApproval" in text) == (409, True)
        one.publish(entry)
        failed = one.event("SourceFailed", Reason="SourceDisabled")
        assert "PendingApproval" in failed["Detail"]
        assert request(one, "POST", f"{path}/approve").json()["State"] == "Active"
        one.publish(entry)
        assert client.receive()[0] == b"\x01"
        assert one.stop() == 0
        one.start()
        assert one.post(entry)["Sent"] == 1, "a decision survives a restart"
        assert client.receive()[0] == b"\x01"
        assert request(one, "POST", f"{path}/reject").json()["State"] == "Rejected"
        assert problem(request(one, "POST", f"{path}/messages", entry))[0] == 409
        rejected = one.event("SourceStateChanged", State="Rejected")
        assert rejected["Detail"].endswith("(local)")
        assert client.waiting() == []
    assert problem(request(one, "POST", "/v1/packet-sources/nobody/approve"))[0] == 404


def test_secrets_are_sealed_and_in_no_answer(gateway: StartGateway, tmp_path: Path) -> None:
    one = gateway(PLAIN)
    marked = "bWFya2VkLXNlY3JldC1tYXJrZWQtc2VjcmV0LW1hcms="
    body = listener("sensors", UnknownPeerPreSharedKey=marked)
    made = request(one, "POST", "/v1/listeners", body, Idempotency_Key="k")
    assert made.status_code == 201, made.text
    seen = made.text + request(one, "GET", "/v1/listeners").text
    key = one.directory / "sluicegate.db.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert one.stop() == 0
    one.start()
    seen += (
        request(one, "GET", "/v1/listeners/sensors").text + one.process.stdout.text + one.process.stderr.text
    )
    assert one.stop() == 0
    files = b"".join(path.read_bytes() for path in one.directory.glob("sluicegate.db*"))
    assert marked not in seen
    assert marked.encode() not in files
    key.chmod(0o644)
    process = one.spawn()
    assert process.wait() == 4
    assert f"chmod 600 {key}" in process.stderr.text


def test_the_api_describes_itself(gateway: StartGateway) -> None:
    one = gateway(PLAIN)
    document = request(one, "GET", "/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {
        "/v1/listeners",
        "/v1/listeners/{name}",
        "/v1/destination-arns",
        "/v1/packet-sources/{name}/approve",
    } <= set(document["paths"])
    schema = request(one, "GET", "/v1/schemas/PacketSource").json()
    assert "SnsTopicSource" in schema["properties"]
    assert problem(request(one, "GET", "/v1/schemas/Nothing"))[0] == 404


@pytest.mark.parametrize("change", ["port", "address"])
def test_another_port_or_address_replaces_the_listener_and_a_refused_one_does_not(
    gateway: StartGateway, change: str
) -> None:
    one = gateway(PLAIN)
    port = free_port(socket.SOCK_DGRAM)
    made = request(one, "POST", "/v1/listeners", listener("sensors", Bind=f"127.0.0.1:{port}"))
    assert made.status_code == 201, made.text
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        body = listener("sensors", Bind=f"127.0.0.1:{taken}", Destinations=[to_file("log")])
        refused, text = problem(request(one, "PUT", "/v1/listeners/sensors", body))
        assert (refused, "in use" in text) == (409, True)
    wanted = free_port(socket.SOCK_DGRAM) if change == "port" else port
    bind = f"127.0.0.1:{wanted}" if change == "port" else f"0.0.0.0:{wanted}"
    body = listener("sensors", Bind=bind, Destinations=[to_file("log")])
    changed = request(one, "PUT", "/v1/listeners/sensors", body)
    assert (changed.status_code, changed.json().get("Port")) == (200, wanted), changed.text
    with Client() as client:
        client.send(b"\x01", ("127.0.0.1", wanted))
        wait_for_records(one.directory / "log.ndjson", 1)
    assert change == "address" or is_free(port)
    bad = listener("sensors", Bind=f"127.0.0.2:{wanted}", Destinations=[to_file("log", "gateway.yaml/log")])
    assert problem(request(one, "PUT", "/v1/listeners/sensors", bad))[0] == 422
    with Client() as client:
        client.send(b"\x02", ("127.0.0.1", wanted))
        wait_for_records(one.directory / "log.ndjson", 2)
