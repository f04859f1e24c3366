"""What `sluicegate peers add` makes: keys, addresses, endpoints, and the file for wg-quick."""

import configparser
from pathlib import Path
from typing import Any

import pytest

from sluicegate import _native
from sluicegate.cli.errors import CliError
from sluicegate.cli.wgquick import Invitation, addresses, next_address, outward_endpoint
from sluicegate.config import load
from sluicegate.model import Peer

LISTENER_KEY = _native.public_key(_native.generate_private_key())
API = "http://127.0.0.1:8080"


def invitation(**changes: Any) -> Invitation:
    arguments: dict[str, Any] = {
        "name": "phone",
        "listener_key": LISTENER_KEY,
        "endpoint": "192.0.2.1:51820",
        "addresses": addresses(["10.60.0.2", "fd60::2"]),
        "routes": [],
        "keepalive": 25,
        "public_key": None,
        "preshared": True,
    }
    return Invitation.make(**arguments | changes)


def test_key_pairs_are_those_of_wireguard() -> None:
    one, other = _native.generate_private_key(), _native.generate_private_key()
    assert one != other
    assert _native.public_key(one) == _native.public_key(one) != _native.public_key(other)
    # What `wg pubkey` makes of the bytes 1 to 32.
    assert (
        _native.public_key("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=")
        == "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw="
    )
    with pytest.raises(ValueError, match="base64 of 32 bytes"):
        _native.public_key("AQID")


def test_the_file_has_both_ends_of_the_tunnel() -> None:
    made = invitation()
    file = configparser.ConfigParser()
    file.read_string(made.text)
    assert _native.public_key(file["Interface"]["PrivateKey"]) == made.public_key
    assert file["Interface"]["Address"] == "10.60.0.2/32, fd60::2/128"
    assert dict(file["Peer"]) == {
        "publickey": LISTENER_KEY,
        "presharedkey": made.preshared_key,
        "endpoint": "192.0.2.1:51820",
        "allowedips": "10.60.0.0/24, fd60::/64",
        "persistentkeepalive": "25",
    }
    peer = Peer.model_validate(made.document)
    assert peer.allowed_ips == ["10.60.0.2/32", "fd60::2/128"]
    assert peer.shared_secret is not None
    assert peer.shared_secret.get_secret_value() == made.preshared_key
    assert "█" in made.code


def test_a_peer_with_keys_of_its_own_shows_none() -> None:
    own = _native.public_key(_native.generate_private_key())
    made = invitation(public_key=own, preshared=False, keepalive=0, routes=["0.0.0.0/0"])
    assert (made.public_key, made.private_key) == (own, None)
    assert f"belongs to {own}" in made.text
    assert "PersistentKeepalive" not in made.text
    assert "PresharedKey" not in made.text
    assert "AllowedIPs = 0.0.0.0/0" in made.text
    assert "PrivateKey" not in made.shown
    with pytest.raises(CliError, match="wg pubkey"):
        invitation(public_key="nonsense")


def test_what_is_to_be_written_into_the_file_can_be_read(tmp_path: Path) -> None:
    made = invitation(name='a "quoted" name')
    head = "listeners:\n  - name: tunnel\n    protocol: wg\n"
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{head}{made.yaml}\n")
    (peer,) = load(file).gateway.listeners[0].peers
    assert (peer.name, peer.public_key) == ('a "quoted" name', made.public_key)
    assert peer.allowed_ips == ["10.60.0.2/32", "fd60::2/128"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([], "10.60.0.2"),
        ([["0.0.0.0/0", "::/0"]], "10.60.0.2"),
        ([["10.60.0.2/32"], ["10.60.0.3/32", "fd60::3/128"]], "10.60.0.4"),
        ([["172.16.5.9/32"]], "172.16.5.2"),
        ([["172.16.5.2/32"], ["172.16.5.4/32"]], "172.16.5.3"),
    ],
)
def test_the_next_address_is_free(allowed: list[list[str]], expected: str) -> None:
    assert str(next_address(allowed)) == expected


def test_a_full_network_asks_for_an_address() -> None:
    with pytest.raises(CliError, match="--address"):
        next_address([[f"10.60.0.{host}/32" for host in range(2, 255)]])
    with pytest.raises(CliError, match="write it like"):
        addresses(["here"])


@pytest.mark.parametrize(
    ("given", "address", "api", "expected"),
    [
        ("vpn.example.com", "0.0.0.0", API, "vpn.example.com:51820"),
        ("vpn.example.com:443", "0.0.0.0", API, "vpn.example.com:443"),
        ("[2001:db8::1]", "::", API, "[2001:db8::1]:51820"),
        ("[2001:db8::1]:443", "::", API, "[2001:db8::1]:443"),
        (None, "198.51.100.7", API, "198.51.100.7:51820"),
        (None, "2001:db8::7", API, "[2001:db8::7]:51820"),
        (None, "0.0.0.0", "http://gateway.example.com:8080", "gateway.example.com:51820"),
    ],
)
def test_the_endpoint_is_where_peers_reach_it(
    given: str | None, address: str, api: str, expected: str
) -> None:
    assert outward_endpoint(given, address, 51_820, api) == expected


@pytest.mark.parametrize("given", ["", ":1", "a b", "host:0", "host:99999", "host:x", "2001:db8::1"])
def test_what_is_no_endpoint_is_refused(given: str) -> None:
    with pytest.raises(CliError, match="--endpoint"):
        outward_endpoint(given, "0.0.0.0", 51_820, API)
