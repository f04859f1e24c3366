"""What WireGuard peers must not get through (contract 5): other inner sources, other endpoints, keys of nobody."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from cable import GATEWAY, PORT, Cable, laid_cable, udp_packet
from harness import TOPIC, Client, Gateway, until, wait_for_records
from wireguard import Tunnel, key_pair

from conftest import StartGateway

pytestmark = pytest.mark.attack

OPEN = '0.0.0.0/0, "::/0"'
INNER, FAR = "10.60.0.2", "10.60.0.1"


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid_cable() as made:
        yield made


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def tunnels(host: str, public_key: str, allowed: str = f"{INNER}/32", *, decapsulated: bool = False) -> str:
    return f"""
listeners:
  - name: tunnel
    protocol: wg
    bind: "{host}"
    decapsulated_delivery: {str(decapsulated).lower()}
    peers: [{{ name: a, public_key: "{public_key}", allowed_ips: [{allowed}] }}]
    destinations:
      - {{ name: packets, destination_arn: "file:packets.ndjson", batching: {{ count: 1 }} }}
packet_sources:
  - {{ name: replies, listener_name: tunnel, sns_topic_source: {{ topic_arn: "{TOPIC}" }} }}
"""


def own_key(running: Gateway) -> str:
    return str(running.api("GET", "/v1/listeners").json()["Items"][0]["WireGuardPublicKey"])


@pytest.mark.netns
def test_a_peer_nearby_needs_no_network_and_leads_nowhere_else(gateway: StartGateway, cable: Cable) -> None:
    private, public = key_pair()
    text = tunnels(f"{GATEWAY}:{PORT}", public, OPEN)
    running = gateway(text, place=cable.gateway)
    cable.neighbour.ip("address", "add", "169.254.169.254/32", "dev", "lo")
    cable.neighbour.ip("address", "add", "192.168.7.9/32", "dev", "lo")
    with cable.client("169.254.169.254") as metadata, cable.client("192.168.7.9") as near:
        peer = Tunnel(near, (GATEWAY, PORT), own_key(running), private)
        metadata.send(peer.initiation(), (GATEWAY, PORT))
        until(lambda: _rejected(running, "RefusedNetwork") == 1, "the handshake from there is refused")
        peer = Tunnel(near, (GATEWAY, PORT), own_key(running), private).connect()
        peer.send(b"hello")
        wait_for_records(running.directory / "packets.ndjson", 1)
        metadata.send(peer.sealed(b"I have moved"), (GATEWAY, PORT))
        until(lambda: _rejected(running, "RefusedNetwork") == 2, "the packet from there is refused")
        message = {"Data": b64(b"push"), "Remote": {"PeerKey": public}}
        assert running.post(message)["Sent"] == 1
        assert peer.receive() == b"push"
        assert metadata.waiting() == []


def _rejected(running: Gateway, reason: str) -> int:
    return running.metrics().value("rejected_packets", listener="tunnel", reason=reason)


def inner_packet(source: str, payload: bytes) -> bytes:
    return udp_packet(source, 5000, FAR, 5683, payload)


def with_bytes(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


BENT = {
    "length + 1": lambda packet: with_bytes(packet, 2, (len(packet) + 1).to_bytes(2)),
    "length - 1": lambda packet: with_bytes(packet, 2, (len(packet) - 1).to_bytes(2)),
    "length 0": lambda packet: with_bytes(packet, 2, b"\0\0"),
    "checksum": lambda packet: with_bytes(packet, 10, b"\0\0"),
    "time to live": lambda packet: with_bytes(packet, 8, b"\1"),
    "header length": lambda packet: with_bytes(packet, 0, b"\x4f"),
    "a byte behind": lambda packet: packet + b"x",
    "16 zeros behind": lambda packet: packet + bytes(16),
    "cut after the source": lambda packet: packet[:16],
    "right": lambda packet: packet,
}


@pytest.mark.parametrize("decapsulated", [False, True])
def test_allowed_ips_are_not_passed_by_a_bent_packet(gateway: StartGateway, decapsulated: bool) -> None:
    private, public = key_pair()
    running = gateway(tunnels("127.0.0.1", public, decapsulated=decapsulated))
    with Client() as client:
        peer = Tunnel(client, running.address(), own_key(running), private).connect()
        for bend in BENT.values():
            peer.send(bend(inner_packet("10.60.0.3", b"another's")))
        for no_packet in (b"hello", b"\x45", b"\x60" + bytes(22), b"\x45" + bytes(14)):
            peer.send(no_packet)
        peer.send(b"")
        peer.send(inner_packet(INNER, b"mine"))
        (packet,) = wait_for_records(running.directory / "packets.ndjson", 1)
        assert b64decode(packet["Data"]).endswith(b"mine")
        assert _rejected(running, "RefusedInnerSource") == len(BENT) + 4
        assert running.metrics().value("wireguard_keepalives_received") >= 1
        (event,) = running.wait_for("InnerSourceRefused")
        assert event["Reason"] == "RefusedInnerSource"
        assert public in event["Detail"]
        assert 'add "10.60.0.3/32"' in event["Detail"]


def test_a_peer_with_everything_sends_everything(gateway: StartGateway) -> None:
    private, public = key_pair()
    running = gateway(tunnels("127.0.0.1", public, OPEN))
    sent = [b"hello", *(bend(inner_packet("10.60.0.3", b"x")) for bend in BENT.values())]
    with Client() as client:
        peer = Tunnel(client, running.address(), own_key(running), private).connect()
        for plaintext in sent:
            peer.send(plaintext)
        got = [
            b64decode(one["Data"])
            for one in wait_for_records(running.directory / "packets.ndjson", len(sent))
        ]
    assert got == sent


# Keys


def spellings(key: str) -> list[str]:
    raw = bytearray(b64decode(key))
    raw[31] |= 0x80
    return [key, b64(bytes(raw))]


def test_keys_that_cannot_work_are_refused_by_the_api(gateway: StartGateway) -> None:
    _, public = key_pair()
    _, other = key_pair()
    running = gateway("")
    document = {
        "Name": "tunnel",
        "Protocols": ["wg"],
        "Bind": "127.0.0.1",
        "Peers": [{"PublicKey": public}],
        "Destinations": [],
    }
    assert running.api("POST", "/v1/listeners", document).status_code < 300
    bad = [
        b64(bytes(32)),
        b64(bytes(31) + b"\x80"),
        b64(b"\1" + bytes(31)),
        b64(b"\xed" + b"\xff" * 30 + b"\x7f"),
        b64(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
        *spellings(own_key(running)),
        *spellings(public),
    ]
    for key in bad:
        answer = running.api("POST", "/v1/listeners/tunnel/peers", {"PublicKey": key})
        assert answer.status_code in (400, 409, 422), (key, answer.text)
        answer = running.api(
            "PUT", "/v1/listeners/tunnel", {**document, "Peers": [{"PublicKey": key}, *document["Peers"]]}
        )
        assert answer.status_code in (400, 409, 422), (key, answer.text)
        assert "public_key" in json.dumps(answer.json()) or "PublicKey" in json.dumps(answer.json())
    assert running.api("POST", "/v1/listeners/tunnel/peers", {"PublicKey": other}).status_code < 300
    for key in spellings(other):
        assert running.api("POST", "/v1/listeners/tunnel/peers", {"PublicKey": key}).status_code == 409


def test_the_own_key_in_the_file_is_refused_with_its_line(gateway: StartGateway, tmp_path: Any) -> None:
    running = gateway(tunnels("127.0.0.1", key_pair()[1]))
    key = own_key(running)
    running.stop()
    text = running.file.read_text()
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "public_key" in one)
    start = text.index('public_key: "') + len('public_key: "')
    running.file.write_text(text[:start] + key + text[start + 44 :])
    process = running.spawn()
    assert process.wait() != 0
    said = "\n".join([*process.stderr.all, *process.stdout.all])
    assert f"gateway.yaml:{line}:" in said, said
    assert "the public key of the Listener itself" in said
