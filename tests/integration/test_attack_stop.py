"""Starting, reloading and stopping while something stands in the way: the gateway says what, and ends in time."""

import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Client, Gateway, Process, free_port, process_exists, until

import packages

pytestmark = pytest.mark.attack

FORCED = 5

# A Destination of a user's package, in the gateway's own process. What it does is the target's name.
PACKAGE = """
import asyncio, pathlib, re, socket, threading, time
from sluicegate import Destination

def deep(seconds):
    time.sleep(seconds)

class Rude(Destination):
    @classmethod
    def from_spec(cls, name, target, arguments, context):
        made = cls(name, context)
        made.target, made.sign = target, pathlib.Path(context.base_dir, "blocked")
        return made

    async def provision(self):
        if self.target == "provision":
            self.block()
        elif self.target.startswith("slow"):
            self.sign.touch()
            await asyncio.sleep(2)
        elif self.target.startswith("bad"):
            await asyncio.sleep(float(self.target.partition("/")[2]))
            raise ValueError(f"no luck with {self.name}")

    async def deliver(self, batch):
        self.block()

    async def close(self):
        pass

    def block(self):
        self.sign.touch()
        match self.target:
            case "sleep" | "provision":
                deep(100)
            case "short":
                time.sleep(3)
            case "spin":
                end = time.monotonic() + 100
                while time.monotonic() < end:
                    pass
            case "network":
                here, there = socket.socketpair()
                here.recv(1)
            case "deadlock":
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            case "expression":
                re.match(r"(a+)+$", "a" * 40 + "b")
            case "swallow":
                for _ in range(100):
                    try:
                        time.sleep(1)
                    except BaseException:
                        pass
"""

Rude = Callable[..., Gateway]


def listener(target: str, name: str = "decoder") -> str:
    return f"""
listeners:
  - name: {name}
    bind: 127.0.0.1
    destinations:
      - {{ name: rude, destination_arn: "rude:{target}", batching: {{ count: 1 }} }}
"""


@pytest.fixture
def rude(tmp_path: Path) -> Iterator[Rude]:
    """Makes gateways that know the package."""
    made: list[Gateway] = []
    site = tmp_path / "site"
    packages.install(site, {"rude.py": PACKAGE}, "rude", {"rude": "rude:Rude"})

    def make(text: str, *, start: bool = True) -> Gateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        one = Gateway(directory, text, environment=packages.installed(site))
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.close()


def blocked(gateway: Gateway) -> None:
    """Send a packet, and return once the Destination holds the event loop."""
    address = gateway.event("ListenerStarted")
    with Client() as client:
        client.send(b"x", (address["Address"], address["Port"]))
    until((gateway.directory / "blocked").exists, "the Destination blocks")


def stopped(process: Process, number: signal.Signals = signal.SIGTERM) -> int:
    """The exit status after a signal. The kernel ends a stop after 10 s (by SIGALRM), so no clock is needed here."""
    process.signal(number)
    return process.wait()


# Side by side: each stop takes the 10 s after which it is ended by force.
HELD_UP = [
    *((target, signal.SIGTERM) for target in ("sleep", "spin", "network", "deadlock", "swallow")),
    ("sleep", signal.SIGINT),
]


def test_a_destination_that_blocks_is_reported_and_does_not_outlast_a_stop(rude: Rude) -> None:
    gateways = [(target, number, rude(listener(target))) for target, number in HELD_UP]
    for target, _, gateway in gateways:
        blocked(gateway)
        seen = gateway.event("LoopBlocked")
        assert (seen["Listener"], seen["Destination"]) == ("decoder", "rude")
        assert "deliver decoder/rude in deliver (" in seen["Detail"]
        assert "rude.py:" in seen["Detail"]
        if target == "sleep":
            line = next(n for n, text in enumerate(PACKAGE.splitlines(), 1) if "time.sleep(seconds)" in text)
            assert f"which is at deep ({gateway.directory.parent}/site/rude.py:{line})" in seen["Detail"]
    for _, number, gateway in gateways:
        gateway.process.signal(number)
    for target, _, gateway in gateways:
        assert gateway.process.wait() == FORCED, target
        forced = [json.loads(one) for one in gateway.process.stdout.all if '"StopForced"' in one]
        assert forced[0]["Destination"] == "rude"
        assert "lost: 1 packets for decoder/rude" in forced[0]["Detail"]
        assert "is ended by force" in gateway.process.stderr.text
        assert sum('"LoopBlocked"' in one for one in gateway.process.stdout.all) <= 3


def test_a_regular_expression_that_never_ends_does_not_outlast_a_stop(rude: Rude) -> None:
    gateway = rude(listener("expression"))
    blocked(gateway)
    status = stopped(gateway.process)
    assert status in (FORCED, -signal.SIGALRM)


