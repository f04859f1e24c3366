"""A worker's standard output and error, line by line into the log.

The pipe is read at once and always, so that a handler never blocks on its own prints; what is too much is cut
or counted instead: lines have a length limit, and a worker has a budget of lines per second.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

LINE_LIMIT = 4096  # bytes; what is longer goes on in the next line
LINES_PER_SECOND = 1000

# The runtime joins the lines of an error with \r, so that CloudWatch shows one event.
_BREAK = re.compile(rb"[\r\n]+")

LogLine = Callable[[str, str], None]
"""`(stream, line)`; stream is `stdout` or `stderr`."""


class OutputForwarder(asyncio.Protocol):
    """Protocol of the read end of one pipe. `closed` is done at its end; `last_line` is the last that said
    something.
    """

    def __init__(self, stream: str, log_line: LogLine) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.last_line = ""
        self._stream = stream
        self._log_line = log_line
        self._rest = b""
        self._second = 0
        self._lines = 0
        self._dropped = 0

    def data_received(self, data: bytes) -> None:
        *lines, rest = _BREAK.split(self._rest + data)
        while len(rest) > LINE_LIMIT:
            lines.append(rest[:LINE_LIMIT])
            rest = rest[LINE_LIMIT:]
        self._rest = rest
        for line in lines:
            self._forward(line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forward(self._rest)
        self._rest = b""
        self._report_dropped()
        if not self.closed.done():
            self.closed.set_result(None)

    def _forward(self, line: bytes) -> None:
        if not line.strip():
            return
        second = int(self._loop.time())
        if second != self._second:
            self._report_dropped()
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._dropped += 1
            return
        if len(line) > LINE_LIMIT:
            line = line[: LINE_LIMIT - 3] + "…".encode()
        text = line.decode("utf-8", "replace")
        # A handler prints what strangers sent: no control character of theirs reaches a terminal.
        self.last_line = "".join(c if c.isprintable() or c in "\t\u00a0" else "\ufffd" for c in text)
        self._log_line(self._stream, self.last_line)

    def _report_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._log_line(self._stream, f"({dropped} more lines within a second are not shown)")
