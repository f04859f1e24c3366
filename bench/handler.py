"""A handler and its price: requests to an echo at four rates, next to the same handler inside a uvloop server.

The load is that of `batching.py`. A row's rate is the median time of a reply, its CPU the processor time a packet of
all processes of a system, which has one core. The C echo is what the kernel alone takes. Batches of 5 to 6 packets at
5,000/s are those of a timeout of 1 ms. At saturation (`echo.py`'s load) the rate is packets a second.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from . import echo
from .batching import ask, delivered
from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, Process, baseline, module, scratch
from .results import Row, Sample, compare, median, percentile

RATES = (100, 1_000, 5_000, 10_000)
BATCHING = {
    "adaptive": "timeout_in_seconds: 0",
    "0.001 s": "timeout_in_seconds: 0.001",
}
UVLOOP, C = "uvloop, handler inside", "C echo"
_Found = dict[str, list[tuple[float, Sample, float]]]
"""For each system and round: milliseconds, the sample, packets a batch."""


def run(plan: Plan) -> Iterator[Row]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        for rate in RATES:
            yield from _rows(rate, _found(rate, plan))
        yield from _saturated(plan)
    finally:
        os.sched_setaffinity(0, before)


def _found(rate: int, plan: Plan) -> _Found:
    found: _Found = {name: [] for name in (*BATCHING, UVLOOP, C)}
    for _ in range(plan.rounds):
        for name, batching in BATCHING.items():
            with scratch() as directory, Gateway(directory, _destination(batching)) as gateway:
                found[name].append(_measure(gateway, gateway.port, rate, plan, lambda: delivered(gateway)))
        for name in (UVLOOP, C):
            port = free_port(socket.SOCK_DGRAM)
            with _server(name, port) as server:
                found[name].append(_measure(server, port, rate, plan))
    return found


def _rows(rate: int, found: _Found) -> Iterator[Row]:
    for name in BATCHING:
        size = median([size for _, _, size in found[name]])
        for other in (UVLOOP, C):
            row = compare(
                f"handler at {rate:,}/s, {name}, p50 (batches of {size:.1f})",
                [sample for _, sample, _ in found[name]],
                other,
                [sample for _, sample, _ in found[other]],
            )
            row.rate, row.baseline_rate = (median([time for time, _, _ in found[n]]) for n in (name, other))
            row.unit, row.spread = " ms", None
            row.ratio = row.baseline_rate / row.rate if row.rate and row.baseline_rate else None
            yield row


def _saturated(plan: Plan) -> Iterator[Row]:
    gateway: list[Sample] = []
    others: dict[str, list[Sample]] = {UVLOOP: [], C: []}
    for _ in range(plan.rounds):
        gateway.append(echo.measured_gateway(plan.seconds))
        for name, samples in others.items():
            port = free_port(socket.SOCK_DGRAM)
            with _server(name, port) as server:
                samples.append(echo.measured([server], port, plan.seconds))
    for name, samples in others.items():
        yield compare("handler, saturated", gateway, name, samples)


def _server(name: str, port: int) -> AbstractContextManager[Process]:
    command = module("uvloop_server", port) if name == UVLOOP else baseline("answer", port)
    server = Process(command, TESTED_CORE)
    server.wait_ready()
    return server


def _destination(batching: str) -> str:
    return (
        "      - name: echo\n        destination_arn: function:handlers/echo.py:handler\n"
        f"        batching: {{ {batching} }}\n"
    )


def _measure(
    system: Process,
    port: int,
    rate: int,
    plan: Plan,
    counted: Callable[[], tuple[float, float]] = lambda: (0, 0),
) -> tuple[float, Sample, float]:
    ask(port, max(rate, 1_000), 0.3)  # warm
    (packets, batches), cpu = counted(), system.cpu_seconds()
    times, sent = ask(port, rate, plan.seconds)
    cpu, more = system.cpu_seconds() - cpu, counted()
    size = (more[0] - packets) / max(1, more[1] - batches)
    sample = Sample(len(times) / plan.seconds, 1 - len(times) / sent, cpu / max(1, len(times)) * 1e6)
    return percentile(times or [float("inf")], 0.5), sample, size
