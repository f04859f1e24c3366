"""Egress: sourced messages of up to 256 KiB through `Port.submit`, to 1,000 and 100,000 remotes.

Next to C loops that send ready bytes from memory to the same remotes, a call for each datagram (`sendto`) or for 64
(`sendmmsg`). Nothing counts as sent before it has arrived at the sink. What the gateway does besides: it reads JSON and
base64, judges each entry by the egress policy, and accounts for it.
"""

import socket
from collections.abc import Iterator

from .feeder import NUMBERS
from .gateway import free_port
from .plan import Plan
from .processes import TESTED_CORE, BenchError, Process, baseline, module, settle, sink
from .results import Row, Sample, compare

GOAL = 0.7
EACH = 5_000
"""Remotes of a message: with a payload of 1,200 bytes they fill about 230 KB."""


def run(plan: Plan) -> Iterator[Row]:
    for remotes in plan.remotes:
        for size in plan.sizes:
            count = max(plan.packets, remotes)
            gateway, single, many = [], [], []
            for _ in range(plan.rounds):
                gateway.append(submitted(remotes, size, count))
                single.append(by_loop("sendto", remotes, size, count))
                many.append(by_loop("sendmmsg", remotes, size, count))
            name = f"egress, {remotes:,} remotes, {size} B"
            yield compare(name, gateway, "C sendto", single, GOAL)
            yield compare(name, gateway, "C sendmmsg", many, GOAL)
    for size in plan.sizes:
        one, each = [], []
        for _ in range(plan.rounds):
            one.append(spread(NUMBERS, size, max(plan.packets, NUMBERS)))
            each.append(submitted(NUMBERS, size, max(plan.packets, NUMBERS)))
        yield compare(f"egress, Remotes of {EACH:,}, {size} B", one, "Messages", each)


def submitted(remotes: int, size: int, count: int, *, offload: bool = False) -> Sample:
    """Through the native data plane."""
    port = free_port(socket.SOCK_DGRAM)
    return _send(module("feeder", port, remotes, size, count), port, remotes, count, offload)


def spread(remotes: int, size: int, count: int) -> Sample:
    """Through the native data plane, `EACH` by one entry."""
    port = free_port(socket.SOCK_DGRAM)
    command = module("feeder", port, remotes, size, count, EACH)
    return _send(command, port, remotes, count, False, min(count, max(remotes, NUMBERS)) // EACH)


def by_loop(how: str, remotes: int, size: int, count: int, *, offload: bool = False) -> Sample:
    """By a C loop."""
    port = free_port(socket.SOCK_DGRAM)
    return _send(baseline("send", how, port, remotes, size, count), port, remotes, count, offload)


def _send(
    command: list[str], port: int, remotes: int, count: int, offload: bool, different: int | None = None
) -> Sample:
    with (
        sink(port, max(remotes, NUMBERS), offload=offload) as counter,
        Process(command, TESTED_CORE) as sender,
    ):
        done = sender.result()
        settle()
        seen = counter.stop()
    expected = different or min(count, max(remotes, NUMBERS))
    if done.get("failed") or seen["strange"] or seen["total"] > done["sent"] or done["sent"] < count:
        raise BenchError(f"{count} to send, the sender reports {done}, the sink {seen}")
    if seen["total"] == done["sent"] and seen["unique"] != expected:
        raise BenchError(f"{expected} different datagrams to send, the sink saw {seen}")
    # The slower of both ends: nothing counts as sent before it has arrived.
    seconds = max(seen["seconds"], done["seconds"])
    return Sample(
        seen["total"] / seconds, 1 - seen["total"] / done["sent"], done["cpu_seconds"] / done["sent"] * 1e6
    )
