"""A bound on how often one kind of thing is said, with nothing lost without a count.

Of each kind, at most `limit` are admitted in one second of the clock. Those beyond it are counted. When the second is
over, the owner is told once for each kind how many they were.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Suppressed(Generic[T]):
    about: T
    count: int


class Limiter(Generic[T]):
    """Counts for its owner, whose lock guards every call.

    `tell(about, count, now)` gets one summary: `about` is that of the first one that was suppressed. `flush` is called
    from a timer's thread when a second with suppressed ones is over: it takes the owner's lock and calls `summarize`.
    Times are Unix seconds of the owner's clock.
    """

    def __init__(
        self, limit: int, tell: Callable[[T, int, float], object], flush: Callable[[], object]
    ) -> None:
        self._limit = limit
        self._tell = tell
        self._flush = flush
        self._second = 0
        self._in_second: dict[Hashable, int] = {}
        self._suppressed: dict[Hashable, _Suppressed[T]] = {}
        self._timer: threading.Timer | None = None

    def admit(self, kind: Hashable, about: T, now: float, count: int = 1) -> int:
        """How many of `count` may be said; the others are counted."""
        if int(now) != self._second:
            self.summarize(now)
            self._second = int(now)
            self._in_second.clear()
        seen = self._in_second.get(kind, 0)
        admitted = min(count, self._limit - seen)
        self._in_second[kind] = seen + admitted
        if admitted < count:
            self._suppress(kind, about, now, count - admitted)
        return admitted

    def summarize(self, now: float) -> None:
        """Tell what was suppressed so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        suppressed, self._suppressed = self._suppressed, {}
        for one in suppressed.values():
            self._tell(one.about, one.count, now)

    def _suppress(self, kind: Hashable, about: T, now: float, count: int) -> None:
        known = self._suppressed.get(kind)
        if known is not None:
            known.count += count
            return
        self._suppressed[kind] = _Suppressed(about, count)
        if self._timer is None:
            # The summary must come even when nothing happens any more: one timer per second, only while
            # suppressing.
            self._timer = threading.Timer(self._second + 1.01 - now, self._flush)
            self._timer.daemon = True
            self._timer.start()
