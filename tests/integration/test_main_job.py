"""The main job, end to end: packets sourced by a publish, replies by Tag, every packet to every Destination.

The real `sluicegate run`, real boto3, real sockets. UDP on loopback may still lose what overflows a receive
queue, so the larger tests send in windows that fit into the kernel's smallest default.
"""

import base64
import json
import string
import time
from collections import Counter
from typing import Any

import pytest
from harness import ECHO, LOOPBACK, Client, Gateway, Netns, Wire, clients, records, until, wait_for_records

from conftest import StartGateway

LOOPBACKS = ["127.0.0.1", "::1"]
ALTERED = "the Tag is not one that this gateway made"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bind(host: str) -> str:
    return f'"{host}"'


def sourcing(host: str, networks: str | None = LOOPBACK, name: str = "decoder") -> str:
    """A Listener on `host` that writes packets into `packets.ndjson`, and a PacketSource for it."""
    egress = f"    egress_networks: {networks}\n" if networks else ""
    return (
        "listeners:\n"
        f"  - name: {name}\n"
        f"    bind: {bind(host)}\n"
        "    destinations:\n"
        "      - { name: packets, destination_arn: 'file:packets.ndjson', batching: { count: 1 } }\n"
        "packet_sources:\n"
        "  - name: replies\n"
        f"    listener_name: {name}\n"
        '    sns_topic_source: { topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }\n' + egress
    )


def tag_of(running: Gateway, client: Client, to: tuple[str, int]) -> str:
    """The Tag of a packet that `client` sends."""
    path = running.directory / "packets.ndjson"
    before = len(records(path))
    client.send(b"hello", to)
    return str(wait_for_records(path, before + 1)[-1]["Tag"])


# A publish becomes a datagram


@pytest.mark.parametrize("host", LOOPBACKS)
def test_a_publish_reaches_the_client_from_the_listeners_address(gateway: StartGateway, host: str) -> None:
    running = gateway(sourcing(host))
    listener = running.address()
    assert listener[0] == host
    payload = bytes(range(256))
    with Client(host) as client:
        ip, port = client.address
        # The article's own message, then the other generation with each spelling of an address.
        running.publish({"Data": b64(payload), "Remote": {"IP": ip, "Port": port}})
        assert client.receive() == (payload, listener)
        running.publish(
            {
                "Messages": [
                    {"Data": b64(b"\x00first"), "Remote": {"Address": ip, "Port": port}},
                    {"Data": "second \u00fc", "Formatter": "utf8", "Remote": {"IpAddress": ip, "Port": port}},
                    {"Data": "0aFF", "Formatter": "hex", "Remote": {"IP": ip, "Port": port, "PeerKey": ""}},
                ]
            }
        )
        expected = [b"\x00first", "second \u00fc".encode(), b"\x0a\xff"]
        assert [client.receive() for _ in range(3)] == [(data, listener) for data in expected]
        assert client.waiting() == []
    assert running.metrics().value("source_sent_packets", packet_source="replies") == 4


def test_publish_batch_and_the_rest_api_source_packets(gateway: StartGateway) -> None:
    running = gateway(sourcing("127.0.0.1"))
    with Client() as client:
        entries = [
            {"Id": str(n), "Message": json.dumps({"Data": b64(bytes([n])), "Remote": client.remote})}
            for n in range(10)
        ]
        answer = running.sns.publish_batch(
            TopicArn="arn:aws:sns:us-east-1:000000000000:replies", PublishBatchRequestEntries=entries
        )
        assert len(answer["Successful"]) == 10
        assert client.receive_data(10) == [bytes([n]) for n in range(10)]
        outcome = running.post({"Data": "eA==", "Remote": client.remote})
        assert (outcome["Entries"], outcome["Sent"]) == (1, 1)
        assert client.receive() == (b"x", running.address())


# A packet becomes a batch, and an answer a datagram

FAN_OUT = """
listeners:
  - name: decoder
    bind: {bind}
    destinations:
      - {{ name: single, destination_arn: "file:single.ndjson", batching: {{ count: 1 }} }}
      - {{ name: hundreds, destination_arn: "file:hundreds.ndjson", formatter: hex,
          batching: {{ count: 100, timeout_in_seconds: 0.05 }} }}
      - {{ name: echo, destination_arn: "function:echo.py:handler",
          batching: {{ count: 150, timeout_in_seconds: 0.01 }} }}
"""
WINDOW = 4  # packets of each of the 100 clients under way: 400 fit into the smallest default receive queue


