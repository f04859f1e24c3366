"""The whole way out: real boto3 publishers → the gateway's SNS endpoint → the wire.

Two publishers share the sink's core, each with messages of up to 256 KiB; they, not the gateway, are usually the limit,
so the column to read is the gateway's processor time a packet.
"""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .egress import by_loop
from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, PROJECT, BenchError, Process, module, scratch, settle, sink
from .results import Row, Sample, compare

PUBLISHERS = 2
REMOTES = 1_000


def run(plan: Plan) -> Iterator[Row]:
    for size in plan.sizes:
        count = plan.packets // 3
        gateway, loop = [], []
        for _ in range(plan.rounds):
            gateway.append(_published(size, count))
            loop.append(by_loop("sendto", REMOTES, size, count))
        yield compare(f"boto3 x{PUBLISHERS} to SNS endpoint to wire, {size} B", gateway, "C sendto", loop)
    count = max(plan.packets // 200, 200)
    durable = [_single(1_200, count, durable=True) for _ in range(plan.rounds)]
    memory = [_single(1_200, count, durable=False) for _ in range(plan.rounds)]
    yield compare(f"publishes x{PUBLISHERS}, durable, 1200 B", durable, "not durable", memory)


def _single(size: int, count: int, *, durable: bool) -> Sample:
    """Messages of one entry: a packet is a publish. On a disk, which a durable endpoint waits for."""
    port = free_port(socket.SOCK_DGRAM)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=PROJECT)))
        gateway = stack.enter_context(Gateway(directory, durable=durable))
        counter = stack.enter_context(sink(port, count))
        command = module("publisher", gateway.sns, port, REMOTES, size, count // PUBLISHERS, "single")
        publishers = [stack.enter_context(Process(command, LOAD_CORE)) for _ in range(PUBLISHERS)]
        for publisher in publishers:
            publisher.wait_ready()
        before = gateway.cpu_seconds()
        published = sum(publisher.result()["entries"] for publisher in publishers)
        settle()
        cpu = gateway.cpu_seconds() - before
        seen = counter.stop()
        return Sample(seen["total"] / seen["seconds"], 1 - seen["total"] / published, cpu / published * 1e6)


def _published(size: int, count: int) -> Sample:
    port = free_port(socket.SOCK_DGRAM)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        gateway = stack.enter_context(Gateway(directory))
        counter = stack.enter_context(sink(port, count))
        command = module("publisher", gateway.sns, port, REMOTES, size, count // PUBLISHERS)
        publishers = [stack.enter_context(Process(command, LOAD_CORE)) for _ in range(PUBLISHERS)]
        for publisher in publishers:
            publisher.wait_ready()
        before = gateway.cpu_seconds()
        entries = sum(publisher.result()["entries"] for publisher in publishers)
        settle()
        cpu = gateway.cpu_seconds() - before
        seen = counter.stop()
        if seen["total"] > entries:
            raise BenchError(f"{entries} published, the sink saw {seen}")
        return Sample(seen["total"] / seen["seconds"], 1 - seen["total"] / entries, cpu / entries * 1e6)
