"""The address that packets leave from: it goes away, is another one after a restart, or never was one (contract 3)."""

import contextlib
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cable import GATEWAY, GATEWAY6, NEIGHBOUR, NEIGHBOUR6, PORT, Cable, echo_config, laid_cable, link_local
from clocks import WallClock
from harness import ECHO, TOPIC, Client, Gateway, until, wait_for_records
from wireguard import INITIATION, StockPeer, Tunnel, key_pair

from conftest import StartGateway

pytestmark = [pytest.mark.attack, pytest.mark.netns]

INNER, FAR = "10.60.0.2", "10.60.0.1"
OPEN = '[0.0.0.0/0, "::/0", 10.0.0.0/8, "fd00::/8", "fe80::/10"]'
NEXT = {GATEWAY: "10.7.0.11", GATEWAY6: "fd00:7::11"}
AFTER = {GATEWAY: "10.7.0.12", GATEWAY6: "fd00:7::12"}
BOTH = pytest.mark.parametrize(
    ("host", "neighbour"), [(GATEWAY, NEIGHBOUR), (GATEWAY6, NEIGHBOUR6)], ids=["v4", "v6"]
)


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid_cable() as made:
        yield made


def plain(bind: str = f"[::]:{PORT}", more: str = "") -> str:
    return echo_config(OPEN, bind, more)


def tunnel(public_key: str, bind: str = f"[::]:{PORT}", more: str = "") -> str:
    return f"""
listeners:
  - name: decoder
    protocol: wg
    bind: "{bind}"
    decapsulated_delivery: true
    peers: [{{ public_key: "{public_key}"{more} }}]
    destinations:
      - {{ name: packets, destination_arn: "file:packets.ndjson", batching: {{ count: 1 }} }}
packet_sources:
  - {{ name: replies, listener_name: decoder, sns_topic_source: {{ topic_arn: "{TOPIC}" }} }}
"""


def add(cable: Cable, address: str) -> None:
    v6 = ":" in address
    extra = ["nodad"] if v6 else ["brd", "+"]
    cable.gateway.ip("address", "add", f"{address}/{64 if v6 else 24}", "dev", "cable", *extra)


def remove(cable: Cable, address: str) -> None:
    cable.gateway.ip("address", "del", f"{address}/{64 if ':' in address else 24}", "dev", "cable")
    via = NEIGHBOUR6 if ":" in address else NEIGHBOUR
    with contextlib.suppress(Exception):  # it went with the last address, or is there still
        cable.gateway.ip("route", "add", "default", "via", via)


def replace(cable: Cable, before: str, after: str) -> None:
    """The provider gives the machine another address."""
    remove(cable, before)
    add(cable, after)


def push(running: Gateway, data: bytes, **way: Any) -> dict[str, Any]:
    return running.post({"Messages": [{"Data": b64encode(data).decode(), **way}]})


def start_a_day_back(running: Gateway, clock: WallClock) -> None:
    running.environment |= clock.environment
    clock.set(-86_400)
    running.start()


def first_packet(running: Gateway) -> dict[str, Any]:
    return wait_for_records(running.directory / "packets.ndjson", 1)[0]


def own_key(running: Gateway) -> str:
    return str(running.api("GET", "/v1/listeners").json()["Items"][0]["WireGuardPublicKey"])


@BOTH
def test_pushes_and_tags_reach_a_remote_when_the_address_is_another_one(
    gateway: StartGateway, cable: Cable, wall_clock: WallClock, host: str, neighbour: str
) -> None:
    running = gateway(plain(), {"echo": ECHO}, place=cable.gateway)
    with cable.client(neighbour) as client:
        client.send(b"hello", (host, PORT))
        assert client.receive() == (b"hello", (host, PORT))
        tag = first_packet(running)["Tag"]
        replace(cable, host, NEXT[host])
        for number in range(3):
            assert push(running, b"push %d" % number, Remote=client.remote)["Sent"] == 1
            assert client.receive() == (b"push %d" % number, (NEXT[host], PORT))
        assert push(running, b"tag", Tag=tag)["Sent"] == 1
        assert client.receive() == (b"tag", (NEXT[host], PORT))
        told = running.wait_for("LocalAddressGone", Listener="decoder")
        running.kill()
        replace(cable, NEXT[host], AFTER[host])
        start_a_day_back(running, wall_clock)
        assert push(running, b"after", Tag=tag)["Sent"] == 1
        assert client.receive() == (b"after", (AFTER[host], PORT))
    assert len(told) == 1
    assert host in told[0]["Detail"]


