"""One busy Listener among others that nobody speaks to: what a packet costs with 1, 100 and 1,000 Listeners open.

The load has a rate that every gateway keeps up with, so only processor time tells: that of the whole process, and that
of its I/O thread, by the kernel's own clocks. The baseline is the gateway with one Listener, in the same round.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, BenchError, Process, baseline, scratch, settle
from .results import Row, Sample, compare, yes_or_no

SIZE, SOCKETS = 64, 16
RATES = (2_000, 20_000)
GOAL = 1.3
"""What a packet may cost among others, next to one alone."""
DESTINATION = """\
      - name: file
        destination_arn: 'file:out.ndjson'
        batching: { count: 100, timeout_in_seconds: 0.05 }
"""


def run(plan: Plan) -> Iterator[Row]:
    for rate in RATES:
        samples: dict[int, list[tuple[Sample, Sample]]] = {count: [] for count in (1, *plan.listeners)}
        for _ in range(plan.rounds):
            for count, found in samples.items():
                found.append(_gateway(count, rate, plan.seconds))
        for count in plan.listeners:
            for part, name in enumerate(("", ", I/O thread")):
                pairs = [[sample[part] for sample in samples[among]] for among in (count, 1)]
                row = compare(
                    f"{rate:,}/s, one busy of {count:,} Listeners{name}", pairs[0], "alone", pairs[1]
                )
                row.goal, row.met = f"<= {GOAL:g}x CPU", yes_or_no((row.cpu_ratio or 0) >= 1 / GOAL)
                yield row


def others(count: int, port: int) -> str:
    """Listeners at other addresses, as YAML."""
    addresses = (
        f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}" for number in range(count)
    )
    return "".join(
        f"  - {{ name: other-{number}, bind: '{address}:{port}', destinations: [{{ name: unbound }}] }}\n"
        for number, address in enumerate(addresses)
    )


def _gateway(count: int, rate: int, seconds: float) -> tuple[Sample, Sample]:
    more = others(count - 1, free_port(socket.SOCK_DGRAM))
    with scratch() as directory, Gateway(directory, DESTINATION, others=more) as gateway:
        return burden(gateway, rate, seconds)


def burden(gateway: Gateway, rate: int, seconds: float) -> tuple[Sample, Sample]:
    """What a packet costs at this rate: the process and its I/O thread."""
    _generate(gateway.port, rate, min(0.5, seconds))
    thread = _io_thread(gateway.pid)
    before = gateway.cpu_seconds(), _ran(thread)
    sent = _generate(gateway.port, rate, seconds)
    settle()
    used = gateway.cpu_seconds() - before[0], _ran(thread) - before[1]
    metrics = gateway.metrics()
    lost = metrics.total("kernel_dropped_packets") + metrics.total("destination_dropped_packets")
    whole, part = (Sample(sent / seconds, lost / sent, cpu / sent * 1e6) for cpu in used)
    return whole, part


def _generate(port: int, rate: int, seconds: float) -> int:
    with Process(baseline("generator", port, SIZE, seconds, rate, SOCKETS), LOAD_CORE) as generator:
        sent: int = generator.result()["sent"]
        return sent


def _io_thread(pid: int) -> Path:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "sluice-io":
            return task
    raise BenchError(f"process {pid} has no I/O thread")


def _ran(task: Path) -> float:
    """Seconds that the thread has run (schedstat's first number, in nanoseconds)."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9
