"""How much memory a worker and all that it has started hold, read from `/proc`.

What counts is what a process alone fills and nobody can take from it: anonymous and shared memory that is resident.
Files that are mapped do not count, as the kernel can drop them, nor do stacks and arenas that were never touched. The
worker's own peak counts too, so that what comes and goes between two looks is seen.

A page that several processes share (after a `fork`) is counted once. The kernel says so only in `smaps_rollup`, which
takes milliseconds: it is read when a cheap look has found too much.
"""

from pathlib import Path

from sluicegate.functions._keeper_main import below

LOOK_SECONDS = 0.1
"""Between two looks while a batch runs."""


class Memory:
    """Of the worker `worker`, which is the child of `keeper`. All sizes are bytes. No method raises."""

    def __init__(self, keeper: int, worker: int, limit: int) -> None:
        self.limit = limit
        self._keeper = keeper
        self._worker = worker
        self._mapped = 0
        self._pids: set[int] = set()

    def look(self) -> int:
        """An upper bound, in some 0.1 ms for each process. It is what `exact` would say if there is but one."""
        self._pids = below(self._keeper) or {self._worker}
        return max(self._peak(), sum(_resident(_status(pid)) for pid in self._pids))

    def exact(self) -> int:
        """With shared pages counted once, for the processes of the last look. Takes a millisecond for each 30 MB."""
        if len(self._pids) < 2:
            return self.look()
        return max(self._peak(), sum(map(_proportional, self._pids)))

    def _peak(self) -> int:
        status = _status(self._worker)
        self._mapped = max(self._mapped, status.get("RssFile", 0))
        return max(0, status.get("VmHWM", 0) - self._mapped)


def _resident(status: dict[str, int]) -> int:
    return status.get("RssAnon", 0) + status.get("RssShmem", 0)


def _status(pid: int) -> dict[str, int]:
    return _sizes(Path(f"/proc/{pid}/status"))


def _proportional(pid: int) -> int:
    sizes = _sizes(Path(f"/proc/{pid}/smaps_rollup"))
    if "Pss_Anon" in sizes:
        return sizes["Pss_Anon"] + sizes.get("Pss_Shmem", 0)
    return sizes.get("Pss", _resident(_status(pid)))  # Linux before 5.2


def _sizes(path: Path) -> dict[str, int]:
    """The lines `NAME: SIZE kB`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}  # it has ended
    found = (line.split() for line in lines if line.endswith(b" kB"))
    return {words[0][:-1].decode(): int(words[1]) << 10 for words in found}
