"""WireGuard Listeners with a stock peer: wireguard-go in a network namespace, the kernel's IP stack behind it."""

import os
import socket
import sqlite3
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from clocks import WallClock
from harness import ECHO, PROGRAM, TOPIC, Client, Gateway, Netns, until, wait_for_records
from wireguard import DATA, StockPeer

from conftest import StartGateway

pytestmark = pytest.mark.netns

GATEWAY, PEER = "192.0.2.1", "192.0.2.2"
INNER, INNER6 = "10.60.0.2", "fd60::2"
FAR, FAR6 = "10.60.0.1", "fd60::1"
ROUTES = ["10.60.0.0/24", "fd60::/64"]
PORT = 51_820

WHOLE_PACKETS = """
import base64

def handler(event, context):
    replies = []
    for message in event["Messages"]:
        packet = bytearray(base64.b64decode(message["Data"]))
        version = packet[0] >> 4
        width, start, header, protocol = (4, 12, 20, packet[9]) if version == 4 else (16, 8, 40, packet[6])
        if protocol == 17:
            # Sides change; what the checksums add up stays the same.
            swap(packet, start, width)
            swap(packet, header, 2)
            replies.append({"Tag": message["Tag"], "Data": base64.b64encode(packet).decode()})
    return {"Replies": replies}

def swap(packet, start, width):
    first, second = packet[start : start + width], packet[start + width : start + 2 * width]
    packet[start : start + 2 * width] = second + first
"""


class Site:
    """A gateway and a peer, each in a namespace, with a cable between them."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self.gateway_side, self.peer_side = self._netns(), self._netns()
        self.gateway_side.ip(
            "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.peer_side.name
        )
        for place, address in ((self.gateway_side, GATEWAY), (self.peer_side, PEER)):
            place.ip("address", "add", f"{address}/24", "dev", "cable")
            place.ip("link", "set", "cable", "up")

    def peer(self, addresses: tuple[str, ...] = (f"{INNER}/32", f"{INNER6}/128")) -> StockPeer:
        made = StockPeer(self.peer_side, self._directory, list(addresses))
        self._stack.callback(made.close)
        return made

    def client(self, host: str, port: int = 0) -> Client:
        """A plain UDP socket behind the peer."""
        return self._stack.enter_context(Client(host, port, self.peer_side))

    def capture(self) -> "Capture":
        made = Capture(self.peer_side)
        self._stack.callback(made.close)
        return made

    def _netns(self) -> Netns:
        made = Netns()
        self._stack.callback(made.close)
        return made


class Capture:
    """Every UDP datagram that reaches a namespace from the gateway, as `(destination port, payload)`."""

    def __init__(self, place: Netns) -> None:
        everything = socket.htons(0x0003)  # linux/if_ether.h, ETH_P_ALL
        self._socket = place.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, everything))
        self._socket.bind(("cable", 0x0003))
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self.seen: list[tuple[int, bytes]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                packet = self._socket.recv(65_535)
            except TimeoutError:
                continue
            if (
                packet[0] == 0x45
                and packet[9] == socket.IPPROTO_UDP
                and packet[12:16] == socket.inet_aton(GATEWAY)
            ):
                self.seen.append((int.from_bytes(packet[22:24], "big"), packet[28:]))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    missing = Netns.missing() or StockPeer.missing()
    if missing:
        pytest.skip(missing)
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def listener(peer_key: str, *, decapsulated: bool = True) -> str:
    return f"""
listeners:
  - name: tunnel
    protocol: wg
    bind: "{GATEWAY}:{PORT}"
    decapsulated_delivery: {str(decapsulated).lower()}
    peers: [{{ public_key: "{peer_key}", allowed_ips: ["{INNER}/32", "{INNER6}/128"] }}]
    destinations:
      - {{ name: echo, destination_arn: "function:echo.py:handler", batching: {{ count: 1 }} }}
      - {{ name: packets, destination_arn: "file:packets.ndjson", batching: {{ count: 1 }} }}
packet_sources:
  - {{ name: replies, listener_name: tunnel, sns_topic_source: {{ topic_arn: "{TOPIC}" }} }}
