"""WireGuard under a flood: initiations with a valid mac1 from forged addresses, 20,000 a second.

Sealed egress to peers with a session is bound by the tested core's time, so what the flood takes of that core is
missing there. That is all that the gateway does for it (receiving, mac1, cookies), and the kernel's part of receiving
and of sending cookies; the flooder, and the way of its datagrams into the socket's queue, are on the load core.
"""

from collections.abc import Iterator

from .plan import Plan
from .processes import BenchError
from .results import Row, compare, median
from .wgsealed import FLOOD_RATE, tunnels

PEERS = 1_000
PAIRS = 3
"""With and without the flood in each round: the difference is small, so they follow closely."""
GOAL = 0.9


def run(plan: Plan) -> Iterator[Row]:
    size = plan.sizes[-1]
    calm, flooded, busy = [], [], []
    for _ in range(plan.rounds):
        with tunnels(PEERS, size, plan.packets // PAIRS) as peers:
            for _ in range(PAIRS):
                calm.append(peers.feed()[0])
                with peers.flooded():
                    sample, cookies = peers.feed()
                    busy.append(peers.busy(plan.seconds / PAIRS) * 100)
                flooded.append(sample)
                if not cookies:
                    raise BenchError("the flood met no cookies")
    flood = f"{FLOOD_RATE:,} initiations/s"
    yield compare(f"sealed egress, {size} B, {flood}", flooded, "without the flood", calm, GOAL)
    yield Row(f"{flood} and nothing else, CPU", median(busy), " %")
