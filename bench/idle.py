"""An idle gateway: `sluicegate dev` with its echo function, API and SNS endpoint, and nobody who asks for anything."""

import time
from collections.abc import Iterator

from .gateway import Gateway
from .plan import Plan
from .processes import scratch
from .results import Row, yes_or_no

DESTINATION = """\
      - name: echo
        destination_arn: function:handlers/echo.py:handler
        batching: { count: 100, timeout_in_seconds: 0.1 }
"""
CPU_GOAL, MEMORY_GOAL = 1.0, 80.0


def run(plan: Plan) -> Iterator[Row]:
    with scratch() as directory, Gateway(directory, DESTINATION, "dev") as gateway:
        time.sleep(1.0)
        before, start = gateway.cpu_seconds(), time.monotonic()
        time.sleep(plan.idle_seconds)
        used = (gateway.cpu_seconds() - before) / (time.monotonic() - start) * 100
        memory = gateway.memory()
    own = memory.pop(gateway.pid) / (1 << 20)
    everything = own + sum(memory.values()) / (1 << 20)
    yield Row(
        "idle CPU, with its worker", used, " %", goal=f"<= {CPU_GOAL:g} %", met=yes_or_no(used <= CPU_GOAL)
    )
    yield Row(
        "idle memory (RSS), gateway",
        own,
        " MB",
        goal=f"<= {MEMORY_GOAL:g} MB",
        met=yes_or_no(own <= MEMORY_GOAL),
    )
    yield Row(f"idle memory (RSS), with {len(memory)} processes of its worker", everything, " MB")
