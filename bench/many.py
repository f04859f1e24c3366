"""Many Listeners and PacketSources: what one more costs where there are a thousand. The baseline is the same with 100
Listeners, or with one PacketSource, in the same run."""

import statistics
from collections.abc import Iterator
from typing import Any

from .plan import Plan
from .processes import TESTED_CORE, Process, module, scratch
from .results import Row, median, yes_or_no

LISTENERS, FEW = 1000, 100
SOURCES = 1000
START_GOAL, ADD_GOAL, HOLD_GOAL, PUBLISH_GOAL = 3.0, 30.0, 10.0, 1.1


def run(plan: Plan) -> Iterator[Row]:
    rounds = min(plan.rounds, 3)
    pairs = [(_measure(LISTENERS, 0, plan), _measure(FEW, 0, plan)) for _ in range(rounds)]
    yield _start(pairs)
    for key, name, goal in (
        ("add_ms", "one more Listener by the API", ADD_GOAL),
        ("scrape_hold_ms", "/metrics: longest hold of the event loop", HOLD_GOAL),
        ("list_hold_ms", "GET /v1/listeners: longest hold of the event loop", HOLD_GOAL),
        ("reload_hold_ms", "reload of one value: longest hold of the event loop", HOLD_GOAL),
        ("reload_ms", "reload of one value", None),
    ):
        found = median([many[key] for many, _ in pairs])
        assert found is not None  # noqa: S101
        yield Row(
            f"{LISTENERS} Listeners, {name}",
            found,
            " ms",
            baseline=f"{FEW} Listeners",
            baseline_rate=median([few[key] for _, few in pairs]),
            goal="" if goal is None else f"<= {goal:g} ms",
            met="" if goal is None else yes_or_no(found <= goal),
        )
    many = [_measure(1, SOURCES, plan)["publish_us"] for _ in range(rounds)]
    one = [_measure(1, 1, plan)["publish_us"] for _ in range(rounds)]
    ratio = statistics.median(many) / statistics.median(one)
    yield Row(
        f"{SOURCES} PacketSources, a publish over REST (CPU of the event loop)",
        statistics.median(many),
        " us",
        baseline="1 PacketSource",
        baseline_rate=statistics.median(one),
        ratio=1 / ratio,
        goal=f"<= {PUBLISH_GOAL:g} times",
        met=yes_or_no(ratio <= PUBLISH_GOAL),
    )


def _start(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> Row:
    ratios = [many["start_cpu"] / few["start_cpu"] for many, few in pairs]
    return Row(
        f"{LISTENERS} Listeners on one port, start (CPU of the process)",
        median([many["start_cpu"] for many, _ in pairs]),
        " s",
        baseline=f"{FEW} Listeners",
        baseline_rate=median([few["start_cpu"] for _, few in pairs]),
        ratio=1 / statistics.median(ratios),
        goal=f"<= {START_GOAL:g} times",
        met=yes_or_no(statistics.median(ratios) <= START_GOAL),
    )


def _measure(listeners: int, sources: int, plan: Plan) -> dict[str, Any]:
    with scratch() as directory:
        command = module("manygateway", directory, listeners, sources, plan.publishes)
        with Process(command, TESTED_CORE) as gateway:
            return gateway.result()
