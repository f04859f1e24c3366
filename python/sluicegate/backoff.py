"""How long to wait before something that failed is tried again."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first` to `longest` seconds, each shortened by up to half at random, so that what failed
    together does not come back together. `chance` gives numbers in [0, 1)."""

    first: float = 0.5
    longest: float = 30.0
    chance: Callable[[], float] = random.random

    def pause(self, failures: int) -> float:
        """Seconds after so many failures in a row (from 1 on)."""
        doubled = self.first * 2.0 ** min(failures - 1, 32)
        return min(self.longest, doubled) * (0.5 + self.chance() / 2)

    def spread(self, seconds: float) -> float:
        """`seconds`, or up to a tenth more at random, so that what began together does not go on together."""
        return seconds * (1 + self.chance() / 10)
