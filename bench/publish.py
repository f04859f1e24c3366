"""Publishes of one entry, at both doors, next to aiohttp on uvloop with a socket (`aiohttp_gateway.py`).

Each round posts to both by turns: as fast as it goes over a few connections, and 1,000 a second, where the time until
the answer is taken. The goals are those of processor time for a publish, and of p99 at 1,000 a second.
"""

import contextlib
import socket
from collections.abc import Iterator

from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, BenchError, Process, module, scratch, settle, sink
from .results import Row, Sample, compare, median, yes_or_no

SIZE = 64
CONNECTIONS = 8
RATE = 1_000
GOAL = 1.3
TAIL_GOAL = 1.5
BASELINE = "aiohttp + uvloop"
Latency = tuple[float, float]


def run(plan: Plan) -> Iterator[Row]:
    for door in "rest", "sns":
        fast: list[list[Sample]] = [[], []]
        paced: list[list[Sample]] = [[], []]
        times: list[list[Latency]] = [[], []]
        with scratch() as directory, Gateway(directory) as gateway, aiohttp() as (other, url):
            systems = (gateway, gateway.api if door == "rest" else gateway.sns), (other, url)
            for tested, place in systems:
                _posted(tested, door, place, plan.publishes, 0)
            for _ in range(plan.rounds):
                for number, (tested, place) in enumerate(systems):
                    fast[number].append(_posted(tested, door, place, plan.publishes * 20, 0)[0])
                    sample, latency = _posted(tested, door, place, plan.publishes * 10, RATE)
                    paced[number].append(sample)
                    times[number].append(latency)
        yield compare(f"publish, {door}", fast[0], BASELINE, fast[1], GOAL)
        yield compare(f"publish, {door}, {RATE:,}/s", paced[0], BASELINE, paced[1])
        yield from _latencies(f"publish, {door}, {RATE:,}/s", *times)


@contextlib.contextmanager
def aiohttp() -> Iterator[tuple[Process, str]]:
    """The baseline, and its URL."""
    with Process(module("aiohttp_gateway"), TESTED_CORE) as process:
        yield process, process.line()


def _posted(tested: Process, door: str, url: str, count: int, rate: int) -> tuple[Sample, Latency]:
    port = free_port(socket.SOCK_DGRAM)
    with sink(port, 1) as counter:
        before = tested.cpu_seconds()
        with Process(module("poster", door, url, port, SIZE, CONNECTIONS, count, rate), LOAD_CORE) as poster:
            done = poster.result()
        settle()
        cpu = tested.cpu_seconds() - before
        seen = counter.stop()
    if seen["total"] != count:
        raise BenchError(f"{count} published, the sink saw {seen}")
    return Sample(count / done["seconds"], 0.0, cpu / count * 1e6), (done["p50"], done["p99"])


def _latencies(name: str, ours: list[Latency], theirs: list[Latency]) -> Iterator[Row]:
    for place, part in enumerate(("p50", "p99")):
        one, other = (median([times[place] for times in each]) for each in (ours, theirs))
        ratio = median([them[place] / us[place] for us, them in zip(ours, theirs, strict=True)])
        row = Row(f"{name}, {part}", one, " ms", baseline=BASELINE, baseline_rate=other, ratio=ratio)
        if part == "p99" and ratio is not None:
            row.goal, row.met = f">= {1 / TAIL_GOAL:.2f}", yes_or_no(ratio >= 1 / TAIL_GOAL)
        yield row
