"""The journal of `Id`s that were sent (contract section 4.3): what makes a publisher's retry safe across a restart.

Append-only, one write for each turn of the event loop in which packets left, after sending and before anything is
acknowledged. The write goes to the kernel, not to the disk: it survives the end of this process, however it ends, and
not a power loss.

Two files, so that old Ids leave: a full or old `PATH` becomes `PATH.1`. Together they always hold at least the window.
One line is `[unix seconds, source, id]`; a line cut short by a crash is skipped.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson

from sluicegate.linefile import line_start, open_lines


class Journal:
    """Belongs to one gateway at a time (the state's lock sees to that). `seconds` and `limit` are the window's."""

    def __init__(
        self, path: Path, *, seconds: float, limit: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._older = path.with_name(path.name + ".1")
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._fd: int | None = None
        self._begun = 0.0
        self._lines = 0

    def recall(self) -> list[tuple[str, str, float]]:
        """`(source, id, seconds ago)` of what is still in the window, oldest first."""
        now = self._clock()
        recalled = []
        for file in (self._older, self.path):
            for at, source, entry_id in _read(file):
                # A clock that was set back must not lose Ids: the future counts as now.
                ago = max(0.0, now - at)
                if ago < self._seconds:
                    recalled.append((source, entry_id, ago))
        return recalled

    def append(self, ids: Sequence[tuple[str, str]]) -> None:
        """Keep `(source, id)` of entries that were sent just now. Raises `OSError` when it cannot be written."""
        if not ids:
            return
        now = self._clock()
        fd = self._open(now)
        at = round(now, 3)
        data = b"".join(orjson.dumps([at, source, entry_id]) + b"\n" for source, entry_id in ids)
        while data:
            data = data[os.write(fd, data) :]
        self._lines += len(ids)

    def close(self) -> None:
        """Safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self, now: float) -> int:
        if self._fd is not None and self._lines < self._limit and now - self._begun < self._seconds:
            return self._fd
        if self._fd is not None:
            self.close()
            self.path.replace(self._older)
        elif self.path.exists():
            # Of an earlier start: it ages from its first line on, and stays until it is full or old.
            lines = list(_read(self.path))
            self._lines, self._begun = len(lines), lines[0][0] if lines else now
            if self._lines >= self._limit or now - self._begun >= self._seconds:
                self.path.replace(self._older)
        self._fd = open_lines(self.path, 0o600)
        size = os.fstat(self._fd).st_size
        if size == 0:
            self._lines, self._begun = 0, now
        elif start := line_start(self._fd, size):
            os.write(self._fd, start)
        return self._fd


def _read(file: Path) -> Iterator[tuple[float, str, str]]:
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            at, source, entry_id = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(at, (int, float)) and isinstance(source, str) and isinstance(entry_id, str):
            yield float(at), source, entry_id
