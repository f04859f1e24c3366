"""Remotes and Listeners at addresses that several machines or interfaces have: broadcast, groups, link-local."""

import contextlib
import socket
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from cable import GATEWAY, GATEWAY6, NEIGHBOUR, NEIGHBOUR6, PORT, Cable, echo_config, laid_cable, link_local
from harness import ECHO, Client, Gateway, Netns, wait_for_records

from conftest import StartGateway

pytestmark = [pytest.mark.attack, pytest.mark.netns]

OPEN = '[0.0.0.0/0, "::/0", "fe80::/10", "ff00::/8"]'


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid_cable() as made:
        yield made


def config(bind: str = f"[::]:{PORT}", networks: str = OPEN, more: str = "") -> str:
    return echo_config(networks, bind, more)


def push(running: Gateway, address: str, port: int, data: bytes = b"push") -> dict[str, Any]:
    entry = {"Data": b64encode(data).decode(), "Remote": {"Address": address, "Port": port}}
    return running.post({"Messages": [entry]})


def index(place: Netns) -> int:
    return place.run(lambda: socket.if_nametoindex("cable"))


def aside(cable: Cable) -> None:
    """The gateway has another interface with the link-local network."""
    cable.gateway.ip("link", "add", "aside", "type", "veth", "peer", "name", "end")
    cable.gateway.ip("link", "set", "aside", "up")
    cable.gateway.ip("link", "set", "end", "up")


@pytest.mark.parametrize("address", ["10.7.0.255", "255.255.255.255"])
def test_a_listed_broadcast_address_is_sent_to(gateway: StartGateway, cable: Cable, address: str) -> None:
    running = gateway(config(networks=f"[0.0.0.0/0, {address}/32]"), {"echo": ECHO}, place=cable.gateway)
    if address == "255.255.255.255":
        cable.gateway.ip("route", "add", "255.255.255.255/32", "dev", "cable")
    with Client("0.0.0.0", 7001, cable.neighbour) as client:
        assert push(running, address, 7001)["Sent"] == 1
        assert client.receive() == (b"push", (GATEWAY, PORT))


@pytest.mark.parametrize("address", ["10.7.0.255", "198.51.100.255"])
def test_a_broadcast_address_that_is_not_listed_is_refused(
    gateway: StartGateway, cable: Cable, address: str
) -> None:
    """Also the one of a public network of this machine, and one that comes while the gateway runs."""
    running = gateway(config(), {"echo": ECHO}, place=cable.gateway)
    cable.gateway.ip("address", "add", "198.51.100.1/24", "brd", "+", "dev", "cable")
    failure = push(running, address, 7001)["Failures"][0]
    assert failure["Reason"] == "RemoteDenied"
    assert f'"{address}/32"' in failure["Detail"]


def test_a_link_local_remote_needs_its_zone(gateway: StartGateway, cable: Cable) -> None:
    aside(cable)
    address = link_local(cable.neighbour)
    link_local(cable.gateway)
    running = gateway(config(), {"echo": ECHO}, place=cable.gateway)
    with Client("::", 7001, cable.neighbour) as client:
        for one in (address, "ff02::1"):
            failure = push(running, one, 7001)["Failures"][0]
            assert failure["Reason"] == "MalformedRemote"
            assert f"{one}%INTERFACE" in failure["Detail"]
            for zone in ("cable", index(cable.gateway)):
                assert push(running, f"{one}%{zone}", 7001)["Sent"] == 1
                assert client.receive()[0] == b"push"
        for wrong in (
            f"{address}%nosuch0",
            f"{address}%",
            f"{address}%0",
            f"{NEIGHBOUR6}%cable",
            "192.0.2.1%cable",
        ):
            assert push(running, wrong, 7001)["Failures"][0]["Reason"] == "MalformedRemote", wrong
        assert push(running, f"{address}%9999", 7001)["Failures"][0]["Reason"] in (
            "SendFailed",
            "RemoteUnreachable",
        )