@BOTH
def test_a_run_of_packets_for_one_remote_leaves_too(
    gateway: StartGateway, cable: Cable, host: str, neighbour: str
) -> None:
    running = gateway(plain(), {"echo": ECHO}, place=cable.gateway)
    with cable.client(neighbour) as client, cable.client(neighbour) as other:
        for one in (client, other):
            one.send(b"hello", (host, PORT))
            assert one.receive() == (b"hello", (host, PORT))
        replace(cable, host, NEXT[host])
        data = b64encode(b"x" * 700).decode()
        entries = [{"Data": data, "Remote": client.remote}] * 40 + [
            {"Data": data, "Remote": one.remote} for one in (client, other) * 10
        ]
        assert running.post({"Messages": entries})["Sent"] == 60
        assert {client.receive() for _ in range(50)} == {(b"x" * 700, (NEXT[host], PORT))}
        assert {other.receive() for _ in range(10)} == {(b"x" * 700, (NEXT[host], PORT))}


@BOTH
def test_an_address_that_comes_back_is_used_again(
    gateway: StartGateway, cable: Cable, host: str, neighbour: str
) -> None:
    running = gateway(plain(), {"echo": ECHO}, place=cable.gateway)
    with cable.client(neighbour) as client:
        add(cable, NEXT[host])
        client.send(b"hello", (NEXT[host], PORT))
        assert client.receive() == (b"hello", (NEXT[host], PORT))
        remove(cable, NEXT[host])
        push(running, b"gone", Remote=client.remote)
        assert client.receive() == (b"gone", (host, PORT))
        add(cable, NEXT[host])
        push(running, b"back", Remote=client.remote)
        assert client.receive() == (b"back", (NEXT[host], PORT))


@pytest.mark.parametrize(
    ("prefix", "address", "neighbour"),
    [("203.0.113.0/24", "203.0.113.77", NEIGHBOUR), ("2001:db8:5::/64", "2001:db8:5::77", NEIGHBOUR6)],
    ids=["v4", "v6"],
)
def test_an_address_of_a_local_route_is_an_address(
    gateway: StartGateway, cable: Cable, prefix: str, address: str, neighbour: str
) -> None:
    running = gateway(plain(), {"echo": ECHO}, place=cable.gateway)
    family = ["-6"] if ":" in prefix else []
    route = [*family, "route", "add", "local", prefix, "dev", "lo"]
    cable.gateway.ip(*route)
    cable.neighbour.ip(*family, "route", "add", prefix, "via", GATEWAY6 if family else GATEWAY)
    with cable.client(neighbour) as client:
        client.send(b"hello", (address, PORT))
        assert client.receive() == (b"hello", (address, PORT))
        push(running, b"push", Remote=client.remote)
        assert client.receive() == (b"push", (address, PORT))
        cable.gateway.ip(*family, "route", "del", "local", prefix, "dev", "lo")
        push(running, b"gone", Remote=client.remote)
        assert client.receive() == (b"gone", (GATEWAY6 if family else GATEWAY, PORT))


@BOTH
def test_a_listener_with_an_address_of_its_own_does_not_speak_from_another(
    gateway: StartGateway, cable: Cable, host: str, neighbour: str
) -> None:
    bind = f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}"
    running = gateway(plain(bind), {"echo": ECHO}, place=cable.gateway)
    with cable.client(neighbour) as client:
        client.send(b"hello", (host, PORT))
        assert client.receive() == (b"hello", (host, PORT))
        replace(cable, host, NEXT[host])
        stranger = {"Address": neighbour, "Port": 9}
        for remote in (client.remote, stranger):
            failure = push(running, b"push", Remote=remote)["Failures"][0]
            assert failure["Reason"] == "SendFailed"
            assert "the Listener's address is not on this machine" in failure["Detail"]
        remove(cable, NEXT[host])
        add(cable, host)
        assert push(running, b"back", Remote=client.remote)["Sent"] == 1
        assert client.receive() == (b"back", (host, PORT))


