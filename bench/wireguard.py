"""WireGuard: sealed egress to 1,000 peers next to plain egress in the same run and to wireguard-go, the handshakes that
begin it, and what a hundred thousand configured peers cost.

The peers answer the handshakes and then give way to the sink, which counts what arrives and opens nothing.
"""

import json
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator

from . import wgflood, wghandshakes, wireguard_go
from .egress import submitted
from .gateway import Gateway
from .plan import Plan
from .processes import BenchError, scratch
from .results import Row, compare, yes_or_no
from .wgsealed import tunnels

PEERS = 1_000
CONFIGURED = 100_000
SEALED_GOAL, OTHER_GOAL, MEMORY_GOAL, CPU_GOAL = 0.6, 5.0, 100.0, 2.0


def run(plan: Plan) -> Iterator[Row]:
    for size in plan.sizes:
        sealed, plain = [], []
        for _ in range(plan.rounds):
            with tunnels(PEERS, size, plan.packets) as peers:
                sealed.append(peers.feed()[0])
            plain.append(submitted(PEERS, size, plan.packets))
        name = f"sealed egress, {PEERS:,} peers, {size} B"
        large = size == 1200
        yield compare(name, sealed, "plain egress", plain, SEALED_GOAL if large else None)
        if missing := wireguard_go.missing():
            print(f"  not next to wireguard-go: {missing}", file=sys.stderr)
            continue
        others = [wireguard_go.moved(PEERS, size, plan.packets) for _ in range(plan.rounds)]
        yield compare(name, sealed, "wireguard-go", others, OTHER_GOAL if large else None)
    yield from wghandshakes.run(plan)
    yield from wgflood.run(plan)
    yield from configured(plan)


def configured(plan: Plan) -> Iterator[Row]:
    """Memory and processor time of a gateway with peers that are not there."""
    with scratch() as directory, Gateway(directory) as gateway:
        time.sleep(1.0)
        before = gateway.memory()[gateway.pid]
        _post(gateway, "/v1/listeners", {"Name": "tunnel", "Protocols": ["wg"], "Bind": "127.0.0.1"})
        for start in range(0, CONFIGURED, 1_000):
            peers = [
                {"PublicKey": b64encode(number.to_bytes(32, "big")).decode(), "AllowedIPs": [_inner(number)]}
                for number in range(start + 1, start + 1_001)
            ]
            _post(gateway, "/v1/listeners/tunnel/peers", {"Peers": peers})
        time.sleep(1.0)
        more = (gateway.memory()[gateway.pid] - before) / (1 << 20)
        used, begun = gateway.cpu_seconds(), time.monotonic()
        time.sleep(plan.idle_seconds)
        busy = (gateway.cpu_seconds() - used) / (time.monotonic() - begun) * 100
    name = f"{CONFIGURED:,} configured peers"
    yield Row(
        f"{name}, memory above idle",
        more,
        " MB",
        goal=f"<= {MEMORY_GOAL:g} MB",
        met=yes_or_no(more <= MEMORY_GOAL),
    )
    yield Row(f"{name}, idle CPU", busy, " %", goal=f"<= {CPU_GOAL:g} %", met=yes_or_no(busy <= CPU_GOAL))


def _inner(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"


def _post(gateway: Gateway, path: str, document: object) -> None:
    request = urllib.request.Request(gateway.api + path, json.dumps(document).encode(), method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        if answer.status != 201:
            raise BenchError(f"{path} answered {answer.status}")