def test_a_listener_at_a_link_local_address(gateway: StartGateway, cable: Cable) -> None:
    own, peer = link_local(cable.gateway), link_local(cable.neighbour)
    running = gateway(config(f"[{own}%cable]:{PORT}"), {"echo": ECHO}, place=cable.gateway)
    with contextlib.closing(
        cable.neighbour.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    ) as sock:
        sock.settimeout(30)
        sock.bind((peer, 0, 0, index(cable.neighbour)))
        sock.sendto(b"hello", (own, PORT, 0, index(cable.neighbour)))
        assert sock.recvfrom(99)[0] == b"hello"
        assert push(running, peer, sock.getsockname()[1])["Sent"] == 1
        data, origin = sock.recvfrom(99)
        assert (data, origin[:2]) == (b"push", (own, PORT))
    failure = push(running, own, PORT)["Failures"][0]
    assert (failure["Reason"], "Listener of this gateway" in failure["Detail"]) == ("RemoteDenied", True)


def test_an_interface_that_is_not_there_is_named(gateway: StartGateway, cable: Cable) -> None:
    for bind, more in (
        (f"[fe80::1%nosuch0]:{PORT}", ""),
        (f"[::]:{PORT}", "multicast: { groups: [224.0.1.187], interface: nosuch0 }"),
        (f"[::]:{PORT}", "multicast: { groups: [224.0.1.187], interface: 192.0.2.77 }"),
    ):
        with pytest.raises(AssertionError, match="this machine has no interface"):
            gateway(config(bind, more=more), {"echo": ECHO}, place=cable.gateway)


@pytest.mark.parametrize("interface", ["cable", GATEWAY, GATEWAY6])
@pytest.mark.parametrize("group", ["224.0.1.187", "ff02::fd"])
def test_a_group_is_joined_and_answered(
    gateway: StartGateway, cable: Cable, group: str, interface: str
) -> None:
    aside(cable)
    more = f'multicast: {{ groups: ["224.0.1.187", "ff02::fd"], interface: "{interface}" }}'
    running = gateway(config(more=more), {"echo": ECHO}, place=cable.gateway)
    number = index(cable.neighbour)
    v6 = ":" in group
    with cable.client(NEIGHBOUR6 if v6 else NEIGHBOUR) as client:
        if not v6:
            mreqn = socket.inet_aton("0.0.0.0") * 2 + number.to_bytes(4, "little")
            client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        client.socket.sendto(b"discover", (group, PORT, 0, number) if v6 else (group, PORT))
        own = GATEWAY6 if v6 else GATEWAY
        assert client.receive() == (b"discover", (own, PORT))
        packet = wait_for_records(running.directory / "packets.ndjson", 1)[0]
        assert packet["Local"]["IpAddress"] == own
    shown = running.api("GET", "/v1/listeners/decoder").json()["Multicast"]
    assert shown == {"Groups": ["224.0.1.187", "ff02::fd"], "Interface": interface}


def test_groups_change_with_a_reload(gateway: StartGateway, cable: Cable) -> None:
    running = gateway(
        config(more="multicast: { groups: [224.0.1.187], interface: cable }"),
        {"echo": ECHO},
        place=cable.gateway,
    )
    mreqn = socket.inet_aton("0.0.0.0") * 2 + index(cable.neighbour).to_bytes(4, "little")
    running.edit("224.0.1.187", "239.7.7.7")
    answer = running.api("POST", "/v1/reload")
    assert answer.status_code == 200, answer.text
    with cable.client(NEIGHBOUR) as client:
        client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        client.socket.sendto(b"old", ("224.0.1.187", PORT))
        client.socket.sendto(b"new", ("239.7.7.7", PORT))
        assert client.receive() == (b"new", (GATEWAY, PORT))


@pytest.mark.parametrize("networks", ['["::ffff:10.7.0.0/120"]', '["::ffff:0:0/96"]'])
def test_a_network_of_mapped_addresses_admits_ipv4(
    gateway: StartGateway, cable: Cable, networks: str
) -> None:
    running = gateway(
        config(networks='["::ffff:10.7.0.0/120"]', more=f"client_restrictions: {{ networks: {networks} }}"),
        {"echo": ECHO},
        place=cable.gateway,
    )
    with cable.client(NEIGHBOUR) as client:
        client.send(b"hello", (GATEWAY, PORT))
        assert client.receive() == (b"hello", (GATEWAY, PORT))
        assert push(running, NEIGHBOUR, client.address[1])["Sent"] == 1
