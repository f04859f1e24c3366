"""Where event lines go. A sink never blocks its caller and never raises: what it cannot take, it counts."""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import orjson

from sluicegate.events.times import iso_milliseconds


class Sink(Protocol):
    """Takes event lines. `write` is called from the event loop and from threads: it returns at once."""

    @property
    def name(self) -> str:
        """Label of this sink in metrics."""

    @property
    def dropped(self) -> int:
        """Lines that this sink could not keep, since it was made."""

    def write(self, line: bytes) -> None:
        """Take one line, with its newline."""

    def close(self, seconds: float) -> None:
        """Write out what is queued, for at most `seconds`. Lines after that are dropped and counted."""


class MemorySink:
    """Keeps the last `limit` events for tests; `events` holds them parsed, oldest first."""

    name = "memory"

    def __init__(self, limit: int = 100_000) -> None:
        self._lines: deque[bytes] = deque(maxlen=limit)
        self.dropped = 0

    def write(self, line: bytes) -> None:
        if len(self._lines) == self._lines.maxlen:
            self.dropped += 1
        self._lines.append(line)

    def close(self, seconds: float) -> None:
        """Nothing to write out: the events stay readable."""

    @property
    def lines(self) -> list[bytes]:
        """The lines as written."""
        return list(self._lines)

    @property
    def events(self) -> list[dict[str, object]]:
        """The lines, parsed."""
        return [orjson.loads(line) for line in self._lines]

    def named(self, event: str) -> list[dict[str, object]]:
        """The events of one kind."""
        return [entry for entry in self.events if entry["Event"] == event]


class StreamSink:
    """Writes lines to a file descriptor from a thread of its own, through a queue of at most `limit_bytes`.

    A reader that is slow, stopped or gone costs lines, never time: when the queue is full the newest line is
    dropped and counted, and once the reader moves again one `EventsDropped` line says how many are missing.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        limit_bytes: int = 4 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fd = fd
        self.name = name
        self._limit = limit_bytes
        self._clock = clock
        # Guarded by _wake: everything down to _closing.
        self._wake = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._dropped = 0
        self._reported = 0
        self._closing = False
        self._broken = False
        # A daemon: a reader that never reads again must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"events-{name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped

    def write(self, line: bytes) -> None:
        with self._wake:
            if self._closing or self._broken or self._queued + len(line) > self._limit:
                self._dropped += 1
                return
            self._queue.append(line)
            self._queued += len(line)
            self._wake.notify()

    def close(self, seconds: float) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(seconds)
        with self._wake:
            self._dropped += len(self._queue)
            self._queue.clear()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing and self._dropped == self._reported:
                    self._wake.wait()
                if not self._queue and self._dropped == self._reported:
                    return
                # The bytes stay counted until they are written, so that the limit bounds all that is held.
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

    def _write_all(self, chunk: bytes) -> bool:
        """False when nobody will ever read this descriptor again."""
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Somebody else made the shared descriptor non-blocking: wait for room here, in this thread.
                with contextlib.suppress(OSError, ValueError):
                    select.select([], [self._fd], [], 1.0)
            except OSError:
                return False
        return True


class StandardOutputSink(StreamSink):
    """Event lines on standard output."""

    def __init__(self, fd: int = 1) -> None:
        super().__init__(fd, "stdout")
