"""WireGuard handshakes through real sockets, next to what X25519 alone costs.

Either role computes one public key and four shared secrets. The bound is the time of these with the library that the
gateway uses, in the same round on the same core, while the other core is busy likewise, as it is with the peers during
handshakes. The gateway's figure is the processor time of its whole process for each handshake, the kernel's part and
the first packet included. Rates are per second of that time: how fast handshakes follow each other is the matter of the
peers, which compute as much on the other core, and of the guard. Of peers that begin there are fewer than the 256 a
second from which on the guard asks for cookies.
"""

import os
import signal
import socket
from collections.abc import Iterator

from sluicegate import _native

from .gateway import free_port
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, BenchError, Process, example, module, scratch, settle
from .results import Row, Sample, compare, median
from .wgsealed import tunnels

BEGUN, ANSWERED = 1_000, 250
GOAL = 0.6
SHARED = 4
WITH_COOKIES = 1_024
"""Handshakes a second that the guard admits at most."""


def run(plan: Plan) -> Iterator[Row]:
    begins, answers, bound, rates, sizes = [], [], [], [], []
    for _ in range(plan.rounds):
        bound.append(_bound())
        with tunnels(BEGUN, 64, 1) as peers:
            rates.append(peers.begun["rate"])
            begins.append(_sample(peers.begun["cpu"]))
            sizes.append(peers.begun["memory"])
        answers.append(_sample(_answered(ANSWERED)))
    yield Row("handshakes that the gateway begins, all at once", median(rates))
    baseline = f"1 + {SHARED} X25519 alone"
    yield compare("handshakes that the gateway begins, a CPU second", begins, baseline, bound, GOAL)
    yield compare("handshakes that the gateway answers, a CPU second", answers, baseline, bound, GOAL)
    most = median([one.cpu * WITH_COOKIES / 1e4 for one in answers if one.cpu])
    yield Row("memory of a session, as allocated", median(sizes), " B")
    yield Row(f"the {WITH_COOKIES:,} a second that it answers at most, CPU", most, " %")


def _bound() -> Sample:
    command = example("x25519")
    with Process([*command, "1000"], LOAD_CORE), Process(command, TESTED_CORE) as process:
        found = process.result()
    return _sample(found["base"] + SHARED * found["shared"])


def _answered(peers: int) -> float:
    """Processor microseconds for each handshake that peers begin."""
    port, own_port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    private = _native.generate_private_key()
    with scratch() as directory:
        keys = directory / "keys"
        beginning = module("wgpeers", port, peers, _native.public_key(private), keys, own_port)
        with Process(beginning, LOAD_CORE) as others:
            others.wait_ready()
            with Process(module("wganswerer", own_port, private, keys), TESTED_CORE) as answerer:
                answerer.wait_ready()
                os.kill(others.pid, signal.SIGUSR1)
                if others.line() != "begun":
                    raise BenchError(f"the handshakes failed: {others.errors()}")
                settle()
                done = answerer.stop()
    if done["answered"] != peers or done["sessions"] != peers or done["cookies"]:
        raise BenchError(f"{peers} peers have begun, the gateway reports {done}")
    cpu: float = done["cpu_seconds"] / peers * 1e6
    return cpu


def _sample(cpu: float) -> Sample:
    return Sample(1e6 / cpu, cpu=cpu)
