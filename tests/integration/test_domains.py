"""Clients by DNS names: a gateway, a name server and devices, in network namespaces of their own."""

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import ECHO, TOPIC, Client, Gateway, Netns, until, wait_for_records
from name_server import NameServer

from conftest import StartGateway

pytestmark = pytest.mark.netns

GATEWAY, GATEWAY6 = "192.0.2.1", "2001:db8::1"
OLD, NEW, OTHER, OLD6 = "192.0.2.7", "192.0.2.8", "192.0.2.9", "2001:db8::7"
NAME = "device.example"
PORT = 2048


class Site:
    """The gateway's namespace, with a name server in it, and one for devices with a cable to the first."""

    def __init__(self, stack: ExitStack, start: StartGateway) -> None:
        self._stack = stack
        self._start = start
        self.here, self.there = self._netns(), self._netns()
        self.here.ip(
            "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.there.name
        )
        for place, addresses in (
            (self.here, [f"{GATEWAY}/24", f"{GATEWAY6}/64"]),
            (self.there, [*(f"{address}/24" for address in (OLD, NEW, OTHER)), f"{OLD6}/64"]),
        ):
            for address in addresses:
                place.ip("address", "add", address, "dev", "cable", *(["nodad"] if ":" in address else []))
            place.ip("link", "set", "cable", "up")
        self.here.ask("127.0.0.1")
        self.dns = NameServer("127.0.0.1", self.here)
        stack.callback(self.dns.close)

    def gateway(self, restrictions: str, *, protocol: str = "udp") -> Gateway:
        text = f"""
listeners:
  - name: decoder
    protocol: {protocol}
    bind: "[::]:{PORT}"
    client_restrictions: {restrictions}
    destinations:
      - {{ name: echo, destination_arn: "function:echo.py:handler", batching: {{ count: 1 }} }}
      - {{ name: packets, destination_arn: "file:packets.ndjson", batching: {{ count: 1 }} }}
packet_sources:
  - {{ name: replies, listener_name: decoder, sns_topic_source: {{ topic_arn: "{TOPIC}" }} }}
"""
        self.running = self._start(text, {"echo": ECHO}, place=self.here)
        self._stack.callback(self.running.close)
        return self.running

    def device(self, address: str) -> Client:
        return self._stack.enter_context(Client(address, 0, self.there))

    def admits(self, device: Client, data: bytes = b"hello") -> None:
        listener = (GATEWAY6 if ":" in device.address[0] else GATEWAY, PORT)
        device.send(data, listener)
        assert device.receive() == (data, listener)

    def refuses(self, device: Client) -> None:
        before = self.refused()
        device.send(b"let me in", (GATEWAY, PORT))
        until(lambda: self.refused() == before + 1, "the packet is refused")

    def refused(self) -> int:
        return self.running.metrics().value("rejected_packets", reason="RefusedNetwork")

    def shown(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.running.api("GET", "/v1/listeners/decoder").json()
        return answer

    def _netns(self) -> Netns:
        made = Netns()
        self._stack.callback(made.close)
        return made


@pytest.fixture
def site(gateway: StartGateway) -> Iterator[Site]:
    missing = Netns.missing()
    if missing:
        pytest.skip(missing)
    with ExitStack() as stack:
        yield Site(stack, gateway)


def resolved(running: Gateway, *addresses: str) -> dict[str, Any]:
    return running.event("DomainResolved", Listener="decoder", Domain=NAME, Addresses=list(addresses))


def test_only_the_addresses_of_the_name_are_admitted(site: Site) -> None:
    site.dns.set(NAME, ("A", OLD), ("AAAA", OLD6))
    resolved(site.gateway(f"{{ domains: [{NAME.upper()}.] }}"), OLD, OLD6)
    site.admits(site.device(OLD))
    site.admits(site.device(OLD6))
    site.refuses(site.device(OTHER))
    shown = site.shown()
    assert shown["ClientRestrictions"] == {"Networks": [], "Domains": [NAME]}
    assert shown["DomainAddresses"] == {NAME: [OLD, OLD6]}
    assert "DomainProblems" not in shown
    metrics = site.running.metrics()
    assert metrics.value("domain_lookups", domain=NAME) == 2
    assert metrics.value("domain_lookup_failures", domain=NAME) == 0
    assert metrics.value("domain_addresses", domain=NAME) == 2


def test_addresses_follow_the_dns_and_stay_while_it_fails(site: Site) -> None:
    site.dns.set(NAME, ("A", OLD), ttl=0)
    running = site.gateway(f"{{ domains: [{NAME}] }}")
    old, new = site.device(OLD), site.device(NEW)
    resolved(running, OLD)
    site.admits(old)
    site.refuses(new)
    tag = wait_for_records(running.directory / "packets.ndjson", 1)[0]["Tag"]
    site.dns.set(NAME, ("A", NEW), ttl=0)
    resolved(running, NEW)
    site.admits(new)
    site.refuses(old)
    # Nothing was begun anew: what arrived before is still answered, and counters go on.
    assert running.post({"Tag": tag, "Data": base64.b64encode(b"later").decode()})["Sent"] == 1
    assert old.receive()[0] == b"later"
    assert running.named("ListenerChanged") == running.named("ListenerStopped") == []
    assert running.metrics().value("received_packets") == 4

    site.dns.mood = "fails"
    failed = running.event("DomainFailed", Domain=NAME)
    assert failed["Reason"] == "ServerFailure"
    assert "127.0.0.1 (SERVFAIL)" in failed["Detail"]
    site.admits(new)
    site.refuses(old)
    assert site.shown()["DomainAddresses"] == {NAME: [NEW]}
    assert "SERVFAIL" in site.shown()["DomainProblems"][NAME]
    assert running.metrics().value("domain_lookup_failures", domain=NAME) >= 2
    site.dns.mood = "answers"
    running.event("DomainRecovered", Domain=NAME)
    assert "DomainProblems" not in site.shown()
    # A TTL of 0 is no reason to ask without a pause: so many questions for what was seen above.
    assert site.dns.count(NAME) <= 2 * (2 + len(running.named("DomainFailed")) + 3)


def test_a_name_that_comes_later_and_goes_again(site: Site) -> None:
    running = site.gateway(f"{{ domains: [{NAME}], networks: [{OTHER}/32] }}")
    told = resolved(running)
    assert told["Detail"] == "there is no such name"
    assert site.shown()["DomainProblems"] == {NAME: "there is no such name"}
    device = site.device(OLD)
    site.refuses(device)
    site.admits(site.device(OTHER))
    site.dns.set(NAME, ("A", OLD), ttl=0)
    resolved(running, OLD)
    site.admits(device)
    site.dns.set(NAME)
    running.wait_for("DomainResolved", 2, Addresses=[])
    site.refuses(device)


def test_a_gateway_starts_without_the_dns(site: Site) -> None:
    site.dns.mood = "silent"
    running = site.gateway(f"{{ domains: [{NAME}], networks: [{OTHER}/32] }}")
    site.admits(site.device(OTHER))
    device = site.device(OLD)
    site.refuses(device)
    assert running.event("DomainFailed", Domain=NAME)["Reason"] == "Timeout"
    site.dns.set(NAME, ("A", OLD))
    site.dns.mood = "answers"
    resolved(running, OLD)
    site.admits(device)


def test_a_chain_of_names_whose_answer_was_cut(site: Site) -> None:
    site.dns.set(NAME, ("CNAME", "site.example."), ttl=0)
    site.dns.set("site.example", ("CNAME", "host.example."), ttl=3600)
    addresses = [OLD, *(f"198.51.100.{n}" for n in range(1, 50))]
    site.dns.set("host.example", *(("A", address) for address in addresses), ttl=3600)
    running = site.gateway(f"{{ domains: [{NAME}] }}")
    resolved(running, *addresses)
    site.admits(site.device(OLD))
    assert site.dns.count(NAME, "tcp") >= 1
    assert site.shown()["DomainAddresses"][NAME] == addresses
    # The shortest TTL of the chain holds.
    site.dns.set(NAME, ("A", NEW))
    resolved(running, NEW)
    site.admits(site.device(NEW))


def test_resources_of_the_api(site: Site) -> None:
    site.dns.set(NAME, ("A", OLD), ("A", NEW))
    running = site.gateway("{}")
    document = {
        "Name": "second",
        "Bind": f"{GATEWAY}:{PORT + 1}",
        "ClientRestrictions": {"Domains": [NAME]},
        "Destinations": [{"Name": "again", "DestinationArn": "function:echo.py:handler"}],
    }
    made = running.api("POST", "/v1/listeners", document)
    assert made.status_code == 201, made.text
    running.event("DomainResolved", Listener="second", Domain=NAME, Addresses=[OLD, NEW])
    assert running.api("GET", "/v1/listeners/second").json()["DomainAddresses"] == {NAME: [OLD, NEW]}
    device = site.device(OLD)
    device.send(b"one", (GATEWAY, PORT + 1))
    assert device.receive()[0] == b"one"
    source = {"Name": "out", "ListenerName": "second", "SnsTopicSource": {"TopicArn": f"{TOPIC}-2"}}
    (warning,) = running.api("POST", "/v1/packet-sources", source).json()["Warnings"]
    assert "sessions and Tags alone" in warning
    assert "EgressNetworks" in warning
    # A session is enough, an address that the name has is not.
    assert running.post({"Data": "eA==", "Remote": device.remote}, "out")["Sent"] == 1
    elsewhere = {"Address": NEW, "Port": 4000}
    (failure,) = running.post({"Data": "eA==", "Remote": elsewhere}, "out")["Failures"]
    assert failure["Reason"] == "RemoteDenied"
    # A Listener that gives its port up to its successor, and one that is sent back as it was read: what is known stays.
    assert running.metrics().value("domain_lookups", domain=NAME) == 2
    moved = {**document, "Bind": f"0.0.0.0:{PORT + 1}"}
    replaced = running.api("PUT", "/v1/listeners/second", moved)
    assert replaced.json()["DomainAddresses"] == {NAME: [OLD, NEW]}
    device.send(b"moved", (GATEWAY, PORT + 1))
    assert [device.receive()[0] for _ in range(2)] == [b"x", b"moved"]
    read = running.api("GET", "/v1/listeners/second").json()
    again = running.api("PUT", "/v1/listeners/second", read)
    assert again.status_code == 200, again.text
    assert running.metrics().value("domain_lookups", domain=NAME) == 2
    # With another restriction nobody is asked for the name any more.
    open_again = running.api("PUT", "/v1/listeners/second", {**moved, "ClientRestrictions": {}})
    assert "DomainAddresses" not in open_again.json()
    assert "Warnings" not in open_again.json()
    assert running.metrics().value("domain_lookups") == 0
    device.send(b"two", (GATEWAY, PORT + 1))
    assert device.receive()[0] == b"two"


def test_a_wildcard_is_refused_with_its_place(site: Site) -> None:
    running = site.gateway("{}")
    document = {"Name": "second", "ClientRestrictions": {"Domains": ["*.example"]}}
    answer = running.api("POST", "/v1/listeners", document)
    assert answer.status_code == 422
    assert "wildcard" in answer.text
    assert "/ClientRestrictions/Domains/0" in answer.text


def test_outer_addresses_of_a_wireguard_listener(site: Site) -> None:
    site.dns.set(NAME, ("A", OLD))
    running = site.gateway(f"{{ domains: [{NAME}] }}", protocol="wg")
    resolved(running, OLD)
    site.refuses(site.device(OTHER))
    site.device(OLD).send(b"no handshake", (GATEWAY, PORT))
    until(
        lambda: running.metrics().value("rejected_packets", reason="NotWireGuard") == 1,
        "it is read as WireGuard",
    )
    assert site.refused() == 1
