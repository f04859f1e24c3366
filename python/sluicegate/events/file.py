"""Event lines in a file that stays small: `events.log`, and what came before it in `events.log.1` … `.N`, newest first.

The file is rotated before the line that would make it larger than `rotate_bytes`; of the old ones `keep` remain. A file
that somebody else moved or deleted (logrotate) is opened anew. Nothing here ever stops the gateway: while the disk is
full or the directory is gone, the write is retried once a second, the queue fills, and what does not fit into it is
counted and told by an `EventsDropped` line afterwards.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from sluicegate.events.queued import QueuedSink
from sluicegate.linefile import is_at, line_start, open_lines, rotated
from sluicegate.regular import require_appendable

log = structlog.get_logger("sluicegate.events")

RETRY_SECONDS = 1.0


class FileSink(QueuedSink):
    """Appends event lines to `path`. Raises `OSError` when the file cannot be opened at first.

    `rotate_bytes` bounds each file (one longer line still gets a file of its own), `keep` the number of old ones,
    `limit_bytes` what waits in memory. Missing directories are made.
    """

    def __init__(
        self,
        path: Path,
        *,
        rotate_bytes: int = 64 << 20,
        keep: int = 5,
        limit_bytes: int = 4 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__("file", limit_bytes=limit_bytes, clock=clock)
        self.path = path
        self._rotate = rotate_bytes
        self._keep = keep
        # Of the thread, once it runs:
        self._fd: int | None = None
        self._size = 0
        # The last write stopped inside a line: its rest belongs into the same file.
        self._torn = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        self._start()

    def close(self, seconds: float) -> None:
        super().close(seconds)
        if not self._thread.is_alive():
            self._close_file()

    # In the thread

    def _write_all(self, chunk: bytes) -> bool:
        failed = False
        while chunk:
            try:
                chunk = chunk[self._append(chunk) :]
            except OSError as error:
                # Not broken for good: disks are cleaned up and mounts come back.
                if not failed:
                    log.error(
                        "events cannot be written; trying again", file=str(self.path), error=error.strerror
                    )
                failed = True
                if self._closing.wait(RETRY_SECONDS):
                    return False
        return True

    def _append(self, chunk: bytes) -> int:
        """Write a beginning of `chunk`; its length."""
        fd = self._current()
        if not self._torn:
            if self._size and self._size + chunk.index(b"\n") + 1 > self._rotate:
                fd = self._rotate_files()
            end = chunk.rfind(b"\n", 0, max(0, self._rotate - self._size)) + 1
            chunk = chunk[: end or chunk.index(b"\n") + 1]
        else:
            chunk = chunk[: chunk.index(b"\n") + 1]
        written = os.write(fd, chunk)
        self._size += written
        self._torn = not chunk[:written].endswith(b"\n")
        return written

    def _current(self) -> int:
        """The open file, as long as the path still leads to it."""
        if self._fd is None:
            return self._open()
        if self._torn:
            return self._fd
        if is_at(self.path, self._fd):
            return self._fd
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self._open()

    def _open(self) -> int:
        self._close_file()
        require_appendable(self.path)
        fd = open_lines(self.path, 0o640, devices=True)
        self._fd, self._torn = fd, False
        self._size = os.fstat(fd).st_size
        if start := line_start(fd, self._size):
            self._size += os.write(fd, start)
        return fd

    def _rotate_files(self) -> int:
        rotated(self.path, self._keep)
        return self._open()

    def _close_file(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)
