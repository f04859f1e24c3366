"""Where event lines go. A sink never blocks its caller and never raises: what it cannot take, it counts."""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import orjson

from sluicegate.events.queued import QueuedSink
from sluicegate.linefile import write_out


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


class StreamSink(QueuedSink):
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
        super().__init__(name, limit_bytes=limit_bytes, clock=clock)
        self._fd = fd
        self._start()

    def _write_all(self, chunk: bytes) -> bool:
        """False when nobody will ever read this descriptor again."""
        try:
            write_out(self._fd, chunk)
        except OSError:
            return False
        return True


class StandardOutputSink(StreamSink):
    """Event lines on standard output."""

    def __init__(self, fd: int = 1) -> None:
        super().__init__(fd, "stdout")
