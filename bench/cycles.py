"""Listeners that come and go, by reloads of the configuration: what the gateway holds, and what a packet costs, after
3,000 of them next to after 1,000.

Every third one is a WireGuard Listener; each has a Destination and a PacketSource, and gets a datagram. The comparison
begins after a third of them: until then caches fill, and the allocator keeps what the largest change has freed.
The packets go to a Listener that stays.
"""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from .gateway import TOPIC, Gateway, free_port
from .listeners import DESTINATION, burden
from .plan import Plan
from .processes import HANG_SECONDS, BenchError, scratch
from .results import Row, compare, yes_or_no

GROUP = 50
"""Listeners that one reload makes, and the next one removes."""
RATE = 20_000
GOAL = 1.1
"""What everything but descriptors may be after all of them, next to before: times as much."""


def run(plan: Plan) -> Iterator[Row]:
    with scratch() as directory, Gateway(directory, DESTINATION) as gateway:
        changed = Groups(directory, gateway)
        while changed.made < plan.cycles // 3:
            changed.come_and_go()
        held = [_held(gateway.pid)]
        costs = [[burden(gateway, RATE, plan.seconds)[0] for _ in range(plan.rounds)]]
        while changed.made < plan.cycles:
            changed.come_and_go()
        held.append(_held(gateway.pid))
        costs.append([burden(gateway, RATE, plan.seconds)[0] for _ in range(plan.rounds)])
    name = f"after {changed.made:,} Listeners came and went"
    for what, unit in ("descriptors", ""), ("threads", ""), ("memory (RSS)", " MB"):
        before, after = (one[what] for one in held)
        row = Row(f"{what} {name}", after, unit, baseline="after a third", baseline_rate=before)
        row.goal = "no more" if not unit else f"<= {GOAL:g}x"
        row.met = yes_or_no(after <= before * (GOAL if unit else 1))
        yield row
    row = compare(f"{RATE:,}/s {name}", costs[1], "after a third", costs[0])
    row.goal, row.met = f"<= {GOAL:g}x CPU", yes_or_no((row.cpu_ratio or 0) >= 1 / GOAL)
    yield row


class Groups:
    """Changes the configuration of a gateway, by SIGHUP."""

    def __init__(self, directory: Path, gateway: Gateway) -> None:
        self._gateway = gateway
        self._events = directory / "events.ndjson"
        self._file = directory / "gateway.yaml"
        self._text = self._file.read_text()
        self._client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.made = self._reloads = 0

    def come_and_go(self) -> None:
        """One group."""
        port = free_port(socket.SOCK_DGRAM)
        numbers = range(self.made, self.made + GROUP)
        listeners = "".join(self._listener(number, port) for number in numbers)
        sources = "".join(
            f'  - {{ name: s{n}, listener_name: l{n}, sns_topic_source: {{ topic_arn: "{TOPIC}" }} }}\n'
            for n in numbers
        )
        self._reload(self._text.replace("packet_sources:\n", f"{listeners}packet_sources:\n{sources}"))
        for number in numbers:
            self._client.sendto(b"x", (_address(number), port))
        self._reload(self._text)
        self.made += GROUP

    @staticmethod
    def _listener(number: int, port: int) -> str:
        protocol = "protocol: wg, allow_unknown_peers: true, " if number % 3 == 2 else ""
        destination = f"{{ name: kept, destination_arn: 'file:l{number % GROUP}.ndjson' }}"
        where = f"bind: '{_address(number)}:{port}'"
        return f"  - {{ name: l{number}, {protocol}{where}, destinations: [{destination}] }}\n"

    def _reload(self, text: str) -> None:
        self._file.write_text(text)
        self._reloads += 1
        self._gateway.signal(signal.SIGHUP)
        deadline = time.monotonic() + HANG_SECONDS
        while (told := self._events.read_bytes()).count(b'"Event":"Reloaded"') < self._reloads:
            if b'"Event":"ReloadRefused"' in told or time.monotonic() > deadline:
                raise BenchError(f"a reload was not taken: {told[-500:].decode()}")
            time.sleep(0.02)


def _address(number: int) -> str:
    return f"127.0.1.{1 + number % GROUP}"


def _held(pid: int) -> dict[str, float]:
    """What the process has, once everything that was removed has ended."""
    time.sleep(1.0)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "memory (RSS)": int(status["VmRSS"].split()[0]) / 1024,
    }
