"""How much a run does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` alternate between the system and its baselines; `seconds` is the length of a load, `packets` that of a
    burst, `publishes` the number of single messages whose way is timed."""

    rounds: int = 5
    seconds: float = 2.0
    packets: int = 300_000
    publishes: int = 400
    idle_seconds: float = 20.0
    sizes: tuple[int, ...] = (64, 512, 1200)
    remotes: tuple[int, ...] = (1_000, 100_000)
    listeners: tuple[int, ...] = (100, 1_000)
    cycles: int = 3_000


FULL = Plan()
QUICK = Plan(
    rounds=1,
    seconds=0.5,
    packets=20_000,
    publishes=30,
    idle_seconds=2.0,
    sizes=(64,),
    remotes=(1_000,),
    listeners=(100,),
    cycles=100,
)
"""Shows that every benchmark still runs; its numbers mean nothing."""