@pytest.mark.parametrize("host", LOOPBACKS)
def test_every_packet_reaches_every_destination_once_and_replies_find_their_socket(
    gateway: StartGateway, host: str
) -> None:
    running = gateway(FAN_OUT.format(bind=bind(host)), {"echo": ECHO})
    listener = running.address()
    sent: dict[tuple[str, bytes], int] = {}
    with clients(100, host) as devices:
        for start in range(0, 100, WINDOW):
            expected = []
            for number, device in enumerate(devices):
                payloads = [f"{number}/{n}".encode() for n in range(start, start + WINDOW)]
                expected.append(payloads)
                for payload in payloads:
                    device.send(payload, listener)
                    sent[host, payload] = device.address[1]
            for device, payloads in zip(devices, expected, strict=True):
                received = [device.receive() for _ in payloads]
                assert {source for _, source in received} == {listener}
                assert sorted(data for data, _ in received) == sorted(payloads)
        assert [device.waiting() for device in devices] == [[]] * 100
        metrics = running.metrics()
        assert running.stop() == 0
    for name, decode in (("single", base64.b64decode), ("hundreds", bytes.fromhex)):
        packets = records(running.directory / f"{name}.ndjson")
        found = Counter((p["Remote"]["IpAddress"], decode(p["Data"])) for p in packets)
        assert found == Counter(sent.keys())
        assert all(p["Remote"]["Port"] == sent[host, decode(p["Data"])] for p in packets)
        assert {(p["Local"]["IpAddress"], p["Local"]["Port"]) for p in packets} == {listener}
        assert len({p["Tag"] for p in packets}) == 10_000
    assert metrics.value("received_packets") == 10_000
    assert metrics.value("destination_batches", destination="single") == 10_000
    assert metrics.value("destination_batches", destination="hundreds") < 1_000
    assert metrics.value("destination_replies_sent", destination="echo") == 10_000


def test_the_shape_of_a_packet(gateway: StartGateway) -> None:
    running = gateway(sourcing("127.0.0.1"))
    with Client() as client:
        tag = tag_of(running, client, running.address())
        (packet,) = records(running.directory / "packets.ndjson")
        ip, port = client.address
        assert packet == {
            "Tag": tag,
            "Remote": {"IpAddress": ip, "Port": port},
            "Local": {
                "Domain": "ingress-1",
                "IpAddress": "127.0.0.1",
                "Port": running.port(),
                "Protocol": "udp",
            },
            "ReceivedAt": packet["ReceivedAt"],
            "IngressRegion": "us-east-1",
            "Formatter": "base64",
            "Data": b64(b"hello"),
        }
        assert set(tag) <= set(string.ascii_letters + string.digits + "-_")
        assert len(tag) <= 128


# Tags

ANSWER_AFTER_SECONDS = 5


def test_a_tag_is_answered_later_and_after_a_crash(gateway: StartGateway) -> None:
    """Egress networks are the defaults: after the restart only its Tag permits to reach a client."""
    running = gateway(sourcing("::", networks=None))
    port = running.port()
    with Client("127.0.0.1") as v4, Client("::1") as v6:
        tags = [(v4, tag_of(running, v4, ("127.0.0.1", port))), (v6, tag_of(running, v6, ("::1", port)))]
        # Time itself is what is tested here: a Tag outlives whatever waits for an answer.
        time.sleep(ANSWER_AFTER_SECONDS)
        for client, tag in tags:
            running.publish({"Tag": tag, "Data": b64(b"later")})
            assert client.receive() == (b"later", (client.address[0], port))
        running.kill()
        running.start()
        assert running.port() == port, "an assigned port is kept"
        for client, tag in tags:
            assert running.post({"Data": "eA==", "Remote": client.remote})["Failures"][0]["Reason"] == (
                "RemoteDenied"
            )
            running.publish({"Messages": [{"Tag": tag, "Data": b64(bytes([n]))} for n in range(3)]})
            for n in range(3):
                assert client.receive() == (bytes([n]), (client.address[0], port))