class Behind:
    """wireguard-go on the neighbour's side, and a program behind it that has sent once."""

    def __init__(self, cable: Cable, directory: Path, stack: ExitStack) -> None:
        self._cable, self._stack = cable, stack
        self.peer = StockPeer(cable.neighbour, directory, [f"{INNER}/32"])
        stack.callback(self.peer.close)

    def connect(self, running: Gateway, host: str) -> Client:
        endpoint = f"[{host}]" if ":" in host else host
        self.peer.connect((endpoint, PORT), own_key(running), ["10.60.0.0/24"])
        client = self._stack.enter_context(Client(INNER, 5000, self._cable.neighbour))
        client.send(b"I am here", (FAR, 5683))
        wait_for_records(running.directory / "packets.ndjson", 1)
        return client


@pytest.fixture
def behind(cable: Cable, tmp_path: Path) -> Iterator[Behind]:
    missing = StockPeer.missing()
    if missing:
        pytest.skip(missing)
    with ExitStack() as stack:
        yield Behind(cable, tmp_path, stack)


@BOTH
def test_a_push_by_peer_key_reaches_the_peer_from_the_new_address(
    gateway: StartGateway, cable: Cable, behind: Behind, wall_clock: WallClock, host: str, neighbour: str
) -> None:
    key = behind.peer.public_key
    running = gateway(tunnel(key), place=cable.gateway)
    client = behind.connect(running, host)
    replace(cable, host, NEXT[host])
    assert push(running, b"push", Remote={"PeerKey": key})["Sent"] == 1
    assert client.receive() == (b"push", (FAR, 5683))
    time.sleep(1)  # the contract gives the gateway a second to write down where the peer is
    running.kill()
    replace(cable, NEXT[host], AFTER[host])
    start_a_day_back(running, wall_clock)
    assert push(running, b"after a restart", Remote={"PeerKey": key})["Sent"] == 1
    assert client.receive() == (b"after a restart", (FAR, 5683))


@BOTH
def test_handshakes_and_keepalives_leave_from_the_new_address(
    gateway: StartGateway, cable: Cable, host: str, neighbour: str
) -> None:
    private, public = key_pair()
    running = gateway(tunnel(public, more=", persistent_keepalive_seconds: 1"), place=cable.gateway)
    with cable.client(neighbour) as client:
        peer = Tunnel(client, (host, PORT), own_key(running), private).connect()
        peer.send(b"\x45 hello")
        assert peer.opened(client.receive()[0]) == b""
        replace(cable, host, NEXT[host])
        until(lambda: client.receive()[1] == (NEXT[host], PORT), "a keepalive from the new address")
        time.sleep(1)
        running.kill()
        replace(cable, NEXT[host], AFTER[host])
        running.start()
        datagram, origin = client.receive()
        while origin != (AFTER[host], PORT):
            datagram, origin = client.receive()
        assert datagram[0] == INITIATION


@BOTH
def test_what_the_kernel_refuses_of_the_protocol_is_counted_and_told(
    gateway: StartGateway, cable: Cable, host: str, neighbour: str
) -> None:
    private, public = key_pair()
    running = gateway(tunnel(public, more=", persistent_keepalive_seconds: 1"), place=cable.gateway)
    with cable.client(neighbour) as client:
        peer = Tunnel(client, (host, PORT), own_key(running), private).connect()
        peer.send(b"\x45 hello")
        assert peer.opened(client.receive()[0]) == b""
        assert not running.metrics().value("wireguard_send_failures", listener="decoder")
        family = ["-6"] if ":" in neighbour else []
        cable.gateway.ip(*family, "route", "add", "unreachable", neighbour)
        told = running.event("ProtocolSendFailed", Listener="decoder")
        assert told["Reason"] == "RemoteUnreachable"
        assert told["Remote"]["IpAddress"] == neighbour
        assert "refused" in told["Detail"]
        count = running.metrics().by("reason", "wireguard_send_failures", listener="decoder")
        assert count["RemoteUnreachable"] >= 1


BROADCASTS = ["10.7.0.255", "255.255.255.255", "224.0.0.1"]


