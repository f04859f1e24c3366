"""Workers' standard output and error, line by line into the log.

Theory of operation. A pipe is read at once and always, so that a handler never blocks on its own prints. What comes
from it is split into as many lines as still have room; the rest is thrown away as it comes, counted and not looked at.
The lines wait in the stream's own queue. All streams of an event loop take turns: `TURN_LINES` lines leave at a time,
one of each stream after the other, and then the loop goes on with something else. So handlers that print without end
hold nobody up, cost the same however much they print, and do not drown the lines of another one.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

LINE_LIMIT = 4096  # bytes; what is longer goes on in the next line
LINES_PER_SECOND = 1000  # of one stream
BYTES_PER_SECOND = 256 * 1024  # of one stream; also the most that waits
TURN_LINES = 10
TURN_SECONDS = 0.005  # for so many lines: 2,000 a second of all streams together
_LAST_BYTES = 300  # of what is thrown away, the end is kept: it may say why a worker ended

# The runtime joins the lines of an error with \r, so that CloudWatch shows one event.
_BREAK = re.compile(rb"[\r\n]+")

_NOTE = re.compile(rb"\([0-9]+ more lines with [0-9]+ bytes within a second are not shown\)")

LogLine = Callable[[str, str, str], None]
"""`(stream, request id, line)`; stream is `stdout` or `stderr`."""


class OutputForwarder(asyncio.Protocol):
    """Protocol of the read end of one pipe. `closed` is done once it has ended and its lines are in the log.

    `request_id` tells to which invocation a line belongs that comes now.
    """

    def __init__(self, stream: str, log_line: LogLine, request_id: Callable[[], str]) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._stream = stream
        self._log_line = log_line
        self._request_id = request_id
        self._turns = _turns.setdefault(self._loop, _Turns())
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._rest = b""
        self._last = b""
        self._second = 0
        self._lines = self._bytes = 0  # taken in this second
        self._dropped = self._dropped_bytes = 0
        self._ended = False

    @property
    def last_line(self) -> str:
        """The last line that said something."""
        return _text(self._last)

    def data_received(self, data: bytes) -> None:
        self._begin_second()
        room = LINES_PER_SECOND - max(self._lines, len(self._waiting))
        if room <= 0 or self._bytes >= BYTES_PER_SECOND:
            return self._throw_away(data)
        taken = max(0, BYTES_PER_SECOND - self._bytes)
        now, later = data[:taken], data[taken:]
        *lines, rest = _BREAK.split(self._rest + now, maxsplit=room)
        self._rest = b""
        for line in lines:
            self._take(line)
        if len(lines) == room:
            # What is left may have many lines more.
            later, rest = rest + later, b""
        while len(rest) > LINE_LIMIT:
            self._take(rest[:LINE_LIMIT])
            rest = rest[LINE_LIMIT:]
        self._rest = rest
        if later:
            self._throw_away(later)

    def connection_lost(self, exc: Exception | None) -> None:
        self._take(self._rest)
        self._rest = b""
        self._note_dropped()
        self._ended = True
        self._end_if_empty()

    def give_up(self) -> None:
        """Throw away what waits, but for a note of it: the log is too slow to wait for."""
        kept = deque((request_id, line) for request_id, line in self._waiting if _NOTE.fullmatch(line))
        for _, line in self._waiting:
            self._drop(*((0, 0) if _NOTE.fullmatch(line) else (1, len(line))))
        self._waiting = kept
        self._note_dropped()

    def forward(self) -> bool:
        """Log the line that waits first; False if none waits after it."""
        if self._waiting:
            request_id, line = self._waiting.popleft()
            self._log_line(self._stream, request_id, _text(line))
        self._end_if_empty()
        return bool(self._waiting)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        if len(line) > LINE_LIMIT:
            line = line[: LINE_LIMIT - 3] + "…".encode()
        self._last = line
        self._lines += 1
        self._bytes += len(line)
        self._append(line)

    def _throw_away(self, data: bytes) -> None:
        """Count the lines that end in `data`; the last one goes on."""
        cut = data.rfind(b"\n") + 1
        size = len(self._rest) + len(data)
        self._rest = ((b"" if cut else self._rest) + data[cut:][-LINE_LIMIT:])[-LINE_LIMIT:]
        self._drop(data.count(b"\n"), size - len(self._rest))
        self._last = data[-_LAST_BYTES:].rstrip().rpartition(b"\n")[2] or self._last

    def _drop(self, lines: int, size: int) -> None:
        self._dropped += lines
        self._dropped_bytes += size

    def _begin_second(self) -> None:
        second = int(self._loop.time())
        if second != self._second:
            self._note_dropped()
            self._second, self._lines, self._bytes = second, 0, 0

    def _note_dropped(self) -> None:
        if self._dropped_bytes:
            note = (
                f"({self._dropped} more lines with {self._dropped_bytes} bytes within a second are not shown)"
            )
            self._dropped = self._dropped_bytes = 0
            self._append(note.encode())

    def _append(self, line: bytes) -> None:
        self._waiting.append((self._request_id(), line))
        if len(self._waiting) == 1:
            self._turns.join(self)

    def _end_if_empty(self) -> None:
        if self._ended and not self._waiting and not self.closed.done():
            self.closed.set_result(None)


class _Turns:
    """The streams of an event loop that have lines, each a line at a time."""

    def __init__(self) -> None:
        self._streams: deque[OutputForwarder] = deque()
        self._next = 0.0
        self._called = False

    def join(self, stream: OutputForwarder) -> None:
        """`stream` has a line, and had none."""
        if stream not in self._streams:
            self._streams.append(stream)
        self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._next, loop.time()), self._turn)

    def _turn(self) -> None:
        self._called = False
        count = 0
        while self._streams and count < TURN_LINES:
            stream = self._streams.popleft()
            count += 1
            if stream.forward():
                self._streams.append(stream)
        self._next = asyncio.get_running_loop().time() + TURN_SECONDS * count / TURN_LINES
        if self._streams:
            self._call()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


def _text(line: bytes) -> str:
    """A handler prints what strangers sent: no control character of theirs reaches a terminal."""
    text = line.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t\u00a0" else "\ufffd" for c in text)
