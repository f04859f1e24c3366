"""Addresses that the gateway must not be led to: by a forged source, or by a message (contract 4.4)."""

import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from cable import GATEWAY, GATEWAY6, NEIGHBOUR, NEIGHBOUR6, PORT, Cable, echo_config, laid_cable
from harness import ECHO, Client, Gateway, Wire, until, wait_for_records

from conftest import StartGateway

pytestmark = pytest.mark.attack

OPEN = '[0.0.0.0/0, "::/0"]'


def config(more: str = "", networks: str = OPEN) -> str:
    return echo_config(networks, more=more)


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid_cable() as made:
        yield made


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def packet_of(running: Gateway, payload: bytes) -> dict[str, Any]:
    """The packet with this payload, once it has been delivered."""
    file = running.directory / "packets.ndjson"
    for count in range(1, 100):
        found = wait_for_records(file, count)[-1]
        if b64decode(found["Data"]) == payload:
            return found
    raise AssertionError(f"{payload!r} was not delivered")


def sourced(running: Gateway, packet: dict[str, Any]) -> list[dict[str, Any]]:
    """What becomes of a message to where a packet came from: by its Remote, and by its Tag."""
    entries = [{"Data": b64(b"x"), "Remote": packet["Remote"]}, {"Data": b64(b"x"), "Tag": packet["Tag"]}]
    failures: list[dict[str, Any]] = running.post({"Messages": entries})["Failures"]
    return failures


FORGED = (
    "169.254.169.254",
    "240.0.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "fd00:ec2::254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:7::5efe:169.254.169.254",
    "100::1",
    "5f00::1",
)


@pytest.mark.netns
def test_a_forged_source_is_no_permission(gateway: StartGateway, cable: Cable) -> None:
    running = gateway(config(), {"echo": ECHO}, place=cable.gateway)
    with Wire(cable.gateway, PORT) as wire, cable.client(NEIGHBOUR) as client:
        for number, source in enumerate(FORGED):
            payload = f"forged {number}".encode()
            cable.forge(source, payload, 80)
            packet = packet_of(running, payload)
            assert socket.inet_pton(
                socket.AF_INET6 if ":" in source else socket.AF_INET, packet["Remote"]["IpAddress"]
            ) == socket.inet_pton(socket.AF_INET6 if ":" in source else socket.AF_INET, source)
            by_remote, by_tag = sourced(running, packet)
            assert (by_remote["Reason"], by_tag["Reason"]) == ("RemoteDenied", "AnswerRefused"), source
            assert "egress_networks" in by_remote["Detail"]
            assert "client_restrictions.networks" in by_tag["Detail"]
        refused = running.wait_for("ReplyFailed", len(FORGED), Reason="AnswerRefused")
        assert len(refused) == len(FORGED)
        client.send(b"end", (GATEWAY, PORT))
        assert wire.until(b"end") == [b"end"], "nothing else has left"


@pytest.mark.netns
def test_who_names_a_network_is_answered_there(gateway: StartGateway, cable: Cable) -> None:
    """The sibling: an operator may want it, for a cable without DHCP or a laboratory."""
    named = "client_restrictions: { networks: [0.0.0.0/0, 169.254.0.0/16, 198.18.0.0/15] }"
    running = gateway(config(named, "[0.0.0.0/0, 198.18.0.0/15]"), {"echo": ECHO}, place=cable.gateway)
    for address, reasons in (("169.254.7.7", ["RemoteDenied"]), ("198.18.0.1", [])):
        cable.neighbour.ip("address", "add", f"{address}/32", "dev", "lo")
        with cable.client(address) as client:
            client.send(address.encode(), (GATEWAY, PORT))
            assert client.receive() == (address.encode(), (GATEWAY, PORT))
            packet = packet_of(running, address.encode())
            assert [failure["Reason"] for failure in sourced(running, packet)] == reasons


@pytest.mark.netns
@pytest.mark.parametrize("address", [NEIGHBOUR, NEIGHBOUR6, "192.168.7.9", "100.64.7.9", "172.20.0.9"])
def test_clients_on_the_network_are_answered_and_sourcing_needs_the_network(
    gateway: StartGateway, cable: Cable, address: str
) -> None:
    running = gateway(config(), {"echo": ECHO}, place=cable.gateway)
    if address not in (NEIGHBOUR, NEIGHBOUR6):
        cable.neighbour.ip("address", "add", f"{address}/32", "dev", "lo")
    listener = (GATEWAY6 if ":" in address else GATEWAY, PORT)
    with cable.client(address) as client:
        client.send(b"hello", listener)
        assert client.receive() == (b"hello", listener)
        (failure,) = sourced(running, packet_of(running, b"hello"))
        assert (failure["Index"], failure["Reason"]) == (0, "RemoteDenied")
        assert f'add "{address}/{128 if ":" in address else 32}"' in failure["Detail"]
        assert client.receive() == (b"x", listener), "the Tag's"
        assert client.waiting() == []


