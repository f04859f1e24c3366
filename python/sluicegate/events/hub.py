"""Live subscribers of the event log: each has its own filter and its own bounded queue.

Theory of operation. The event log writes to the hub from any thread. With nobody listening that costs one comparison.
Otherwise a line is parsed once and offered to each subscription whose filter takes it. Events of single packets do not
come this way: each subscription watches the native side itself (`live.py`) and `put`s what it gets there. A queue that
is full costs the newest lines; they are counted, and the stream says how many are missing once its reader goes on.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import orjson

from sluicegate.events.filter import Filter
from sluicegate.events.times import iso_milliseconds

QUEUE_BYTES = 1 << 20


class Subscription:
    """One live stream, read by one task of the loop in which it was made. `close` it when nobody reads any more."""

    def __init__(
        self,
        wanted: Filter,
        *,
        limit_bytes: int = QUEUE_BYTES,
        on_close: Callable[["Subscription"], None] = lambda ended: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.filter = wanted
        self._limit = limit_bytes
        self._on_close = on_close
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._dropped = 0
        self._missing = 0
        self._ended = False
        self._woken = False

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        return self._ended

    @property
    def missing(self) -> int:
        """Lines that did not fit, since the start."""
        return self._missing

    def put(self, lines: bytes) -> int:
        """Take whole lines; how many of them did not fit. From any thread."""
        with self._lock:
            if self._ended:
                return 0
            if self._bytes + len(lines) > self._limit:
                missing = lines.count(b"\n")
                self._dropped += missing
                self._missing += missing
                return missing
            self._chunks.append(lines)
            self._bytes += len(lines)
            self._wake()
        return 0

    async def read(self, seconds: float) -> bytes | None:
        """The lines since the last call, waiting at most `seconds` for some (then b""); None at the end."""
        if not self._ready.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), seconds)
        with self._lock:
            lines = b"".join(self._chunks)
            if self._dropped:
                gap = {
                    "Time": iso_milliseconds(self._clock()),
                    "Event": "EventsDropped",
                    "Suppressed": self._dropped,
                }
                lines += orjson.dumps(gap, option=orjson.OPT_APPEND_NEWLINE)
            self._chunks.clear()
            self._bytes = self._dropped = 0
            if not self._ended:
                self._woken = False
                self._ready.clear()
            return None if self._ended and not lines else lines

    def end(self) -> None:
        """Nothing more will come: what is queued can still be read."""
        with self._lock:
            self._ended = True
            self._wake()

    def close(self) -> None:
        """Nobody reads any more. Safe to call twice."""
        self.end()
        self._on_close(self)

    def _wake(self) -> None:
        if self._woken:
            return
        self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is whoever read
            self._loop.call_soon_threadsafe(self._ready.set)


class Hub:
    """The sink that feeds subscriptions."""

    name = "live"

    def __init__(self) -> None:
        # Replaced as a whole, so that `write` needs no lock.
        self._subscriptions: frozenset[Subscription] = frozenset()
        self.dropped = 0

    @property
    def subscriptions(self) -> frozenset[Subscription]:
        return self._subscriptions

    def add(self, subscription: Subscription) -> None:
        """Offer it every line from now on. In the event loop, as `remove`."""
        self._subscriptions |= {subscription}

    def remove(self, subscription: Subscription) -> None:
        self._subscriptions -= {subscription}

    def write(self, line: bytes) -> None:
        subscriptions = self._subscriptions
        if not subscriptions:
            return
        event = orjson.loads(line)
        for subscription in subscriptions:
            if subscription.filter.takes(event):
                self.dropped += subscription.put(line)

    def close(self, seconds: float) -> None:
        for subscription in self._subscriptions:
            subscription.end()
