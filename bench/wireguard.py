"""WireGuard: sealed egress to 1,000 peers next to plain egress in the same run and to wireguard-go, the handshakes that
begin it, and what a hundred thousand configured peers cost.

The peers answer the handshakes and then give way to the sink, which counts what arrives and opens nothing. Next to
wireguard-go there is also the C loop that sends as many bytes from memory and seals nothing: no gateway that sends
datagrams through this kernel can be faster than that.
"""

import sys
from collections.abc import Iterator

from . import wgconfigured, wgflood, wghandshakes, wireguard_go
from .egress import by_loop, submitted
from .plan import Plan
from .results import Row, compare
from .wgsealed import tunnels

PEERS = 1_000
SEALED_GOAL, OTHER_GOAL = 0.6, 5.0
OVERHEAD = 32
"""Bytes that WireGuard adds to a packet."""


def run(plan: Plan) -> Iterator[Row]:
    for size in plan.sizes:
        sealed, plain, ready = [], [], []
        for _ in range(plan.rounds):
            with tunnels(PEERS, size, plan.packets) as peers:
                sealed.append(peers.feed()[0])
            plain.append(submitted(PEERS, size, plan.packets))
            ready.append(by_loop("sendmmsg", PEERS, size + OVERHEAD, plan.packets))
        name = f"sealed egress, {PEERS:,} peers, {size} B"
        large = size == 1200
        yield compare(name, sealed, "plain egress", plain, SEALED_GOAL if large else None)
        if missing := wireguard_go.missing():
            print(f"  not next to wireguard-go: {missing}", file=sys.stderr)
            continue
        others = [wireguard_go.moved(PEERS, size, plan.packets) for _ in range(plan.rounds)]
        yield compare(name, sealed, "wireguard-go", others, OTHER_GOAL if large else None)
        yield compare(f"C sendmmsg of what is sealed already, {size} B", ready, "wireguard-go", others)
    yield from wghandshakes.run(plan)
    yield from wgflood.run(plan)
    yield from wgconfigured.run(plan)
