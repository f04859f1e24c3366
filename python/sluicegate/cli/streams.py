"""Standard output and error of a gateway, and its log: nothing that writes to them waits for a reader.

Theory of operation. `sys.stdout` and `sys.stderr` are replaced by streams that put each text into a queue of 4 MiB or
1 MiB. A thread of each queue writes to the descriptor, and it alone waits while nobody reads. A full queue costs the
newest texts; they are counted, and the count is written once the reader goes on. So prints, the log, warnings, and the
tracebacks of threads take one path. Python's `logging` (uvicorn, asyncio, libraries) and structlog write to the same
stream. What one place of the code says is limited to 10 lines a second, because garbage from the network may be what
makes it speak. At exit, 1 s is left for what is queued.

A handler's output has a limit of its own (`functions/output.py`). The native side writes only when it would not wait.
"""

import atexit
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Hashable

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sluicegate.cli.errors import no_color
from sluicegate.events.limiter import Limiter
from sluicegate.events.sinks import Sink, StandardOutputSink, StreamSink
from sluicegate.events.times import iso_milliseconds

KIND_LIMIT = 10
"""Lines of the log a second, for each place of the code that writes them."""
QUEUE_BYTES = 1 << 20
CLOSE_SECONDS = 1.0
_PART_LIMIT = 1 << 16  # characters of an unfinished line that are kept back
_LIMITED_ELSEWHERE = frozenset(["function output"])


class Stream(io.TextIOBase):
    """A text stream whose `write` returns at once. Each thread's text goes to `sink` when a line of it is complete."""

    def __init__(self, sink: Sink, fd: int, encoding: str) -> None:
        self._sink = sink
        self._fd = fd
        self._encoding = encoding
        self._own = threading.local()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text is written here, not {type(text).__name__}")
        waiting = getattr(self._own, "text", "") + text
        end = len(waiting) if len(waiting) > _PART_LIMIT else waiting.rfind("\n") + 1
        self._put(waiting[:end])
        self._own.text = waiting[end:]
        return len(text)

    def flush(self) -> None:
        """Hand the unfinished line on. Does not wait until it is written."""
        self._put(getattr(self._own, "text", ""))
        self._own.text = ""

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def _put(self, text: str) -> None:
        if text:
            self._sink.write(text.encode(self._encoding, "backslashreplace"))


class _StandardErrorSink(StreamSink):
    """The log and other text for people."""

    def __init__(self) -> None:
        super().__init__(2, "stderr", limit_bytes=QUEUE_BYTES)

    def _gap(self, missing: int) -> bytes:
        return _line("warning", f"{missing} texts are missing here: nobody read standard error in time")


def take_over() -> StandardOutputSink:
    """Replace both streams until the process ends, and set the log up. Returns the queue of standard output."""
    _fill_gaps()
    output, error = StandardOutputSink(), _StandardErrorSink()
    for name, fd, sink in (("stdout", 1, output), ("stderr", 2, error)):
        atexit.register(sink.close, CLOSE_SECONDS)
        setattr(sys, name, Stream(sink, fd, getattr(getattr(sys, name), "encoding", "utf-8")))
    _configure_log()
    return output


def _fill_gaps() -> None:
    """A stream that was closed by who started us goes to /dev/null: its number would be that of the next file, such as
    the state, and events would be written into it."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is `fd`


def _configure_log() -> None:
    """The log: one line each on standard error, so that standard output carries events alone."""
    limit = _Limit()
    stamps: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and not no_color(),
        # The default shows local variables, and with them keys.
        exception_formatter=structlog.dev.plain_traceback,
    )
    structlog.configure(
        processors=[limit.of_ours, *stamps, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(limit.of_libraries)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamps, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Limit:
    """So many lines of one kind a second; a line with `Suppressed: n` stands for the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limiter = Limiter(KIND_LIMIT, self._tell, self._flush)

    def of_ours(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A processor of structlog: a kind is the event's text, which is constant."""
        said = str(event["event"])
        if said not in _LIMITED_ELSEWHERE and not self._admit(said, said):
            raise structlog.DropEvent
        return event

    def of_libraries(self, record: logging.LogRecord) -> bool:
        """A filter of `logging`: a kind is a place in the code and the exception's type, because texts may differ."""
        failed = record.exc_info[0] if record.exc_info else None
        kind = (record.name, record.levelno, record.pathname, record.lineno, failed)
        first = str(record.msg).strip().partition("\n")[0]
        return self._admit(kind, f"{first[:100]} [{record.name}]")

    def _admit(self, kind: Hashable, about: str) -> bool:
        with self._lock:
            return bool(self._limiter.admit(kind, about, time.time()))

    def _flush(self) -> None:
        with self._lock:
            self._limiter.summarize(time.time())

    def _tell(self, about: str, count: int, now: float) -> None:
        sys.stderr.write(_line("warning", f"{about} Suppressed: {count}").decode())


def _line(level: str, text: str) -> bytes:
    return f"{iso_milliseconds(time.time())} [{level:<9}] {text}\n".encode()
