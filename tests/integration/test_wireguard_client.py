"""WireGuard Listeners with a userspace client of few manners, with strangers, and with somebody who replays."""

import random
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from harness import ECHO, Client, Gateway, source_of, until, wait_for_records
from wireguard import COOKIE, RESPONSE, Tunnel, key_pair, new_secret

from conftest import StartGateway

NOT_STARTED = 4
PACKETS = '{ name: packets, destination_arn: "file:packets.ndjson" }'
ECHOING = '{ name: echo, destination_arn: "function:echo.py:handler", batching: { count: 1 } }'


def config(settings: str, destinations: str = f"[{ECHOING}, {PACKETS}]") -> str:
    return f"""
listeners:
  - name: tunnel
    protocol: wg
    bind: 127.0.0.1
    {settings}
    destinations: {destinations}
{source_of("tunnel")}
"""


class Clients:
    """Makes userspace clients and closes their sockets."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, running: Gateway, private_key: str | None = None, psk: str | None = None) -> Tunnel:
        items = running.api("GET", "/v1/listeners").json()["Items"]
        address = (items[0]["Address"], items[0]["Port"])
        device = self._stack.enter_context(Client())
        return Tunnel(device, address, items[0]["WireGuardPublicKey"], private_key, psk)


@pytest.fixture
def client() -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack)


def answered(tunnel: Tunnel, message: bytes, knocks: Tunnel) -> bool:
    """True if the gateway answers `message`. Once `knocks`, which it knows, is answered, it has had its chance."""
    tunnel.socket.send(message, tunnel.gateway)
    knocks.send(b"are you done?")
    assert knocks.receive() == b"are you done?"
    return bool(tunnel.socket.waiting())


def rejected(running: Gateway) -> dict[str, int]:
    return running.metrics().by("reason", "rejected_packets", listener="tunnel")


@pytest.mark.parametrize("decapsulated", ["true", "false"])
def test_plaintext_that_is_no_packet_passes_both_ways(
    gateway: StartGateway, client: Clients, decapsulated: str
) -> None:
    private, public = key_pair()
    settings = f'decapsulated_delivery: {decapsulated}\n    peers: [{{ public_key: "{public}" }}]'
    running = gateway(config(settings), {"echo": ECHO})
    tunnel = client(running, private).connect()
    # What only looks like the head of an IP packet is none either.
    payloads = [
        b"hello",
        b"E",
        b"\x45\x00\x00\x1e and a text that goes on for a while",
        b"`" * 60,
        bytes(1_300),
    ]
    for payload in payloads:
        tunnel.send(payload)
        assert tunnel.receive() == payload
    packets = wait_for_records(running.directory / "packets.ndjson", len(payloads))
    assert [b64decode(packet["Data"]) for packet in packets] == payloads
    for packet in packets:
        host, port = tunnel.socket.address
        assert packet["Remote"] == {"IpAddress": host, "Port": port, "PeerKey": public}
        assert "Inner" not in packet
    for remote in ({"PeerKey": public}, packets[0]["Remote"]):
        outcome = running.post({"Data": "cHVzaA==", "Remote": remote})
        assert outcome["Sent"] == 1, outcome
        assert tunnel.receive() == b"push"


def test_stamps_of_whole_seconds_and_a_session_that_goes_on(gateway: StartGateway, client: Clients) -> None:
    private, public = key_pair()
    running = gateway(config(f'peers: [{{ public_key: "{public}" }}]'), {"echo": ECHO})
    tunnel = client(running, private)
    second = int(time.time())
    tunnel.socket.send(tunnel.initiation(seconds=second), tunnel.gateway)
    tunnel.finish(tunnel.socket.receive()[0])
    tunnel.send(b"hello")
    assert tunnel.receive() == b"hello"
    # Another handshake in the same second has no newer stamp; what there is goes on.
    tunnel.socket.send(tunnel.initiation(seconds=second), tunnel.gateway)
    tunnel.send(b"still here")
    assert tunnel.receive() == b"still here"
    assert rejected(running) == {"ReplayedHandshake": 1}
    tunnel.socket.send(tunnel.initiation(seconds=second + 1), tunnel.gateway)
    tunnel.finish(tunnel.socket.receive()[0])
    tunnel.send(b"and anew")
    assert tunnel.receive() == b"and anew"


def test_strangers_meet_silence(gateway: StartGateway, client: Clients) -> None:
    private, public = key_pair()
    running = gateway(config(f'peers: [{{ public_key: "{public}" }}]'), {"echo": ECHO})
    known = client(running, private).connect()
    stranger = client(running)
    assert not answered(stranger, stranger.initiation(), known)
    assert not answered(stranger, known.initiation(spoil_mac=True), known)
    assert not answered(stranger, stranger.initiation()[:-1], known)
    assert not answered(stranger, b"hello", known)
    assert not answered(stranger, b"", known)
    forged = known.sealed(b"hello")
    assert not answered(stranger, forged[:-1] + bytes([forged[-1] ^ 1]), known)
    assert rejected(running) == {"UnknownPeer": 1, "InvalidMac": 1, "NotWireGuard": 3, "InvalidPacket": 1}
    outcome = running.post(
        {"Data": "eA==", "Remote": {**stranger.socket.remote, "PeerKey": stranger.public_key}}
    )
    assert outcome["Failures"][0]["Reason"] == "UnknownPeer"


def test_unknown_peers_where_they_are_let_in(gateway: StartGateway, client: Clients) -> None:
    running = gateway(config("allow_unknown_peers: true"), {"echo": ECHO})
    guest = client(running).connect()
    guest.send(b"hello")
    assert guest.receive() == b"hello"
    (shown,) = running.api("GET", "/v1/listeners/tunnel/peers").json()["Items"]
    assert (shown["PublicKey"], shown["Configured"]) == (guest.public_key, False)
    assert running.post({"Data": "cHVzaA==", "Remote": {"PeerKey": guest.public_key}})["Sent"] == 1
    assert guest.receive() == b"push"


def test_unknown_peers_behind_a_shared_secret(gateway: StartGateway, client: Clients) -> None:
    gate, own = new_secret(), new_secret()
    private, public = key_pair()
    settings = (
        f'allow_unknown_peers: true\n    unknown_peer_pre_shared_key: "{gate}"\n'
        f'    peers: [{{ public_key: "{public}", shared_secret: "{own}" }}]'
    )
    running = gateway(config(settings), {"echo": ECHO})
    for tunnel in (client(running, psk=gate).connect(), client(running, private, psk=own).connect()):
        tunnel.send(b"hello")
        assert tunnel.receive() == b"hello"
    # The initiation shows nothing of the secret, so it is answered; but the answer cannot be opened.
    wrong = client(running)
    wrong.socket.send(wrong.initiation(), wrong.gateway)
    response = wrong.socket.receive()[0]
    assert response[0] == RESPONSE
    with pytest.raises(InvalidTag):
        wrong.finish(response)
    shown = running.api("GET", "/v1/listeners/tunnel/peers").json()["Items"]
    assert wrong.public_key not in [peer["PublicKey"] for peer in shown]


def test_replayed_packets_are_delivered_once(gateway: StartGateway, client: Clients) -> None:
    private, public = key_pair()
    running = gateway(config(f'peers: [{{ public_key: "{public}" }}]', f"[{PACKETS}]"))
    tunnel = client(running, private).connect()
    packets = [tunnel.sealed(number.to_bytes(4, "big")) for number in range(100_000)]

    def received() -> int:
        return running.metrics().value("received_packets")

    def wait_until_taken(count: int) -> None:
        until(lambda: received() >= count, f"the gateway has taken {count} packets")

    def send(messages: list[bytes]) -> None:
        before = received()
        for sent, message in enumerate(messages, 1):
            tunnel.socket.send(message, tunnel.gateway)
            if sent % 2_000 == 0:  # no more than its receive buffer holds
                wait_until_taken(before + sent)

    send(packets)
    wait_for_records(running.directory / "packets.ndjson", len(packets))
    again = packets.copy()
    random.Random(1).shuffle(again)
    send(again)
    assert running.metrics().value("destination_packets", destination="packets") == len(packets)
    assert rejected(running) == {"Replayed": len(packets)}


def test_a_flood_of_handshakes_gets_cookies_and_the_others_go_on(
    gateway: StartGateway, client: Clients
) -> None:
    private, public = key_pair()
    running = gateway(
        config(f'allow_unknown_peers: true\n    peers: [{{ public_key: "{public}" }}]'), {"echo": ECHO}
    )
    known = client(running, private).connect()
    floods = [client(running) for _ in range(20)]
    messages = [(flood, flood.initiation()) for flood in floods for _ in range(100)]
    for number, (flood, message) in enumerate(messages):
        flood.socket.send(message, flood.gateway)
        if number % 100 == 0:
            known.send(b"still served")
            assert known.receive() == b"still served"
    metrics = running.metrics()
    cookies = metrics.value("wireguard_cookies_sent")
    assert cookies > 0
    assert metrics.value("wireguard_responses_sent") + cookies <= len(messages) + 1
    answers = [answer for flood in floods for answer in flood.socket.waiting()]
    assert sum(answer[0] == COOKIE for answer in answers) == cookies


def test_key_pairs_are_made_kept_and_imported(gateway: StartGateway, client: Clients) -> None:
    running = gateway(config("description: made"), {"echo": ECHO})

    def shown(name: str = "tunnel") -> dict[str, Any]:
        document: dict[str, Any] = running.api("GET", f"/v1/listeners/{name}").json()
        return document

    made = shown()["WireGuardPublicKey"]
    running.stop()
    running.start()
    assert shown()["WireGuardPublicKey"] == made

    private, public = key_pair()
    device, device_key = key_pair()
    psk = new_secret()
    document = {
        "Name": "imported",
        "Protocols": ["wg"],
        "Bind": "127.0.0.1",
        "PrivateKey": private,
        "Peers": [{"PublicKey": device_key, "SharedSecret": psk}],
        "Destinations": [
            {"Name": "import", "DestinationArn": "function:echo.py:handler", "Batching": {"Count": 1}}
        ],
    }
    assert running.api("POST", "/v1/listeners", document).json()["WireGuardPublicKey"] == public
    address = running.address("imported")
    with Client() as plug:
        tunnel = Tunnel(plug, address, public, device, psk).connect()
        # What was read has no secrets and may be sent back; the session goes on meanwhile.
        again = running.api("PUT", "/v1/listeners/imported", shown("imported") | {"Description": "changed"})
        assert again.json()["WireGuardPublicKey"] == public, again.text
        tunnel.send(b"as before")
        assert tunnel.receive() == b"as before"
        running.kill()
        running.start()
        assert shown("imported")["WireGuardPublicKey"] == public
        tunnel.connect().send(b"with the same secret")
        assert tunnel.receive() == b"with the same secret"
    replaced = running.api("PUT", "/v1/listeners/imported", shown("imported") | {"PrivateKey": None})
    assert replaced.json()["WireGuardPublicKey"] not in (public, made), replaced.text


def test_another_refresh_token_makes_another_key_pair(gateway: StartGateway, client: Clients) -> None:
    running = gateway("listeners: []", {"echo": ECHO})
    device, device_key = key_pair()
    document: dict[str, Any] = {
        "Name": "tunnel",
        "Protocols": ["wg"],
        "Bind": "127.0.0.1",
        "KeyRefreshToken": "spring",
        "Peers": [{"PublicKey": device_key}],
        "Destinations": [
            {"Name": "echo", "DestinationArn": "function:echo.py:handler", "Batching": {"Count": 1}}
        ],
    }
    first = running.api("POST", "/v1/listeners", document).json()

    def changed(**fields: Any) -> dict[str, Any]:
        answer = running.api("PUT", "/v1/listeners/tunnel", {**document, **fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    old = client(running, device).connect()
    assert changed(Description="the same token")["WireGuardPublicKey"] == first["WireGuardPublicKey"]
    assert changed(KeyRefreshToken=None)["WireGuardPublicKey"] == first["WireGuardPublicKey"]
    refused = {
        **document,
        "KeyRefreshToken": "summer",
        "Destinations": [{"DestinationArn": "file:echo.py/x"}],
    }
    assert running.api("PUT", "/v1/listeners/tunnel", refused).status_code == 422
    assert (
        running.api("GET", "/v1/listeners/tunnel").json()["WireGuardPublicKey"] == first["WireGuardPublicKey"]
    )
    old.connect().send(b"as before")
    assert old.receive() == b"as before"

    second = changed(KeyRefreshToken="summer")
    assert second["WireGuardPublicKey"] not in ("", first["WireGuardPublicKey"])
    assert second["Port"] == first["Port"]
    new = client(running, device).connect()
    assert not answered(old, old.sealed(b"the session has ended"), knocks=new)
    running.kill()
    running.start()
    kept = running.api("GET", "/v1/listeners/tunnel").json()
    assert (kept["WireGuardPublicKey"], kept["KeyRefreshToken"]) == (second["WireGuardPublicKey"], "summer")
    assert changed(KeyRefreshToken="spring")["WireGuardPublicKey"] not in (
        first["WireGuardPublicKey"],
        second["WireGuardPublicKey"],
    )


def test_a_key_of_ones_own_is_not_refreshed(gateway: StartGateway) -> None:
    running = gateway("listeners: []")
    private, public = key_pair()
    document = {"Name": "own", "Protocols": ["wg"], "Bind": "127.0.0.1", "PrivateKey": private}
    assert running.api("POST", "/v1/listeners", document).json()["WireGuardPublicKey"] == public
    shown = running.api("GET", "/v1/listeners/own").json()
    # The key that there is belongs to what is sent back, although nobody is shown it.
    refused = running.api("PUT", "/v1/listeners/own", {**shown, "KeyRefreshToken": "a"})
    assert refused.status_code == 422
    assert "`private_key` of your own" in refused.text
    taken = running.api("PUT", "/v1/listeners/own", {**shown, "KeyRefreshToken": "a", "PrivateKey": None})
    assert taken.json()["WireGuardPublicKey"] not in ("", public), taken.text


def test_a_start_that_fails_keeps_the_key(gateway: StartGateway) -> None:
    running = gateway(config("description: made"), {"echo": ECHO})
    made = running.api("GET", "/v1/listeners/tunnel").json()["WireGuardPublicKey"]
    address = running.address()
    running.stop()
    with Client(*address):
        assert running.spawn().wait() == NOT_STARTED
    running.start()
    assert running.api("GET", "/v1/listeners/tunnel").json()["WireGuardPublicKey"] == made
    assert running.address() == address


def test_keys_show_nowhere(gateway: StartGateway, client: Clients, tmp_path: Path) -> None:
    private, public = key_pair()
    marked = {name: new_secret() for name in ("own", "shared", "gate")}
    settings = (
        f'private_key: "{marked["own"]}"\n    allow_unknown_peers: true\n'
        f'    unknown_peer_pre_shared_key: "{marked["gate"]}"\n'
        f'    peers: [{{ public_key: "{public}", shared_secret: "{marked["shared"]}" }}]'
    )
    running = gateway("listeners: []")
    document: dict[str, Any] = {
        "Name": "tunnel",
        "Protocols": ["wg"],
        "Bind": "127.0.0.1",
        "PrivateKey": marked["own"],
        "AllowUnknownPeers": True,
        "UnknownPeerPreSharedKey": marked["gate"],
        "Peers": [{"PublicKey": public, "SharedSecret": marked["shared"]}],
        "Destinations": [{"DestinationArn": "file:packets.ndjson"}],
    }
    shown = [running.api("POST", "/v1/listeners", document)]
    assert shown[0].status_code == 201, shown[0].text
    tunnel = client(running, private, marked["shared"]).connect()
    tunnel.send(b"hello")
    wait_for_records(running.directory / "packets.ndjson", 1)
    # What is refused is not repeated, and what fails inside shows no variables.
    broken = document | {"Name": "other", "PrivateKey": marked["own"] + "=", "Peers": [{"PublicKey": "x"}]}
    shown.append(running.api("POST", "/v1/listeners", broken))
    shown.append(
        running.api("POST", "/v1/listeners/tunnel/peers", {"PublicKey": "x", "SharedSecret": marked["own"]})
    )
    taken = document | {"Name": "taken", "Bind": f"127.0.0.1:{running.port('tunnel')}"}
    shown.append(running.api("POST", "/v1/listeners", taken))
    assert [answer.status_code for answer in shown[1:]] == [422, 422, 409]
    shown += [
        running.api("GET", path) for path in ("/v1/listeners", "/v1/listeners/tunnel/peers", "/metrics")
    ]
    running.stop()
    texts = {f"answer {number}": answer.text for number, answer in enumerate(shown)}
    texts |= {"events": running.process.stdout.text, "log": running.process.stderr.text}

    refused = gateway(config(settings.replace(marked["shared"], marked["shared"] + "?")), start=False)
    process = refused.spawn()
    assert process.wait() != 0
    texts |= {"log of a refused start": process.stderr.text + process.stdout.text}
    for place, text in texts.items():
        for name, key in marked.items():
            assert key not in text, f"the key {name} shows in {place}"
    files = [path for path in running.directory.iterdir() if path.is_file() and path.suffix != ".yaml"]
    assert any(path.name == "sluicegate.db" for path in files)
    for path in files:
        raw = path.read_bytes()
        for name, key in marked.items():
            assert key.encode() not in raw, f"the key {name} shows in {path.name}"
            assert b64decode(key) not in raw, f"the key {name} shows in {path.name}"
    key_file = running.directory / "sluicegate.db.key"
    assert oct(key_file.stat().st_mode & 0o777) == "0o600"