@pytest.mark.parametrize("to", [*BROADCASTS, "ff02::1"])
@pytest.mark.parametrize("protocol", ["udp", "wg"])
def test_a_request_to_a_group_is_answered_from_the_interfaces_address(
    gateway: StartGateway, cable: Cable, to: str, protocol: str
) -> None:
    v6 = ":" in to
    neighbour, host = (NEIGHBOUR6, GATEWAY6) if v6 else (NEIGHBOUR, GATEWAY)
    private, public = key_pair()
    bind = (
        f"0.0.0.0:{PORT}" if to.startswith("224.") else f"[::]:{PORT}"
    )  # Linux: IPv6 sockets get no group unasked
    text = plain(bind) if protocol == "udp" else tunnel(public, bind)
    # A second interface, so that there is another address to choose.
    cable.gateway.ip("link", "add", "aside", "type", "veth", "peer", "name", "end")
    cable.gateway.ip("link", "set", "aside", "up")
    cable.gateway.ip("address", "add", "10.8.0.1/24", "brd", "+", "dev", "aside")
    running = gateway(text, {"echo": ECHO}, place=cable.gateway)
    with cable.client(neighbour) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        index = cable.neighbour.run(lambda: socket.if_nametoindex("cable"))
        if not v6:
            client.socket.setsockopt(socket.IPPROTO_IP, 50, socket.htonl(index))  # IP_UNICAST_IF
            mreqn = socket.inet_aton("0.0.0.0") * 2 + index.to_bytes(4, "little")
            client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        group: Any = (to, PORT, 0, index) if v6 else (to, PORT)
        if protocol == "wg":
            peer = Tunnel(client, (host, PORT), own_key(running), private)
            client.socket.sendto(peer.initiation(), group)
            response, origin = client.receive()
            peer.finish(response)
            assert origin == (host, PORT)
            client.socket.sendto(peer.sealed(b"\x45 hello"), group)
            first_packet(running)
            way: dict[str, Any] = {"Remote": {"PeerKey": public}}
        else:
            client.socket.sendto(b"hello", group)
            assert client.receive() == (b"hello", (host, PORT))
            assert first_packet(running)["Local"]["IpAddress"] == host
            way = {"Remote": client.remote}
        assert push(running, b"later", **way)["Sent"] == 1
        datagram, origin = client.receive()
        while protocol == "wg" and peer.opened(datagram) != b"later":
            datagram, origin = client.receive()
        assert origin == (host, PORT)
        assert running.named("LocalAddressGone") == []


def test_a_request_to_a_group_from_a_link_local_address_is_answered(
    gateway: StartGateway, cable: Cable
) -> None:
    running = gateway(plain(), {"echo": ECHO}, place=cable.gateway)
    index = cable.neighbour.run(lambda: socket.if_nametoindex("cable"))
    sock = cable.neighbour.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(20)

        sock.bind((link_local(cable.neighbour), 0, 0, index))
        link_local(cable.gateway)  # it answers from there once it is usable
        sock.sendto(b"hello", ("ff02::1", PORT, 0, index))
        data, (origin, port, _, _) = sock.recvfrom(2048)
        assert (data, port) == (b"hello", PORT)
        assert origin.startswith("fe80::")
        push(running, b"push", Remote=first_packet(running)["Remote"])
        assert sock.recvfrom(2048)[0] == b"push"


def test_a_way_with_a_small_mtu_costs_other_remotes_no_offload(gateway: StartGateway, cable: Cable) -> None:
    """A run that is too large for one remote's route goes one by one there, and in one piece elsewhere."""
    running = gateway(plain(), {"echo": ECHO}, place=cable.gateway)
    far = "198.51.100.9"
    cable.neighbour.ip("address", "add", f"{far}/32", "dev", "lo")
    cable.gateway.ip("route", "add", f"{far}/32", "via", NEIGHBOUR, "mtu", "600")
    data = b64encode(b"y" * 1000).decode()
    with cable.client(far) as small, cable.client(NEIGHBOUR) as large:
        large.socket.setsockopt(socket.IPPROTO_UDP, 104, 1)  # UDP_GRO: what left in one piece comes in one
        for remote, client in ((small.remote, small), (large.remote, large), (small.remote, small)):
            entries = [{"Data": data, "Remote": remote}] * 20
            assert running.post({"Messages": entries})["Sent"] == 20
            arrived = 0
            while arrived < 20_000:
                run = client.receive()[0]
                arrived += len(run)
                if client is large:
                    assert len(run) > 1000
                else:
                    assert len(run) == 1000
