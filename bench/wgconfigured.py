"""A gateway with 100,000 configured WireGuard peers, of which 1,000 are there.

Memory is resident size, with all that the allocator keeps. Idle: nobody sends anything; with keepalives the gateway
sends one to each live peer every 10 seconds, where 25 are usual.
"""

import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from sluicegate.cli.credentials import choose

from .feeder import address_of
from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, BenchError, Process, module, scratch
from .results import Row, yes_or_no

CONFIGURED, LIVE = 100_000, 1_000
KEEPALIVE_SECONDS = 10
MEMORY_GOAL, CPU_GOAL = 100.0, 2.0
AT_ONCE = 1_000
"""Peers in a request."""
IN_A_MESSAGE = 100
STILL_SECONDS = 11.0
"""Then the peers have answered what they got with a keepalive."""


def run(plan: Plan) -> Iterator[Row]:
    name = f"{CONFIGURED:,} configured peers, {LIVE:,} live"
    still = min(STILL_SECONDS, plan.idle_seconds)
    with scratch() as directory, Gateway(directory) as gateway:
        time.sleep(1.0)
        before = _memory(gateway)
        port = free_port(socket.SOCK_DGRAM)
        command = module("wgpeers", port, LIVE, _listen(gateway), directory / "keys")
        with Process(command, LOAD_CORE) as others:
            others.wait_ready()
            keys = (directory / "keys").read_text().split()
            _add(gateway, [_peer(key, number) for number, key in enumerate(keys)])
            absent = [(number + 1).to_bytes(31, "big") + b"\t" for number in range(LIVE, CONFIGURED)]
            _add(gateway, [_peer(b64encode(key).decode(), LIVE + n) for n, key in enumerate(absent)])
            _connect(gateway, keys, port)
            time.sleep(1.0)
            more = (_memory(gateway) - before) / (1 << 20)
            yield _bounded(f"{name}, memory above idle", more, "MB", MEMORY_GOAL)
            time.sleep(still)
            yield _bounded(f"{name}, idle CPU", _busy(gateway, plan.idle_seconds), "%", CPU_GOAL)
            for key in keys:
                path = f"/v1/listeners/tunnel/peers/{urllib.parse.quote(key, safe='')}"
                _ask(gateway, "DELETE", path)
            _add(gateway, [_peer(key, number, KEEPALIVE_SECONDS) for number, key in enumerate(keys)])
            _connect(gateway, keys, port)
            time.sleep(still)
            busy = _busy(gateway, plan.idle_seconds)
            yield _bounded(f"{name} with keepalives, idle CPU", busy, "%", CPU_GOAL)


def _listen(gateway: Gateway) -> str:
    """The public key of its WireGuard Listener."""
    tunnel = {"Name": "tunnel", "Protocols": ["wg"], "Bind": "127.0.0.1"}
    made = _ask(gateway, "POST", "/v1/listeners", tunnel)
    source = {"Name": "tunnel", "ListenerName": "tunnel", "EgressNetworks": ["127.0.0.0/8"]}
    topic = {"TopicArn": "arn:aws:sns:us-east-1:000000000000:tunnel"}
    _ask(gateway, "POST", "/v1/packet-sources", source | {"SnsTopicSource": topic})
    key: str = made["WireGuardPublicKey"]
    return key


def _peer(key: str, number: int, keepalive: int = 0) -> dict[str, object]:
    inner = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
    return {"PublicKey": key, "AllowedIPs": [inner], "PersistentKeepaliveSeconds": keepalive}


def _add(gateway: Gateway, peers: Sequence[dict[str, object]]) -> None:
    for start in range(0, len(peers), AT_ONCE):
        _ask(gateway, "POST", "/v1/listeners/tunnel/peers", {"Peers": peers[start : start + AT_ONCE]})


def _connect(gateway: Gateway, keys: Sequence[str], port: int) -> None:
    """A packet to each, for which the gateway begins a handshake."""
    for start in range(0, LIVE, IN_A_MESSAGE):
        entries = [
            {
                "Data": "aGVsbG8=",
                "Remote": {"PeerKey": keys[number], "Address": str(address_of(number, LIVE)), "Port": port},
            }
            for number in range(start, start + IN_A_MESSAGE)
        ]
        outcome = _ask(gateway, "POST", "/v1/packet-sources/tunnel/messages", {"Messages": entries})
        if outcome["Sent"] != IN_A_MESSAGE:
            raise BenchError(f"not every peer has a session: {json.dumps(outcome)[:500]}")


def _memory(gateway: Gateway) -> int:
    return gateway.memory()[gateway.pid]


def _busy(gateway: Gateway, seconds: float) -> float:
    """Per cent of a core."""
    used, begun = gateway.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (gateway.cpu_seconds() - used) / (time.monotonic() - begun) * 100


def _bounded(name: str, value: float, unit: str, goal: float) -> Row:
    return Row(name, value, f" {unit}", goal=f"<= {goal:g} {unit}", met=yes_or_no(value <= goal))


def _ask(gateway: Gateway, method: str, path: str, document: object = None) -> dict[str, Any]:
    body = None if document is None else json.dumps(document).encode()
    headers = choose(gateway.api, gateway.file, None).credentials.headers
    request = urllib.request.Request(gateway.api + path, body, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
            return found
    except urllib.error.HTTPError as error:
        raise BenchError(f"{method} {path} answered {error.code}: {error.read().decode()[:500]}") from None
