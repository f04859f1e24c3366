"""The gateway never speaks to itself, whatever address it is reached by (contract section 4.4)."""

import base64
import signal
import socket
import struct

import pytest
from harness import ECHO, Client, Gateway, Netns, until

from conftest import StartGateway

pytestmark = [pytest.mark.attack, pytest.mark.netns]

DATA = base64.b64encode(b"x").decode()
ALL = '["0.0.0.0/0", "::/0", 224.0.0.0/4, "ff00::/8", 10.0.0.0/8, 255.255.255.255/32]'

LISTENER = """
listeners:
  - name: decoder
    bind: "{bind}"
    destinations:
      - name: echo
        destination_arn: function:echo.py:handler
        batching: {{ timeout_in_seconds: 0.001 }}
packet_sources:
  - name: replies
    listener_name: decoder
    sns_topic_source: {{ topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }}
    egress_networks: {networks}
"""


def start(gateway: StartGateway, place: Netns, bind: str = "::") -> Gateway:
    return gateway(LISTENER.format(bind=bind, networks=ALL), {"echo": ECHO}, place=place)


def source(running: Gateway, address: str, port: int) -> str:
    """`Sent`, or the reason why a packet to this address was not."""
    outcome = running.post({"Data": DATA, "Remote": {"Address": address, "Port": port}})
    return outcome["Failures"][0]["Reason"] if outcome["Failures"] else "Sent"


def spoof(place: Netns, source_address: tuple[str, int], to: tuple[str, int], payload: bytes) -> None:
    """Send one IPv4 datagram with this source."""
    udp = struct.pack("!HHHH", source_address[1], to[1], 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source_address[0]) + socket.inet_aton(to[0])
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(header + udp, (to[0], 0))

    place.run(send)


ROUTES = {
    "a prefix routed here": ("203.0.113.7", ["route", "add", "local", "203.0.113.0/24", "dev", "lo"]),
    "an IPv6 prefix routed here": (
        "2001:db8:1::7",
        ["route", "add", "local", "2001:db8:1::/48", "dev", "lo"],
    ),
    "an address": ("198.51.100.5", ["address", "add", "198.51.100.5/32", "dev", "lo"]),
    "an IPv6 address": ("2001:db8:2::5", ["address", "add", "2001:db8:2::5/128", "dev", "lo", "nodad"]),
    "a whole network on lo": ("198.51.100.77", ["address", "add", "198.51.100.1/24", "dev", "lo"]),
    "a prefix routed here by the table main": (
        "203.0.113.8",
        ["route", "add", "local", "203.0.113.0/24", "dev", "lo", "table", "main"],
    ),
    "an anycast address": ("2001:db8:3::7", ["route", "add", "anycast", "2001:db8:3::7/128", "dev", "lo"]),
}


@pytest.mark.parametrize(("address", "command"), ROUTES.values(), ids=ROUTES)
def test_an_own_listener_is_no_remote_by_a_route_of_before_or_of_now(
    gateway: StartGateway, netns: Netns, address: str, command: list[str]
) -> None:
    netns.ip("route", "add", "default", "dev", "lo")  # so that every address has a way
    netns.ip("-6", "route", "add", "default", "dev", "lo")
    running = start(gateway, netns)
    port = running.port()
    assert source(running, "203.0.114.1", port) == "Sent"
    assert source(running, address, port) == "Sent"
    netns.ip(*(["-6"] if ":" in address else []), *command)
    # Not a moment is given: the kernel told before `ip` ended.
    assert source(running, address, port) == "RemoteDenied"
    assert source(running, address, port + 1) == "Sent"
    assert source(running, "203.0.114.1", port) == "Sent"
    assert running.stop() == 0
    again = start(gateway, netns)
    assert source(again, address, again.port()) == "RemoteDenied"


def test_what_has_gone_is_a_remote_again(gateway: StartGateway, netns: Netns) -> None:
    netns.ip("link", "add", "extra", "type", "veth", "peer", "name", "end")
    netns.ip("link", "set", "extra", "up")
    netns.ip("route", "add", "default", "dev", "lo")
    prefixes = {"203.0.113.9": "203.0.113.0/24", "198.51.100.9": "198.51.100.0/24"}
    for prefix, interface in zip(prefixes.values(), ("lo", "extra"), strict=True):
        netns.ip("route", "add", "local", prefix, "dev", interface)
    running = start(gateway, netns)
    port = running.port()
    assert {source(running, address, port) for address in prefixes} == {"RemoteDenied"}
    netns.ip("route", "del", "local", prefixes["203.0.113.9"], "dev", "lo")
    netns.ip("link", "del", "extra")  # the kernel does not tell that its routes go with it
    for address in prefixes:
        until(lambda address=address: source(running, address, port) == "Sent", f"{address} is a remote")


