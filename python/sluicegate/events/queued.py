"""A sink with a queue and a thread of its own: the caller never waits for the medium.

Theory of operation. `write` puts a line into a queue of at most `limit_bytes`; a full queue costs the newest line, and
that is counted. The thread takes everything that is queued as one chunk and hands it to `_write_all`, which may block.
What it holds stays counted in the queue's bytes until it is written, so that the limit bounds all that is held. Once
lines were dropped, the next chunk ends with an `EventsDropped` that says how many.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import orjson

from sluicegate.events.times import iso_milliseconds


class QueuedSink(ABC):
    """Base of the sinks that write to something slow. Implements `Sink`; subclasses write, in the sink's thread.

    Call `_start` at the end of the subclass's `__init__`.
    """

    def __init__(self, name: str, *, limit_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._limit = limit_bytes
        self._clock = clock
        self._closing = threading.Event()
        # Guarded by _wake: everything down to _broken.
        self._wake = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._dropped = 0
        self._reported = 0
        self._broken = False
        # A daemon: a reader that never reads again must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"events-{name}", daemon=True)

    @abstractmethod
    def _write_all(self, chunk: bytes) -> bool:
        """Write whole lines; may block. False: they are lost, and so is everything after them."""

    def _start(self) -> None:
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written, since the start."""
        return self._dropped

    def write(self, line: bytes) -> None:
        with self._wake:
            if self._closing.is_set() or self._broken or self._queued + len(line) > self._limit:
                self._dropped += 1
                return
            self._queue.append(line)
            self._queued += len(line)
            self._wake.notify()

    def close(self, seconds: float) -> None:
        with self._wake:
            self._closing.set()
            self._wake.notify()
        self._thread.join(seconds)
        with self._wake:
            self._dropped += len(self._queue)
            self._queue.clear()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing.is_set() and self._dropped == self._reported:
                    self._wake.wait()
                if not self._queue and self._dropped == self._reported:
                    return
                chunk = b"".join(self._queue)
                lines, held = len(self._queue), len(chunk)
                self._queue.clear()
                missing = self._dropped - self._reported
                self._reported = self._dropped
            if missing:
                chunk += self._gap(missing)
            written = self._write_all(chunk)
            with self._wake:
                self._queued -= held
                if not written:
                    self._broken = True
                    self._dropped += lines + len(self._queue)
                    self._queue.clear()
                    return

    def _gap(self, missing: int) -> bytes:
        entry = {"Time": iso_milliseconds(self._clock()), "Event": "EventsDropped", "Suppressed": missing}
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