"""


def own_key(running: Gateway) -> str:
    items = running.api("GET", "/v1/listeners").json()["Items"]
    return str(items[0]["WireGuardPublicKey"])


def peers(running: Gateway) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = running.api("GET", "/v1/listeners/tunnel/peers").json()["Items"]
    return items


def connected(
    site: Site, gateway: StartGateway, handler: str = ECHO, **options: bool
) -> tuple[Gateway, StockPeer]:
    """A gateway with a peer that knows it."""
    peer = site.peer()
    running = gateway(listener(peer.public_key, **options), {"echo": handler}, place=site.gateway_side)
    peer.connect((GATEWAY, PORT), own_key(running), ROUTES)
    return running, peer


def remembered(running: Gateway) -> int:
    """The peers whose place is written down."""
    db = sqlite3.connect(f"file:{running.directory / 'sluicegate.db'}?mode=ro", uri=True)
    try:
        return int(db.execute("SELECT count(*) FROM peer_memories").fetchone()[0])
    finally:
        db.close()


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def source(running: Gateway, peer: StockPeer, data: bytes, **fields: Any) -> None:
    outcome = running.post(
        {"Messages": [{"Data": b64(data), "Remote": {"PeerKey": peer.public_key}, **fields}]}
    )
    assert outcome["Sent"] == 1, outcome


def test_ping_and_answers_through_the_tunnel(site: Site, gateway: StartGateway) -> None:
    running, peer = connected(site, gateway)
    for far in (FAR, FAR6):
        peer.ping(far)
    for number, (inner, far, version) in enumerate([(INNER, FAR, 4), (INNER6, FAR6, 6)]):
        client = site.client(inner)
        for payload in (b"hello", b"", bytes(range(256)) * 5):
            client.send(payload, (far, 5683))
            assert client.receive() == (payload, (far, 5683))
        packet = wait_for_records(running.directory / "packets.ndjson", 3 * number + 1)[3 * number]
        assert packet["Remote"] == {"IpAddress": PEER, "Port": peer.listen_port, "PeerKey": peer.public_key}
        assert packet["Local"]["Protocol"] == "wg"
        assert packet["Inner"] == {
            "SourceAddress": inner,
            "SourcePort": client.address[1],
            "DestinationAddress": far,
            "DestinationPort": 5683,
            "Version": version,
            "Protocol": 17,
        }
        assert b64decode(packet["Data"]) == b"hello"
    (shown,) = peers(running)
    assert shown["Endpoint"] == {"IpAddress": PEER, "Port": peer.listen_port}
    assert shown["LastHandshakeAt"] is not None
    assert shown["Session"]
    assert shown["ReceivedBytes"] > 2 * 1280
    assert running.metrics().value("wireguard_echoes_answered") == 6
    assert running.metrics().value("wireguard_live_peers") == 1


def test_whole_packets_without_decapsulation(site: Site, gateway: StartGateway) -> None:
    running, _ = connected(site, gateway, WHOLE_PACKETS, decapsulated=False)
    for inner, far in ((INNER, FAR), (INNER6, FAR6)):
        client = site.client(inner)
        client.send(b"hello", (far, 5683))
        assert client.receive() == (b"hello", (far, 5683))
    packets = wait_for_records(running.directory / "packets.ndjson", 2)
    assert {b64decode(packet["Data"])[0] >> 4 for packet in packets} == {4, 6}
    assert not any("Inner" in packet for packet in packets)


def test_a_push_reaches_a_socket_behind_the_peer_wherever_it_moves(site: Site, gateway: StartGateway) -> None:
    running, peer = connected(site, gateway)
    client = site.client(INNER, 5000)
    client.send(b"I am here", (FAR, 5683))
    assert client.receive() == (b"I am here", (FAR, 5683))
    first = peer.listen_port

    inner = {
        "SourceAddress": INNER,
        "SourcePort": 5000,
        "DestinationAddress": "10.60.0.77",
        "DestinationPort": 77,
    }
    message = {"Data": "bm93", "Remote": {"PeerKey": peer.public_key}, "Inner": inner}
    site.gateway_side.run(lambda: running.publish({"Messages": [message]}))
    assert client.receive() == (b"now", ("10.60.0.77", 77))
    source(running, peer, b"by what it used last")
    assert client.receive() == (b"by what it used last", (FAR, 5683))

    capture = site.capture()
    peer.move(first - 1 if first > 1024 else first + 1)
    client.send(b"I have moved", (FAR, 5683))
    assert client.receive() == (b"I have moved", (FAR, 5683))
    source(running, peer, b"found you")
    assert client.receive() == (b"found you", (FAR, 5683))
    assert peers(running)[0]["Endpoint"] == {"IpAddress": PEER, "Port": peer.listen_port}
    until(lambda: len(capture.seen) >= 2, "the capture has both")
    assert {port for port, _ in capture.seen} == {peer.listen_port}


def test_remotes_and_entries_of_later_reach_a_peer(site: Site, gateway: StartGateway) -> None:
    running, peer = connected(site, gateway)
    client = site.client(INNER, 5000)
    client.send(b"I am here", (FAR, 5683))
    assert client.receive() == (b"I am here", (FAR, 5683))
    (packet,) = wait_for_records(running.directory / "packets.ndjson", 1)
    stranger = b64(bytes(range(32)))
    remotes: list[dict[str, Any]] = [
        {"PeerKey": peer.public_key},
        {"PeerKey": stranger},
        {"Tag": packet["Tag"]},
        {"PeerKey": "short"},
    ]
    outcome = running.post({"Data": b64(b"now"), "Remotes": remotes})
    assert (outcome["Entries"], outcome["Sent"]) == (4, 2)
    failed = [(each["RemoteIndex"], each["Reason"]) for each in outcome["Failures"]]
    assert failed == [(1, "UnknownPeer"), (3, "MalformedRemote")]
    assert outcome["Failures"][1]["Detail"] == "Remotes[3].PeerKey is not the Base64 of 32 bytes"
    assert [client.receive() for _ in range(2)] == [(b"now", (FAR, 5683))] * 2
    due = time.time() + 0.5
    outcome = running.post({"Data": b64(b"later"), "Remotes": [remotes[0], remotes[2]], "SendAt": due})
    assert outcome["Scheduled"] == 2
    assert [client.receive() for _ in range(2)] == [(b"later", (FAR, 5683))] * 2
    assert time.time() >= due


def test_a_restarted_gateway_speaks_first_and_repeats_no_counter(site: Site, gateway: StartGateway) -> None:
    running, peer = connected(site, gateway)
    capture = site.capture()
    client = site.client(INNER, 5000)
    client.send(b"I am here", (FAR, 5683))
    assert client.receive() == (b"I am here", (FAR, 5683))
    key = own_key(running)
    for _ in range(3):
        time.sleep(1)  # the contract gives it a second to write down where the peer is
        running.kill()
        running.start()
        assert own_key(running) == key
        begun = time.monotonic()
        source(running, peer, b"good morning")
        assert client.receive() == (b"good morning", (FAR, 5683))
        assert time.monotonic() - begun < 3

    def sent() -> list[bytes]:
        return [payload[4:16] for _, payload in capture.seen if payload[0] == DATA]

    until(lambda: len(sent()) >= 4, "the capture has a datagram of each session")
    data = sent()
    assert len(set(data)) == len(data), "a counter was used twice with a session's key"


@pytest.mark.parametrize("seconds_ahead", [-86_400, 86_400])
def test_a_push_reaches_the_peer_after_a_crash_and_with_another_clock(
    site: Site, gateway: StartGateway, wall_clock: WallClock, seconds_ahead: int
) -> None:
    running, peer = connected(site, gateway)
    client = site.client(INNER, 5000)
    client.send(b"I am here", (FAR, 5683))
    assert client.receive() == (b"I am here", (FAR, 5683))
    running.environment |= wall_clock.environment
    # Ahead first: what comes after that is behind in any case.
    for number, ahead in enumerate([max(seconds_ahead, 0), min(seconds_ahead, 0), -86_400]):
        until(lambda: remembered(running), "it is written down where the peer is")
        running.kill()
        wall_clock.set(ahead)
        running.start()
        source(running, peer, b"good morning %d" % number)
        assert client.receive() == (b"good morning %d" % number, (FAR, 5683))


def test_a_peer_is_added_and_removed_while_the_listener_runs(site: Site, gateway: StartGateway) -> None:
    text = "listeners: []\npacket_sources: []\n"
    running = gateway(text, {"echo": ECHO}, place=site.gateway_side)
    made = running.api(
        "POST",
        "/v1/listeners",
        {
            "Name": "tunnel",
            "Protocols": ["wg"],
            "Bind": f"{GATEWAY}:{PORT}",
            "DecapsulatedDelivery": "true",
            "Destinations": [
                {"Name": "echo", "DestinationArn": "function:echo.py:handler", "Batching": {"Count": 1}}
            ],
        },
    )
    assert made.status_code == 201, made.text
    file = running.directory / f"wgq{os.getpid()}.conf"
    command = [PROGRAM, "peers", "add", "phone", "--to", file, "--preshared-key", "--api", running.api_url]
    site.gateway_side.run(lambda: subprocess.run(command, check=True, capture_output=True))
    assert oct(file.stat().st_mode & 0o777) == "0o600"

    def quick(action: str) -> None:
        environment = os.environ | {"WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
        site.peer_side.run(
            lambda: subprocess.run(
                ["wg-quick", action, file], env=environment, check=True, capture_output=True
            )
        )

    quick("up")
    try:
        client = site.client(INNER)
        client.send(b"let in", (FAR, 7))
        assert client.receive() == (b"let in", (FAR, 7))
        (shown,) = peers(running)
        assert (shown["Name"], shown["Session"]) == ("phone", True)
        site.gateway_side.run(
            lambda: subprocess.run(
                [PROGRAM, "peers", "remove", "phone", "--api", running.api_url],
                check=True,
                capture_output=True,
            )
        )
        assert peers(running) == []
        before = running.metrics().value("received_packets")
        client.send(b"cut off", (FAR, 7))
        until(lambda: running.metrics().value("received_packets") > before, "the packet arrives")
        assert client.waiting() == []
        rejected = running.metrics().by("reason", "rejected_packets", listener="tunnel")
        assert set(rejected) <= {"NoSession", "UnknownPeer"}
        assert rejected
        assert len(running.named("ListenerStarted", Listener="tunnel")) == 1, "its socket stayed"
    finally:
        quick("down")