def test_a_second_signal_ends_at_once_while_the_loop_is_blocked(rude: Rude) -> None:
    gateway = rude(listener("sleep"))
    blocked(gateway)
    gateway.process.signal(signal.SIGTERM)
    gateway.process.stderr.wait(lambda lines: any("once more" in line for line in lines), "the hint")
    status = stopped(gateway.process, signal.SIGINT)
    assert status == 128 + signal.SIGINT


def test_a_block_that_ends_in_time_costs_nothing(rude: Rude) -> None:
    gateway = rude(listener("short"))
    blocked(gateway)
    status = stopped(gateway.process)
    assert status == 0
    assert '"GatewayStopped"' in gateway.process.stdout.all[-1]


def test_a_start_that_is_held_up_is_reported_and_ends_with_a_signal(rude: Rude) -> None:
    gateway = rude(listener("provision"), start=False)
    gateway.spawn()
    seen = gateway.event("LoopBlocked")
    assert (seen["Listener"], seen["Destination"]) == ("decoder", "rude")
    status = stopped(gateway.process)
    assert status == FORCED


def test_a_hang_up_during_the_start_is_taken_and_done_after_it(rude: Rude) -> None:
    gateway = rude(listener("slow"), start=False)
    gateway.environment["SLUICEGATE_FRESH"] = "1"
    process = gateway.spawn()
    # From the first moments, while modules are imported, to the end of the start.
    until(lambda: b"sluicegate" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "it runs")
    until(lambda: takes_hang_ups(process.pid), "the program has begun")
    for _ in itertools.takewhile(lambda _: not gateway_started(gateway), itertools.count()):
        process.signal(signal.SIGHUP)
        time.sleep(0.02)
    gateway.event("Reloaded")
    assert stopped(process) == 0


def takes_hang_ups(pid: int) -> bool:
    """True if a process has a handler for SIGHUP."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught & 1 << (signal.SIGHUP - 1))


def gateway_started(gateway: Gateway) -> bool:
    assert process_exists(gateway.process.pid), gateway.process.stderr.text
    return any('"GatewayStarted"' in line for line in gateway.process.stdout.all)


def test_destinations_begin_side_by_side(rude: Rude) -> None:
    rows = "".join(f'      - {{ name: rude{n}, destination_arn: "rude:slow/{n}" }}\n' for n in range(8))
    gateway = rude(listener("slow").rsplit("      - {", 1)[0] + rows, start=False)
    gateway.spawn()
    first, last = gateway.event("ListenerStarted")["Time"], gateway.event("GatewayStarted")["Time"]
    # One after the other they would take 16 s.
    assert seconds(last) - seconds(first) < 10


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.partition("T")[2].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_of_several_failures_the_first_in_the_file_is_reported(rude: Rude) -> None:
    # The later one fails first.
    waits = {"one": 0.7, "two": 0}
    rows = "".join(f'      - {{ name: {n}, destination_arn: "rude:bad/{s}" }}\n' for n, s in waits.items())
    gateway = rude(listener("slow").rsplit("      - {", 1)[0] + rows, start=False)
    process = gateway.spawn()
    assert process.wait() == 4
    assert "the Destination one failed to begin (ValueError: no luck with one)" in process.stderr.text
    assert "no luck with two" not in process.stderr.text


MANY = 400


def many(port: int, destination: str = "") -> str:
    return "listeners:\n" + "".join(
        f"  - {{ name: many{n}, bind: '127.{1 + n // 200}.0.{1 + n % 200}:{port}'{destination} }}\n"
        for n in range(MANY)
    )


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_a_stop_does_not_wait_for_a_reload(pause: float, rude: Rude) -> None:
    before, after = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    gateway = rude(many(before))
    text = gateway.file.read_text()
    gateway.file.write_text(text.replace(f":{before}'", f":{after}'"))
    gateway.process.signal(signal.SIGHUP)
    time.sleep(pause)  # so that the stop meets several steps of the reload; each is right
    # A stop that takes longer than 10 s ends with another status.
    assert stopped(gateway.process) == 0, gateway.process.stderr.text
    assert "Traceback" not in gateway.process.stderr.text
    assert '"GatewayStopped"' in gateway.process.stdout.all[-1]


def test_a_stop_does_not_wait_for_a_destination_that_a_reload_waits_for(rude: Rude) -> None:
    gateway = rude(listener("none"))
    text = gateway.file.read_text()
    gateway.file.write_text(text.replace("rude:none", "rude:slow").replace("name: rude,", "name: other,"))
    gateway.process.signal(signal.SIGHUP)
    until((gateway.directory / "blocked").exists, "the reload waits")
    status = stopped(gateway.process)
    assert status == 0
    assert "was not taken over, what ran before runs on" in gateway.process.stderr.text
