"""`sluicegate peers` at a real gateway."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cable import udp_packet
from harness import ECHO, Client, Gateway, in_process
from wireguard import Tunnel, key_pair

from conftest import StartGateway

FILE = """
listeners:
  - name: filed
    protocol: wg
    bind: 127.0.0.1
    destinations: [{ name: filed, destination_arn: "file:packets.ndjson" }]
"""


def peers(running: Gateway, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return in_process("peers", *arguments, "--api", running.api_url)


def with_tunnel(gateway: StartGateway, text: str = "listeners: []") -> Gateway:
    running = gateway(text, {"echo": ECHO})
    document = {
        "Name": "tunnel",
        "Protocols": ["wg"],
        "Bind": "127.0.0.1",
        "Destinations": [{"DestinationArn": "function:echo.py:handler", "Batching": {"Count": 1}}],
    }
    assert running.api("POST", "/v1/listeners", document).status_code == 201
    return running


def test_a_peer_is_added_shown_and_removed(gateway: StartGateway) -> None:
    running = with_tunnel(gateway)
    assert "no peers" in peers(running, "list").stdout
    added = peers(running, "add", "phone", "--preshared-key", "--qr", "--output", "json")
    assert added.returncode == 0, added.stderr
    made: dict[str, Any] = json.loads(added.stdout)
    assert (made["Listener"], made["Added"], made["AllowedIPs"]) == ("tunnel", True, ["10.60.0.2/32"])
    plain = peers(running, "add", "laptop", "--qr", "--keepalive", "0")
    assert "Address = 10.60.0.3/32" in plain.stdout
    assert "█" in plain.stderr
    assert "█" not in plain.stdout
    again = peers(running, "add", "phone")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already a peer named phone" in again.stderr

    with Client() as plug:
        key = running.api("GET", "/v1/listeners/tunnel").json()["WireGuardPublicKey"]
        tunnel = Tunnel(plug, running.address("tunnel"), key, made["PrivateKey"], made["SharedSecret"])
        packet = udp_packet("10.60.0.2", 5000, "10.60.0.1", 5683, b"hello")
        tunnel.connect().send(packet)
        assert tunnel.receive() == packet
        head, laptop, phone = peers(running, "list").stdout.splitlines()
        assert head.split()[:3] == ["NAME", "PUBLIC", "KEY"]
        host, port = plug.address
        assert phone.split()[:3] == ["phone", made["PublicKey"], f"{host}:{port}"]
        assert "s ago" in phone
        assert "never" in laptop
        for text in (phone, laptop, peers(running, "list", "--output", "json").stdout):
            assert made["PrivateKey"] not in text
            assert made["SharedSecret"] not in text

        assert peers(running, "remove", "phone").returncode == 0
        changed = running.wait_for("ResourceChanged", 4)
        assert [one["Action"] for one in changed] == ["Create", "AddPeers", "AddPeers", "RemovePeer"]
        assert changed[3]["Detail"] == made["PublicKey"]
        listed = json.loads(peers(running, "list", "--output", "json").stdout)["Items"]
        assert [peer["Name"] for peer in listed] == ["laptop"]
        running.stop()
        running.start()
        assert json.loads(peers(running, "list", "--output", "json").stdout)["Items"] == listed
        missing = peers(running, "remove", "phone")
        assert (missing.returncode, "no peer phone" in missing.stderr) == (1, True)


def test_a_file_that_is_there_is_not_overwritten(gateway: StartGateway, tmp_path: Path) -> None:
    running = with_tunnel(gateway)
    file = tmp_path / "wg0.conf"
    file.write_text("mine")
    refused = peers(running, "add", "phone", "--to", file)
    assert (refused.returncode, file.read_text()) == (1, "mine")
    assert running.api("GET", "/v1/listeners/tunnel/peers").json()["Items"] == []
    # What the gateway refuses leaves no file behind.
    fresh = tmp_path / "wg1.conf"
    running.api("POST", "/v1/listeners/tunnel/peers", {"PublicKey": (own := key_pair()[1])})
    refused = peers(running, "add", "twin", "--public-key", own, "--to", fresh)
    assert (refused.returncode, fresh.exists()) == (1, False)


def test_a_listener_of_the_file_takes_its_peers_from_there(gateway: StartGateway) -> None:
    running = with_tunnel(gateway, FILE)
    several = peers(running, "add", "phone")
    assert (several.returncode, "--listener: filed, tunnel" in several.stderr) == (1, True)
    told = peers(running, "add", "phone", "--listener", "filed")
    assert told.returncode == 0, told.stderr
    private = told.stdout.split("PrivateKey = ")[1].split("\n")[0]
    assert "phone is let in when it is reloaded" in told.stderr
    assert "error" not in told.stderr
    snippet = told.stderr[told.stderr.index("    peers:\n") :]
    running.edit("    destinations:", f"{snippet}    destinations:")
    assert running.api("POST", "/v1/reload").status_code == 200
    with Client() as plug:
        key = running.api("GET", "/v1/listeners/filed").json()["WireGuardPublicKey"]
        Tunnel(plug, running.address("filed"), key, private).connect().send(b"hello")
    refused = peers(running, "remove", "phone", "--listener", "filed")
    assert (refused.returncode, "remove the peer with the public_key" in refused.stderr) == (1, True)


def test_many_peers_come_at_once_and_are_shown_in_parts(gateway: StartGateway) -> None:
    running = with_tunnel(gateway)
    # The last byte is below 0x80: X25519 does not read its highest bit, and would see some of them as one.
    keys = [base64.b64encode(number.to_bytes(31, "big") + b"\t").decode() for number in range(1, 2_502)]
    path = "/v1/listeners/tunnel/peers"
    for start in range(0, len(keys), 1_000):
        some = [{"PublicKey": key, "Name": f"n{start}"} for key in keys[start : start + 1_000]]
        assert running.api("POST", path, {"Peers": some}).status_code == 201
    first = running.api("GET", path).json()
    assert (len(first["Items"]), first["NextToken"] is not None) == (1_000, True)
    shown = json.loads(peers(running, "list", "--output", "json").stdout)["Items"]
    assert [peer["PublicKey"] for peer in shown] == keys
    # All of them or none.
    new = key_pair()[1]
    refused = running.api("POST", path, {"Peers": [{"PublicKey": new}, {"PublicKey": keys[7]}]})
    assert (refused.status_code, "has a peer with the key" in refused.text) == (409, True)
    assert running.api("GET", f"{path}?after=nonsense").status_code == 400
    document = running.api("GET", "/v1/listeners/tunnel").json()
    twice = running.api("PUT", "/v1/listeners/tunnel", document | {"Peers": [{"PublicKey": keys[7]}]})
    assert twice.status_code == 409, twice.text
    # What goes with the Listener does not come back with another one of its name.
    assert running.api("DELETE", "/v1/listeners/tunnel").status_code == 204
    again = with_tunnel_again(running)
    assert again["WireGuardPublicKey"] != document["WireGuardPublicKey"]
    assert running.api("GET", path).json()["Items"] == []


def with_tunnel_again(running: Gateway) -> dict[str, Any]:
    made = running.api("POST", "/v1/listeners", {"Name": "tunnel", "Protocols": ["wg"], "Bind": "127.0.0.1"})
    document: dict[str, Any] = made.json()
    return document


def test_a_mistake_in_one_of_many_is_named_with_its_place(gateway: StartGateway) -> None:
    running = with_tunnel(gateway)
    answer = running.api(
        "POST",
        "/v1/listeners/tunnel/peers",
        {"Peers": [{"PublicKey": key_pair()[1]}, {"PublicKey": "short"}]},
    )
    assert answer.status_code == 422
    (error,) = answer.json()["Errors"]
    assert (error["Pointer"], "wg pubkey" in error["Fix"]) == ("/Peers/1/PublicKey", True)
    own = key_pair()[1]
    twice = running.api(
        "POST", "/v1/listeners/tunnel/peers", {"Peers": [{"PublicKey": own}, {"PublicKey": own}]}
    )
    assert twice.status_code == 409
    plain = running.api("POST", "/v1/listeners", {"Name": "plain", "Bind": "127.0.0.1"})
    assert plain.status_code == 201
    refused = running.api("POST", "/v1/listeners/plain/peers", {"PublicKey": own})
    assert (refused.status_code, "speaks udp" in refused.text) == (409, True)
    assert running.api("DELETE", f"/v1/listeners/tunnel/peers/{quote(own, safe='')}").status_code == 404