@pytest.mark.parametrize(
    "address", ["224.0.0.1", "239.1.2.3", "ff02::1", "ff05::77", "255.255.255.255", "127.9.9.9"]
)
def test_groups_and_broadcasts_come_back_too(gateway: StartGateway, netns: Netns, address: str) -> None:
    for family in ("-4", "-6"):
        netns.ip(family, "route", "add", "default", "dev", "lo")
    running = start(gateway, netns)
    assert source(running, address, running.port()) == "RemoteDenied"
    assert running.metrics().value("received_packets") == 0


def test_a_listener_on_one_address_is_reached_by_that_one_only(gateway: StartGateway, netns: Netns) -> None:
    netns.ip("address", "add", "198.51.100.5/32", "dev", "lo")
    netns.ip("route", "add", "local", "203.0.113.0/24", "dev", "lo")
    running = start(gateway, netns, "198.51.100.5")
    port = running.port()
    with Client("203.0.113.7", port, place=netns) as client:
        assert source(running, "203.0.113.7", port) == "Sent"
        assert client.receive()[0] == b"x"
    assert source(running, "198.51.100.5", port) == "RemoteDenied"


def test_thousands_of_new_addresses_at_once_are_all_known(gateway: StartGateway, netns: Netns) -> None:
    """More news than the kernel keeps for a reader."""
    netns.ip("route", "add", "default", "dev", "lo")
    running = start(gateway, netns)
    port = running.port()
    addresses = [f"203.0.{113 + n // 250}.{n % 250 + 1}" for n in range(8_000)]
    batch = running.directory / "addresses"
    batch.write_text("".join(f"address add {one}/32 dev lo\n" for one in addresses))
    running.process.signal(signal.SIGSTOP)
    netns.ip("-batch", str(batch))
    running.process.signal(signal.SIGCONT)
    for first in range(0, len(addresses), 2_000):
        remotes = [{"Address": one, "Port": port} for one in addresses[first : first + 2_000]]
        outcome = running.post({"Messages": [{"Data": DATA, "Remote": remote} for remote in remotes]})
        assert outcome["Sent"] == 0
        assert {one["Reason"] for one in outcome["Failures"]} == {"RemoteDenied"}


def test_a_transparent_proxy_does_not_make_the_internet_ours(gateway: StartGateway, netns: Netns) -> None:
    for family, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        netns.ip(family, "rule", "add", "fwmark", "1", "table", "100")
        netns.ip(family, "route", "add", "local", everything, "dev", "lo", "table", "100")
        netns.ip(family, "route", "add", "default", "dev", "lo")
    running = start(gateway, netns)
    port = running.port()
    for address in ("8.8.8.8", "203.0.113.7", "2606:4700::1111"):
        assert source(running, address, port) == "Sent"


def test_a_spoofed_packet_from_ourselves_is_not_answered(gateway: StartGateway, netns: Netns) -> None:
    netns.ip("route", "add", "local", "203.0.113.0/24", "dev", "lo")
    netns.ip("address", "add", "198.51.100.5/32", "dev", "lo")
    running = start(gateway, netns)
    port = running.port()
    for n, address in enumerate(("203.0.113.7", "198.51.100.5", "127.0.0.1"), start=1):
        spoof(netns, (address, port), ("198.51.100.5", port), b"%d" % n)
        failed = running.wait_for("ReplyFailed", n)[n - 1]
        assert (failed["Reason"], failed["Remote"]["IpAddress"] if "Remote" in failed else address) == (
            "RemoteDenied",
            address,
        )
        # A Tag in a message is an answer as well.
        outcome = running.post({"Tag": failed["Tag"], "Data": DATA})
        assert [one["Reason"] for one in outcome["Failures"]] == ["RemoteDenied"]
    assert running.metrics().value("received_packets") == 3
    assert running.metrics().value("sent_packets") == 0
