"""Packets that would circle: the gateway does not speak to itself, and two gateways that echo come to an end (contract
section 4.4)."""

import base64
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from harness import ECHO, Client, Gateway, Netns, Place, until

from conftest import StartGateway

_T = TypeVar("_T")

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


def start(gateway: StartGateway, place: Place, bind: str = "::") -> Gateway:
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


class WithoutNetlink:
    """A namespace in which programs may open no netlink socket, as in a sandbox without AF_NETLINK (seccomp(2))."""

    ENTER = """
import ctypes, os, platform, struct, sys

SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]  # asm/unistd.h
code = [
    (0x20, 0, 0, 0),  # the number of the call
    (0x15, 0, 3, SOCKET),
    (0x20, 0, 0, 16),  # its first argument
    (0x15, 0, 1, 16),  # AF_NETLINK
    (0x06, 0, 0, 0x00050000 | 1),  # EPERM
    (0x06, 0, 0, 0x7FFF0000),  # allowed
]
filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(filters))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, a filter
os.execv(sys.argv[1], sys.argv[1:])
"""

    def __init__(self, place: Netns) -> None:
        self._place = place

    def run(self, work: Callable[[], _T]) -> _T:
        return self._place.run(work)

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        return [sys.executable, "-c", self.ENTER, *command]


def test_where_netlink_is_forbidden_the_addresses_are_looked_up(gateway: StartGateway, netns: Netns) -> None:
    netns.ip("route", "add", "default", "dev", "lo")
    netns.ip("route", "add", "local", "203.0.113.0/24", "dev", "lo")
    netns.ip("address", "add", "2001:db8:2::5/128", "dev", "lo", "nodad")
    running = start(gateway, WithoutNetlink(netns))
    assert running.event("RoutesNotFollowed")["Reason"] == "NoNetlink"
    port = running.port()
    for address in ("203.0.113.7", "2001:db8:2::5", "127.0.0.1"):
        assert source(running, address, port) == "RemoteDenied", address
    assert source(running, "198.51.100.5", port) == "Sent"
    netns.ip("address", "add", "198.51.100.5/32", "dev", "lo")
    until(lambda: source(running, "198.51.100.5", port) == "RemoteDenied", "it is looked up")


# Loops


@dataclass
class Pair:
    """Two gateways that echo, each in a namespace of its own."""

    gateways: tuple[Gateway, Gateway]
    places: tuple[Netns, Netns]

    def address(self, which: int) -> tuple[str, int]:
        return f"192.0.2.{which + 1}", self.gateways[which].port()

    def spoof(self, payload: bytes, to: int = 0) -> None:
        """A datagram to one gateway that seems to come from the other."""
        spoof(self.places[1 - to], self.address(1 - to), self.address(to), payload)

    def sum(self, name: str, **labels: str) -> int:
        return sum(one.metrics().value(name, **labels) for one in self.gateways)

    def wait_until_quiet(self, spoofed: int) -> None:
        """Nothing circles any more: each packet was answered and has arrived, or its answer was refused."""

        def quiet() -> bool:
            failed, sent = self.sum("destination_replies_failed"), self.sum("destination_replies_sent")
            arrived = self.sum("received_packets")
            return bool(failed) and arrived == sent + spoofed and arrived == sent + failed

        until(quiet, "nothing circles any more")


class MakePair(Protocol):
    def __call__(self, settings: str = "", handler: str = ECHO) -> Pair: ...


@pytest.fixture
def pair(gateway: StartGateway, netns: Netns) -> Iterator[MakePair]:
    far = Netns()
    netns.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far.name)
    for number, place in enumerate((netns, far), start=1):
        place.ip("address", "add", f"192.0.2.{number}/24", "dev", "cable")
        place.ip("link", "set", "cable", "up")

    def make(settings: str = "", handler: str = ECHO) -> Pair:
        text = LISTENER.format(bind="0.0.0.0", networks=ALL) + settings
        first = gateway(text, {"echo": ECHO}, place=netns)
        return Pair((first, gateway(text, {"echo": handler}, place=far)), (netns, far))

    yield make
    far.close()