@pytest.mark.netns
def test_a_session_of_an_ordinary_address_needs_no_network(gateway: StartGateway, cable: Cable) -> None:
    running = gateway(config(networks="[203.0.113.0/24]"), {"echo": ECHO}, place=cable.gateway)
    cable.neighbour.ip("address", "add", "198.51.100.7/32", "dev", "lo")
    with cable.client("198.51.100.7") as client:
        assert running.post({"Data": "", "Remote": client.remote})["Failures"][0]["Reason"] == "RemoteDenied"
        client.send(b"hello", (GATEWAY, PORT))
        assert client.receive()[0] == b"hello"
        assert running.post({"Data": b64(b"push"), "Remote": client.remote})["Sent"] == 1
        assert client.receive() == (b"push", (GATEWAY, PORT))


@pytest.mark.netns
def test_loopback_is_believed_only_over_loopback(gateway: StartGateway, cable: Cable) -> None:
    """Networks of containers set `route_localnet`; then the kernel lets a neighbour's 127.0.0.9 in."""
    for key in ("all", "cable"):
        command = f"/proc/sys/net/ipv4/conf/{key}/route_localnet"
        cable.gateway.run(lambda command=command: open(command, "w").write("1"))  # noqa: SIM115, PTH123
    running = gateway(config(), {"echo": ECHO}, place=cable.gateway)

    def refused() -> int:
        return running.metrics().value("rejected_packets", listener="decoder", reason="RefusedNetwork")

    with (
        Wire(cable.gateway, PORT) as wire,
        Client("127.0.0.9", place=cable.gateway) as local,
        cable.client(NEIGHBOUR) as client,
    ):
        client.send(b"first", (GATEWAY, PORT))  # so that the neighbour knows where the gateway is
        assert client.receive()[0] == b"first"
        cable.forge("127.0.0.9", b"forged", local.address[1])
        until(lambda: refused() == 1, "the datagram has come and is refused")
        local.send(b"mine", ("127.0.0.1", PORT))
        assert local.receive() == (b"mine", ("127.0.0.1", PORT))
        client.send(b"end", (GATEWAY, PORT))
        assert wire.until(b"end")[-1] == b"end"
        assert local.waiting() == []
    assert refused() == 1


@pytest.mark.netns
def test_a_program_of_this_machine_is_answered_at_every_address(gateway: StartGateway, cable: Cable) -> None:
    """The sibling: it comes over `lo`, whatever address it speaks to."""
    running = gateway(config(), {"echo": ECHO}, place=cable.gateway)
    for host, addresses in (("127.0.0.9", ("127.0.0.1", GATEWAY)), ("::1", ("::1", GATEWAY6))):
        with Client(host, place=cable.gateway) as local:
            for address in addresses:
                local.send(b"mine", (address, PORT))
                assert local.receive() == (b"mine", (address, PORT))
    assert running.metrics().value("rejected_packets") == 0


@pytest.mark.netns
def test_broadcast_and_multicast_are_not_reached_unless_listed(gateway: StartGateway, cable: Cable) -> None:
    networks = f"[0.0.0.0/0, {GATEWAY}/32, 10.7.0.0/24]"
    running = gateway(config(networks=networks), {"echo": ECHO}, place=cable.gateway)
    remotes = ("255.255.255.255", "224.0.0.251", "ff02::fb", "239.1.2.3", "10.7.0.255")
    with Wire(cable.gateway, PORT) as wire, cable.client(NEIGHBOUR) as client:
        messages = [{"Data": "eA==", "Remote": {"Address": one, "Port": 5353}} for one in remotes]
        messages.append({"Data": b64(b"end"), "Remote": client.remote})
        outcome = running.post({"Messages": messages})
        reasons = [failure["Reason"] for failure in outcome["Failures"]]
        # The kernel knows the broadcast addresses of its own networks: the last one is listed.
        assert reasons == ["RemoteDenied"] * 4
        assert wire.until(b"end") == [b"x", b"end"]
