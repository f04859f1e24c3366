"""Ingress: datagrams from 256 source ports, as fast as one core sends them, to a `file:` Destination.

Next to two C loops on the same core: one that receives and counts, and one that also writes the same lines. The rate is
what comes out while the load is on; loss is what of all that was sent never came out. The file lies in memory. Where a
C loop takes all that one core can send, its rate is the generator's, and only the processor time a packet is its own.
"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, BenchError, Process, baseline, scratch
from .results import Row, Sample, compare

SOCKETS = 256
GOAL = 0.7
STILL_SECONDS = 0.4  # longer than a batch waits
DESTINATION = "      - { name: file, destination_arn: 'file:out.ndjson' }\n"


def run(plan: Plan) -> Iterator[Row]:
    for size in plan.sizes:
        gateway, writing, counting = [], [], []
        for _ in range(plan.rounds):
            gateway.append(gateway_load(DESTINATION, size, plan.seconds))
            writing.append(_writing(size, plan.seconds))
            counting.append(_counting(size, plan.seconds))
        yield compare(f"ingress to file, {size} B", gateway, "C recvmmsg + same lines", writing, GOAL)
        yield compare(f"ingress to file, {size} B", gateway, "C recvmmsg, counts only", counting)


def gateway_load(destinations: str, size: int, seconds: float) -> Sample:
    """The load on a gateway with these Destinations; all packets go to `out.ndjson`."""
    with scratch() as directory, Gateway(directory, destinations) as gateway:
        sample = _load(gateway, gateway.port, directory / "out.ndjson", size, seconds)
        metrics = gateway.metrics()
        gone = metrics.total("kernel_dropped_packets") + metrics.total("destination_dropped_packets")
        received = metrics.total("received_packets") + metrics.total("kernel_dropped_packets")
        lines = metrics.total("destination_packets") - metrics.total("destination_dropped_packets")
        if sample.lines != lines or sample.sent != received:
            raise BenchError(
                f"{sample.sent} sent, {received} arrived by the gateway's count, {sample.lines} lines, {gone} dropped"
            )
        return sample


def _writing(size: int, seconds: float) -> Sample:
    port = free_port(socket.SOCK_DGRAM)
    with (
        scratch() as directory,
        Process(baseline("receive", port, directory / "out.ndjson"), TESTED_CORE) as process,
    ):
        process.wait_ready()
        return _load(process, port, directory / "out.ndjson", size, seconds)


def _counting(size: int, seconds: float) -> Sample:
    port = free_port(socket.SOCK_DGRAM)
    with Process(baseline("receive", port, "-"), TESTED_CORE) as process:
        process.wait_ready()
        sent = _generate(port, size, seconds)
        found = process.stop()
        received = found["received"]
        return Sample(received / found["seconds"], 1 - received / sent, found["cpu_seconds"] / received * 1e6)


class FileSample(Sample):
    """With the exact numbers behind it."""

    sent: int
    lines: int


def _load(process: Process, port: int, file: Path, size: int, seconds: float) -> FileSample:
    before = process.cpu_seconds()
    with Process(baseline("generator", port, size, seconds, 0, SOCKETS), LOAD_CORE) as generator:
        points = _watch(file, seconds)
        sent = generator.result()["sent"]
    _wait_until_still(file)
    cpu = process.cpu_seconds() - before
    lines = _lines(file)
    line = file.stat().st_size / max(1, lines)
    (start, from_bytes), (end, to_bytes) = points
    sample = FileSample((to_bytes - from_bytes) / line / (end - start), 1 - lines / sent, cpu / lines * 1e6)
    sample.sent, sample.lines = sent, lines
    return sample


def _watch(file: Path, seconds: float) -> list[tuple[float, int]]:
    """Time and size of the file when the load has settled and just before it ends."""
    points = []
    begin = time.monotonic()
    for part in (0.25, 0.95):
        time.sleep(max(0.0, begin + seconds * part - time.monotonic()))
        points.append((time.monotonic(), file.stat().st_size))
    return points


def _generate(port: int, size: int, seconds: float) -> int:
    with Process(baseline("generator", port, size, seconds, 0, SOCKETS), LOAD_CORE) as generator:
        sent: int = generator.result()["sent"]
        return sent


def _wait_until_still(file: Path) -> None:
    size, since = -1, time.monotonic()
    while time.monotonic() - since < STILL_SECONDS:
        time.sleep(0.02)
        if (now := file.stat().st_size) != size:
            size, since = now, time.monotonic()


def _lines(file: Path) -> int:
    count = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            count += chunk.count(b"\n")
    return count
