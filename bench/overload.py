"""Overload: what comes out of a Destination that gets many times of what it takes, next to its peak in the same round.

A generator that segments (UDP_SEGMENT) offers more and more until the output grows no longer: the peak. Then it offers
several times as much. The output is counted while the load is on: answers that left for the echo handler, packets that
were delivered for a file in memory. Each load ends with the accounts: every datagram that the gateway received was
delivered, or is counted as dropped.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .gateway import Gateway, Metrics
from .plan import Plan
from .processes import HANG_SECONDS, LOAD_CORE, BenchError, Process, baseline, scratch
from .results import Row, Sample, compare

SOCKETS, RUN, RUN_BYTES = 64, 64, 65_000
START, STEP = 40_000.0, 1.5
"""Datagrams a second of the first load, and how much more each further one offers."""
TAKEN = 0.9
"""A Destination that takes a smaller part of a load is beyond its peak."""
AROUND = (0.9, 1.1, 1.25)
"""Loads next to the best one so far, where the peak may lie."""
GOAL = 0.9


@dataclass(frozen=True, slots=True)
class Kind:
    """A Destination and what it gets. `output` is the metric of what comes out; `times` are the loads as multiples of
    the peak, with the goal where there is one."""

    name: str
    destination: str
    size: int
    output: str
    times: tuple[tuple[int, float | None], ...]


ECHO = """\
      - name: echo
        destination_arn: function:handlers/echo.py:handler
        batching: { count: 100, timeout_in_seconds: 0.02 }
        arguments: { Concurrency: 2 }
"""
FILE = "      - { name: file, destination_arn: 'file:out.ndjson' }\n"
KINDS = (
    Kind("echo handler, 64 B", ECHO, 64, "sent_packets", ((6, GOAL), (10, None))),
    Kind("file, 1200 B", FILE, 1200, "delivery_packets", ((4, GOAL), (10, None))),
)


def run(plan: Plan) -> Iterator[Row]:
    for kind in KINDS:
        peaks: list[Sample] = []
        loaded: dict[int, list[Sample]] = {times: [] for times, _ in kind.times}
        for _ in range(plan.rounds):
            with scratch() as directory, Gateway(directory, kind.destination) as gateway:
                loads = Loads(gateway, kind, plan.seconds, directory / "out.ndjson")
                peaks.append(loads.peak(peaks[-1].rate if peaks else START))
                for times, samples in loaded.items():
                    samples.append(loads.run(peaks[-1].rate * times))
        for times, goal in kind.times:
            yield compare(f"{kind.name}, {times} times its peak", loaded[times], "its peak", peaks, goal)


@dataclass(frozen=True, slots=True)
class Loads:
    """Loads of a gateway, one after the other. `file` is removed after each: it lies in memory."""

    gateway: Gateway
    kind: Kind
    seconds: float
    file: Path

    def peak(self, rate: float) -> Sample:
        """The most that comes out, whatever is offered; `rate` is where the search begins."""
        best = self.run(rate)
        while best.rate > rate * TAKEN:
            rate *= STEP
            best = max(best, self.run(rate), key=lambda sample: sample.rate)
        for part in AROUND:
            best = max(best, self.run(best.rate * part), key=lambda sample: sample.rate)
        return best

    def run(self, rate: float) -> Sample:
        """What comes out of `rate` datagrams a second."""
        gateway, kind = self.gateway, self.kind
        run = min(RUN, RUN_BYTES // kind.size)
        command = baseline("generator", gateway.port, kind.size, self.seconds, rate, SOCKETS, run)
        before, points = gateway.metrics(), []
        with Process(command, LOAD_CORE) as generator:
            begin = time.monotonic()
            for part in (0.25, 0.95):
                time.sleep(max(0.0, begin + self.seconds * part - time.monotonic()))
                output = gateway.metrics().total(kind.output)
                points.append((time.monotonic(), output, gateway.cpu_seconds()))
            sent: int = generator.result()["sent"]
        taken = _account(before, _at_rest(gateway), sent)
        self.file.unlink(missing_ok=True)
        (start, at_start, cpu_start), (end, at_end, cpu_end) = points
        output = at_end - at_start
        return Sample(output / (end - start), 1 - taken / sent, (cpu_end - cpu_start) / max(1, output) * 1e6)


def _at_rest(gateway: Gateway) -> Metrics:
    """The metrics once every packet has ended, and every answer."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        metrics = gateway.metrics()
        ended = sum(metrics.total(name) for name in ("delivery_packets", "destination_dropped_packets"))
        if metrics.total("destination_packets") == ended and not metrics.total("egress_ring_messages"):
            return metrics
        time.sleep(0.05)
    raise BenchError("the gateway does not come to rest")


def _account(before: Metrics, after: Metrics, sent: int) -> int:
    """How many packets were delivered, once everything adds up."""
    names = ("received_packets", "destination_packets", "delivery_packets", "destination_dropped_packets")
    received, packets, delivered, dropped = (after.total(name) - before.total(name) for name in names)
    if not sent >= received == packets == delivered + dropped:
        raise BenchError(
            f"{sent} sent, {received} received, {packets} for the Destination, {delivered} delivered, {dropped} dropped"
        )
    return delivered