@pytest.mark.parametrize(
    "packets", [[b"x"], [b"x", b"y"], [b"x", b"", b"z"], [b"x", b"x", b"x"], [b"0" * 1_000, b"1"]], ids=repr
)
def test_two_gateways_that_echo_end_after_a_spoofed_packet(pair: MakePair, packets: list[bytes]) -> None:
    two = pair()
    for packet in packets:
        two.spoof(packet)
    two.wait_until_quiet(len(packets))
    suspected = [event for one in two.gateways for event in one.named("LoopSuspected")]
    assert 1 <= len(suspected) == two.sum("loops_suspected") <= 2
    assert suspected[0]["Remote"]["IpAddress"] in ("192.0.2.1", "192.0.2.2")
    assert two.sum("destination_replies_sent") <= 2_100
    assert two.sum("destination_replies_failed", reason="LoopSuspected") == len(packets)
    # The same packets again: the gateway that has seen the loop gives one answer in 10 s.
    limited = 0 if two.gateways[0].named("LoopSuspected") else 1
    before = two.gateways[limited].metrics()
    for _ in range(50):
        two.spoof(packets[0], limited)
    arrived = before.value("received_packets") + 50
    until(
        lambda: two.gateways[limited].metrics().value("received_packets") >= arrived,
        "they arrived",
    )
    until(
        lambda: (
            two.gateways[limited].metrics().value("destination_replies")
            >= before.value("destination_replies") + 50
        ),
        "they were answered",
    )
    after = two.gateways[limited].metrics()
    assert after.value("destination_replies_sent") <= before.value("destination_replies_sent") + 2


CHANGING = """
import base64, itertools

numbers = itertools.count()

def handler(event, context):
    data = lambda: base64.b64encode(b"%d" % next(numbers)).decode()
    return {"Replies": [{"Tag": m["Tag"], "Data": data()} for m in event["Messages"]]}
"""


def test_a_loop_in_which_the_payload_changes_is_bounded_by_a_rate(pair: MakePair) -> None:
    two = pair("answers_per_remote_per_second: 20\n", CHANGING)
    two.spoof(b"x")
    two.wait_until_quiet(1)
    assert two.sum("destination_replies_failed", reason="RateLimited") == 1
    assert two.sum("destination_replies_sent") <= 200


def test_services_that_answer_anything_get_no_answer(gateway: StartGateway, netns: Netns) -> None:
    netns.ip("address", "add", "198.51.100.5/32", "dev", "lo")
    running = start(gateway, netns)
    to = ("198.51.100.5", running.port())
    for count, port in enumerate((7, 13, 17, 19, 37), start=1):
        with Client("198.51.100.5", port, place=netns) as service:
            service.send(b"x", to)
            failed = running.wait_for("ReplyFailed", count, Reason="AnswerRefused")[-1]
            outcome = running.post({"Tag": failed["Tag"], "Data": DATA})
            assert [one["Reason"] for one in outcome["Failures"]] == ["AnswerRefused"]
            assert source(running, "198.51.100.5", port) == "Sent", (
                "what an operator's message names is no answer"
            )
    assert running.metrics().by("reason", "destination_replies_failed") == {"AnswerRefused": 5}


def test_pings_are_no_loop(pair: MakePair) -> None:
    two = pair()
    to = two.address(0)
    with Client("192.0.2.2", place=two.places[1]) as client:
        for _ in range(900):
            client.send(b"ping", to)
            assert client.receive()[0] == b"ping"
        for number in range(3_000):
            client.send(b"%d" % number, to)
            if number % 50 == 49:
                client.receive_data(50)
    with Client("127.0.0.1", place=two.places[0]) as client:
        for _ in range(200):
            for _ in range(100):
                client.send(b"ping", ("127.0.0.1", to[1]))
            assert client.receive_data(100) == [b"ping"] * 100
    assert two.sum("destination_replies_failed") == two.sum("loops_suspected") == 0
