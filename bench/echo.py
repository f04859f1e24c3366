"""Request → handler → reply at saturation: an echo through a `function:` handler, next to what a user would write.

The load keeps a bounded number of datagrams unanswered, so that a system is asked as fast as it answers; one without an
answer after a second is lost. Both systems have one core for all of their processes: gateway and workers here, asyncio
gateway and the process that stands in for Lambda there.
"""

import contextlib
import socket
from collections.abc import Iterator

from .gateway import Gateway, free_port
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, Process, baseline, module, scratch
from .results import Row, Sample, compare

SIZE, SOCKETS, WINDOW = 64, 64, 1_000
GOAL = 5.0
DESTINATION = """\
      - name: echo
        destination_arn: function:handlers/echo.py:handler
        batching: { count: 100, timeout_in_seconds: 0.02 }
        arguments: { Concurrency: 2 }
"""


def run(plan: Plan) -> Iterator[Row]:
    gateway, service, inside = [], [], []
    for _ in range(plan.rounds):
        gateway.append(measured_gateway(plan.seconds))
        service.append(_asyncio(plan.seconds, service=True))
        inside.append(_asyncio(plan.seconds, service=False))
    name = f"request, handler, reply, {SIZE} B"
    yield compare(name, gateway, "asyncio + boto3 invoke", service, GOAL)
    yield compare(name, gateway, "asyncio, handler inside", inside)


def measured_gateway(seconds: float) -> Sample:
    with scratch() as directory, Gateway(directory, DESTINATION) as gateway:
        return measured([gateway], gateway.port, seconds)


def _asyncio(seconds: float, *, service: bool) -> Sample:
    port, service_port = free_port(socket.SOCK_DGRAM), free_port()
    with contextlib.ExitStack() as stack:
        tested = []
        if service:
            tested.append(stack.enter_context(Process(module("lambda_service", service_port), TESTED_CORE)))
        url = f"http://127.0.0.1:{service_port}" if service else "-"
        tested.append(stack.enter_context(Process(module("asyncio_gateway", port, url), TESTED_CORE)))
        for process in tested:
            process.wait_ready()
        return measured(tested, port, seconds)


def measured(tested: list[Process], port: int, seconds: float) -> Sample:
    _load(port, min(0.5, seconds))  # workers start, connections open
    before = sum(process.cpu_seconds() for process in tested)
    found = _load(port, seconds)
    cpu = sum(process.cpu_seconds() for process in tested) - before
    answered = max(1, found["answered"])
    return Sample(found["in_time"] / seconds, found["lost"] / found["sent"], cpu / answered * 1e6)


def _load(port: int, seconds: float) -> dict[str, float]:
    with Process(baseline("echo", port, SIZE, seconds, SOCKETS, WINDOW), LOAD_CORE) as load:
        return load.result()