def flipped(tag: str) -> list[str]:
    """`tag` with each one bit of its text flipped, then with each one bit of what it encodes."""
    altered = []
    for bit in range(len(tag) * 8):
        text = bytearray(tag.encode())
        text[bit // 8] ^= 1 << (bit % 8)
        altered.append(text.decode("latin-1"))
    raw = base64.urlsafe_b64decode(tag + "=" * (-len(tag) % 4))
    for bit in range(len(raw) * 8):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << (bit % 8)
        altered.append(base64.urlsafe_b64encode(data).decode().rstrip("="))
    return altered


@pytest.mark.parametrize("host", LOOPBACKS)
def test_a_tag_with_any_bit_flipped_is_refused(gateway: StartGateway, host: str) -> None:
    running = gateway(sourcing(host))
    with Client(host) as client:
        tag = tag_of(running, client, running.address())
        altered = flipped(tag)
        assert len(altered) > 900
        entries = [{"Tag": other, "Data": "eA=="} for other in altered]
        # The last one is intact and leaves after all the others: it must be the first to arrive.
        outcome = running.post({"Messages": [*entries, {"Tag": tag, "Data": b64(b"intact")}]})
        assert outcome["Sent"] == 1
        reasons = [(f["Index"], f["Reason"], f["Detail"]) for f in outcome["Failures"]]
        assert reasons == [(n, "InvalidTag", ALTERED) for n in range(len(altered))]
        assert client.receive()[0] == b"intact"
        assert client.waiting() == []
        failed = running.metrics().by("reason", "source_failed_entries", packet_source="replies")
        assert failed == {"InvalidTag": len(altered)}


def test_a_tag_of_another_gateway_is_refused(gateway: StartGateway) -> None:
    one, other = gateway(sourcing("127.0.0.1")), gateway(sourcing("127.0.0.1"))
    with Client() as client:
        tag = tag_of(one, client, one.address())
        (failure,) = other.post({"Tag": tag, "Data": "eA=="})["Failures"]
        assert failure["Reason"] == "InvalidTag"
        assert one.post({"Tag": tag, "Data": "eA=="})["Sent"] == 1
        assert client.receive() == (b"x", one.address())


# Many entries


@pytest.mark.parametrize("host", LOOPBACKS)
def test_malformed_entries_fail_alone(gateway: StartGateway, host: str) -> None:
    running = gateway(sourcing(host))
    with clients(100, host) as devices:
        messages: list[Any] = [
            {"Data": b64(str(n).encode()), "Remote": devices[n % 100].remote} for n in range(1_000)
        ]
        messages[7]["Data"] = "not base64"
        messages[500]["Remote"]["Port"] = "40001"
        messages[999] = 42
        malformed = {7: "MalformedData", 500: "MalformedRemote", 999: "MalformedMessage"}
        message_id = running.publish({"Messages": messages})
        for start, device in enumerate(devices):
            expected = [str(n).encode() for n in range(start, 1_000, 100) if n not in malformed]
            assert device.receive_data(len(expected)) == expected, "in order, each once"
        failures = running.wait_for("SourceFailed", 3, MessageId=message_id)
        assert {f["Index"]: f["Reason"] for f in failures} == malformed
        assert {(f["Listener"], f["PacketSource"]) for f in failures} == {("decoder", "replies")}
        assert all(f["Detail"] for f in failures)
        assert [device.waiting() for device in devices] == [[]] * 100
    metrics = running.metrics()
    assert metrics.by("reason", "source_failed_entries", packet_source="replies") == dict.fromkeys(
        malformed.values(), 1
    )
    assert metrics.value("source_entries", packet_source="replies") == 1_000
    assert metrics.value("source_sent_packets", packet_source="replies") == 997


@pytest.mark.usefixtures("icmp")
@pytest.mark.parametrize("host", LOOPBACKS)
def test_dead_ports_do_not_harm_live_ones(gateway: StartGateway, host: str) -> None:
    running = gateway(sourcing(host))
    with clients(100, host) as gone:
        dead = [device.remote for device in gone]
    with clients(50, host) as devices:
        ports = {device.address[1] for device in devices}
        dead = [remote for remote in dead if remote["Port"] not in ports]
        messages = []
        for n in range(500):
            messages.append({"Data": "", "Remote": dead[n % len(dead)]})
            messages.append({"Data": b64(str(n).encode()), "Remote": devices[n % 50].remote})
        outcome = running.post({"Messages": messages})
        assert (outcome["Entries"], outcome["Sent"]) == (1_000, 1_000)
        for start, device in enumerate(devices):
            assert device.receive_data(10) == [str(n).encode() for n in range(start, 500, 50)]

        def icmp_errors() -> int:
            return running.metrics().value("icmp_errors", type="PortUnreachable")

        assert 0 < until(icmp_errors, "ICMP errors are counted") <= 500
    metrics = running.metrics()
    assert metrics.value("sent_packets") == 1_000
    assert metrics.by("reason", "source_failed_entries") == {}


# Egress policy: nothing leaves that must not

DENIED = [
    ("169.254.169.254", "RemoteDenied"),
    ("0.0.0.0", "RemoteDenied"),
    ("255.255.255.255", "RemoteDenied"),
    ("127.0.0.1", "RemoteDenied"),
    ("::1", "RemoteDenied"),
    ("::", "RemoteDenied"),
    ("::ffff:127.0.0.1", "RemoteDenied"),
    ("::ffff:169.254.169.254", "RemoteDenied"),
    ("::127.0.0.1", "RemoteDenied"),
    ("64:ff9b::7f00:1", "RemoteDenied"),
    ("2002:7f00:1::", "RemoteDenied"),
    ("10.0.0.1", "RemoteDenied"),
    ("100.64.0.1", "RemoteDenied"),
    ("224.0.0.1", "RemoteDenied"),
    ("ff02::1", "RemoteDenied"),
    ("fe80::1", "RemoteDenied"),
    ("fd00::1", "RemoteDenied"),
    ("127.1", "MalformedRemote"),
    ("0x7f000001", "MalformedRemote"),
    ("2130706433", "MalformedRemote"),
    ("127.0.0.01", "MalformedRemote"),
    ("localhost", "MalformedRemote"),
    ("", "MalformedRemote"),
]


def denied_entries(port: int, own: int) -> list[tuple[dict[str, Any], str]]:
    """Entries that the default networks do not permit, with the reason of each."""
    entries = [
        ({"Data": "eA==", "Remote": {"Address": address, "Port": port}}, reason) for address, reason in DENIED
    ]
    for address in ("127.0.0.1", "::1", "203.0.113.42"):
        entries.append(({"Data": "eA==", "Remote": {"Address": address, "Port": 0}}, "MalformedRemote"))
    for address in ("127.0.0.1", "::1", "127.0.0.5", "0.0.0.0"):
        entries.append(({"Data": "eA==", "Remote": {"Address": address, "Port": own}}, "RemoteDenied"))
    return entries


def test_the_default_networks_keep_special_addresses_out(gateway: StartGateway) -> None:
    running = gateway(sourcing("::", networks=None))
    port = running.port()
    with Client("0.0.0.0") as v4, Client("::1", v4.address[1]) as v6, Client() as known:
        tag = tag_of(running, known, ("127.0.0.1", port))
        entries = denied_entries(v4.address[1], port)
        outcome = running.post({"Messages": [entry for entry, _ in entries]})
        assert [f["Reason"] for f in outcome["Failures"]] == [reason for _, reason in entries]
        assert outcome["Sent"] == 0
        # What is sent now comes after anything that the entries above could have sent.
        assert running.post({"Tag": tag, "Data": b64(b"end")})["Sent"] == 1
        assert known.receive()[0] == b"end"
        assert v4.waiting() == v6.waiting() == []
    metrics = running.metrics()
    assert metrics.value("sent_packets") == 1
    assert metrics.value("received_packets") == 1, "nothing came back to the Listener"


@pytest.mark.netns
def test_nothing_is_on_the_wire_for_refused_remotes(gateway: StartGateway, netns: Netns) -> None:
    """Every address has a route here, and everything that leaves the Listener is seen."""
    netns.ip("link", "add", "out", "type", "veth", "peer", "name", "far")
    netns.ip("link", "set", "far", "up")
    netns.ip("link", "set", "out", "arp", "off")  # asks for no neighbour before it sends
    netns.ip("address", "add", "198.51.100.1/24", "dev", "out")
    netns.ip("address", "add", "2001:db8::1/64", "dev", "out", "nodad")
    netns.ip("link", "set", "out", "up")
    netns.ip("route", "add", "default", "dev", "out")
    netns.ip("-6", "route", "add", "default", "dev", "out")
    running = gateway(sourcing("::", networks=None), place=netns)
    port = running.port()
    with Wire(netns, port) as wire:
        entries = denied_entries(40_000, port)
        allowed = {"Data": b64(b"end"), "Remote": {"Address": "203.0.113.42", "Port": 40_000}}
        outcome = running.post({"Messages": [*(entry for entry, _ in entries), allowed]})
        assert outcome["Sent"] == 1
        assert [f["Reason"] for f in outcome["Failures"]] == [reason for _, reason in entries]
        assert wire.until(b"end") == [b"end"]


def test_listed_networks_are_open_but_never_an_own_listener(gateway: StartGateway) -> None:
    text = sourcing("::", networks='[127.0.0.0/8, "::1/128", 0.0.0.0/32]')
    other = '  - { name: other, bind: "127.0.0.1" }\n'
    running = gateway(text.replace("packet_sources:", other + "packet_sources:"))
    port, other_port = running.port("decoder"), running.port("other")
    with Client("127.0.0.1") as v4, Client("::1") as v6:
        messages: list[dict[str, Any]] = [
            {"Data": b64(b"plain"), "Remote": v4.remote},
            {"Data": b64(b"mapped"), "Remote": {"Address": "::ffff:127.0.0.1", "Port": v4.address[1]}},
            {"Data": b64(b"v6"), "Remote": v6.remote},
        ]
        refused = [
            ("127.0.0.1", port, "RemoteDenied"),
            ("127.8.8.8", port, "RemoteDenied"),
            ("::ffff:127.0.0.1", port, "RemoteDenied"),
            ("0.0.0.0", port, "RemoteDenied"),
            ("::1", port, "RemoteDenied"),
            ("127.0.0.1", other_port, "RemoteDenied"),
            ("127.0.0.1", 0, "MalformedRemote"),
            ("::1", 0, "MalformedRemote"),
            ("10.0.0.1", 40_000, "RemoteDenied"),
            ("169.254.169.254", 80, "RemoteDenied"),
        ]
        messages += [{"Data": "eA==", "Remote": {"Address": ip, "Port": number}} for ip, number, _ in refused]
        outcome = running.post({"Messages": messages})
        assert outcome["Sent"] == 3
        assert [(f["Index"], f["Reason"]) for f in outcome["Failures"]] == [
            (3 + n, reason) for n, (_, _, reason) in enumerate(refused)
        ]
        assert v4.receive_data(2) == [b"plain", b"mapped"]
        assert v6.receive() == (b"v6", ("::1", port))
        assert v4.waiting() == v6.waiting() == []
    assert running.metrics().value("received_packets") == 0


# Destinations do not wait for each other

SLOW = """
import pathlib, time

here = pathlib.Path(__file__).parent

def handler(event, context):
    (here / "started").touch()
    while not (here / "released").exists():
        time.sleep(0.01)
"""


def test_a_slow_destination_delays_no_other(gateway: StartGateway) -> None:
    """The slow one takes as long as the test wants: it is certainly in its first batch all the time."""
    running = gateway(
        """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations:
      - name: slow
        destination_arn: function:slow.py:handler
        batching: { count: 10, timeout_in_seconds: 0.01 }
        arguments: { Concurrency: 1, TimeoutInSeconds: 300 }
      - name: fast
        destination_arn: file:fast.ndjson
        batching: { count: 10, timeout_in_seconds: 0.01 }
""",
        {"slow": SLOW},
    )
    listener = running.address()
    with Client() as client:
        client.send(b"0", listener)
        until((running.directory / "started").exists, "the slow handler has its first batch")
        for n in range(1, 1_000):
            client.send(str(n).encode(), listener)
            if n % 100 == 0:
                wait_for_records(running.directory / "fast.ndjson", n)
        packets = wait_for_records(running.directory / "fast.ndjson", 1_000)
    assert [base64.b64decode(p["Data"]) for p in packets] == [str(n).encode() for n in range(1_000)]
    metrics = running.metrics()
    assert metrics.value("delivery_packets", destination="fast") == 1_000
    assert metrics.value("delivery_batches", destination="slow") == 0
    assert metrics.value("delivery_in_flight_batches", destination="slow") == 1
    (running.directory / "released").touch()
    until(
        lambda: running.metrics().value("delivery_packets", destination="slow") == 1_000,
        "the slow one gets them all",
    )


MEASURE = """
import json

def handler(event, context):
    with open("sizes", "a") as file:
        file.write(f"{len(event['Messages'])} {len(json.dumps(event, separators=(',', ':')))}\\n")
"""


def test_a_batch_is_never_larger_than_a_function_takes(gateway: StartGateway) -> None:
    running = gateway(
        """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations:
      - name: measure
        destination_arn: function:measure.py:handler
        batching: { count: 1000, timeout_in_seconds: 3, size_in_mb: 64 }
        arguments: { Concurrency: 1 }
""",
        {"measure": MEASURE},
    )
    listener = running.address()
    with Client() as client:
        for n in range(1, 101):  # 8 MB as base64
            client.send(b"x" * 60_000, listener)
            if n % 10 == 0:  # as many as the receive buffer holds; seldom, so that they come within the 3 s
                until(lambda n=n: running.metrics().value("received_packets") == n, "they were received")
    until(lambda: running.metrics().value("delivery_packets") == 100, "all were delivered")
    sizes = [tuple(map(int, line.split())) for line in (running.directory / "sizes").read_text().splitlines()]
    assert sum(count for count, _ in sizes) == 100
    assert all(size <= 6 << 20 for _, size in sizes)
    assert sizes[0][1] > 5 << 20
