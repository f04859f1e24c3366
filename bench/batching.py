"""What a batch's timeout costs and saves: requests to an echo at three rates, and how long their replies take.

The load is open: datagrams leave by the clock, answered or not. Arrival is the kernel's time stamp. Next to adaptive
batching (a timeout of 0) stand batches of one packet and three timeouts. A row's rate is the median of all replies'
times, its loss the part without an answer; p99 stands in the row below.
"""

import gc
import os
import socket
import struct
import time
from collections.abc import Iterator

from .gateway import Gateway
from .latency import SO_TIMESTAMPNS
from .plan import Plan
from .processes import LOAD_CORE, scratch
from .results import Row, percentile, yes_or_no

RATES = (100, 1_000, 10_000)
GOAL = 1.2
ANSWERS_SECONDS = 2.0
ONE = "count: 1"
SETTINGS = {
    "adaptive": "timeout_in_seconds: 0",
    ONE: "count: 1",
    "0.001 s": "timeout_in_seconds: 0.001",
    "0.02 s": "timeout_in_seconds: 0.02",
    "0.1 s": "timeout_in_seconds: 0.1",
}


def run(plan: Plan) -> Iterator[Row]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        for rate in RATES:
            found = {name: _answers(text, rate, plan) for name, text in SETTINGS.items()}
            for name, (times, loss, cpu, size) in found.items():
                yield from _rows(f"echo at {rate:,}/s, {name}", rate, times, loss, cpu, size, found[ONE][0])
    finally:
        os.sched_setaffinity(0, before)


def _rows(
    name: str, rate: int, times: list[float], loss: float, cpu: float, size: float, ones: list[float]
) -> Iterator[Row]:
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    middle = Row(f"{name}, p50 (batches of {size:.1f})", p50, " ms", loss, cpu)
    if not name.endswith(ONE):
        middle.baseline, middle.baseline_rate = ONE, percentile(ones, 0.5)
        middle.ratio = middle.baseline_rate / p50
    if name.endswith("adaptive") and rate == RATES[0]:
        middle.goal, middle.met = f"<= {GOAL}x of {ONE}", yes_or_no(p50 <= GOAL * percentile(ones, 0.5))
    yield middle
    yield Row(f"{name}, p99", p99, " ms")


def _answers(batching: str, rate: int, plan: Plan) -> tuple[list[float], float, float, float]:
    """Milliseconds of each answer, the part without one, processor microseconds a packet, packets a batch."""
    destination = (
        "      - name: echo\n        destination_arn: function:handlers/echo.py:handler\n"
        f"        batching: {{ {batching} }}\n"
    )
    with scratch() as directory, Gateway(directory, destination) as gateway:
        ask(gateway.port, 100, 0.3)  # the worker has started
        cpu, packets, batches = gateway.cpu_seconds(), *delivered(gateway)
        times, sent = [], 0
        for _ in range(plan.rounds):
            some, count = ask(gateway.port, rate, plan.seconds)
            times, sent = times + some, sent + count
        cpu, more = gateway.cpu_seconds() - cpu, delivered(gateway)
    size = (more[0] - packets) / max(1, more[1] - batches)
    return times or [float("inf")], 1 - len(times) / sent, cpu / max(1, len(times)) * 1e6, size


def delivered(gateway: Gateway) -> tuple[float, float]:
    metrics = gateway.metrics()
    return metrics.total("delivery_packets"), metrics.total("delivery_batches")


def ask(port: int, rate: int, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of each answer to `rate * seconds` datagrams, and their number."""
    count = int(rate * seconds)
    sent, arrived = [0] * count, [0] * count
    gc.disable()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        start, number, missing = time.monotonic(), 0, count
        while missing and time.monotonic() - start < seconds + ANSWERS_SECONDS:
            due = min(count, int((time.monotonic() - start) * rate) + 1)
            for one in range(number, due):
                sent[one] = time.time_ns()
                client.send(struct.pack("!Q", one))
            number = due
            missing -= _take(client, arrived)
            time.sleep(0.0002)
    gc.enable()
    return [(end - begin) / 1e6 for begin, end in zip(sent, arrived, strict=True) if end], count


def _take(client: socket.socket, arrived: list[int]) -> int:
    taken = 0
    while True:
        try:
            data, control, _, _ = client.recvmsg(16, 64)
        except BlockingIOError:
            return taken
        seconds, nanoseconds = struct.unpack("@qq", control[0][2])
        arrived[struct.unpack("!Q", data)[0]] = seconds * 1_000_000_000 + nanoseconds
        taken += 1
