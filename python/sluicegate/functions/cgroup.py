"""A control group of the kernel for each worker, where the gateway may make some (cgroup v2, delegated to it).

Example: a systemd unit with `Delegate=yes`. The gateway finds itself in `…/sluicegate.service`, goes into
`…/sluicegate.service/gateway` and makes `…/sluicegate.service/worker-PID-1` for its first worker.

Theory of operation. What a worker starts stays in its group, whatever it does about sessions and parents. The kernel
kills all of a group at once (`cgroup.kill`), and where the controller `memory` is delegated too it holds the group to
`memory.max` and kills it beyond. A group that hands controllers to those below it may have no process itself: so the
gateway moves. Nothing is done in a group that has other processes, or that is not marked as delegated: it belongs to
somebody else. See https://docs.kernel.org/admin-guide/cgroup-v2.html and systemd's CGROUP_DELEGATION.
"""

import asyncio
import itertools
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

_MARKS = ("user.delegate", "trusted.delegate")  # systemd writes them
REMOVALS, REMOVAL_SECONDS = 50, 0.02  # attempts, and the pause after each
_numbers = itertools.count(1)


class Group:
    """The group in `folder`. No method raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def kill(self) -> None:
        """SIGKILL for all of its processes, and for what they are starting."""
        with suppress(OSError):
            (self.folder / "cgroup.kill").write_text("1")

    def out_of_memory(self) -> int | None:
        """The most bytes that it has held, if the kernel has killed one of its processes for want of memory."""
        try:
            events = dict(line.split() for line in (self.folder / "memory.events").read_text().splitlines())
            if not int(events.get("oom_kill", 0)):
                return None
            with suppress(FileNotFoundError):  # Linux before 5.19
                return int((self.folder / "memory.peak").read_text())
            return int((self.folder / "memory.max").read_text())
        except (OSError, ValueError):
            return None

    async def remove(self) -> None:
        """Its processes are to end; they may need a moment. Does nothing if it is not there any more."""
        for _ in range(REMOVALS):
            try:
                return self.folder.rmdir()
            except FileNotFoundError:
                return None
            except OSError:
                await asyncio.sleep(REMOVAL_SECONDS)


def make(limit: int) -> Group | None:
    """A group for one worker, which may hold `limit` bytes (0: any number); None where none may be made."""
    base = delegated()
    if base is None:
        return None
    folder = base / f"worker-{os.getpid()}-{next(_numbers)}"
    try:
        folder.mkdir()
    except OSError:
        return None
    for name, value in (
        (("memory.max", limit), ("memory.swap.max", 0), ("memory.oom.group", 1)) if limit else ()
    ):
        # Not there without the controller: the gateway looks for itself (memory.py).
        with suppress(OSError):
            (folder / name).write_text(str(value))
    return Group(folder)


@cache
def delegated() -> Path | None:
    """The folder in which groups may be made. Moves this process into one of them, where that is needed."""
    try:
        folder = _own()
        return folder if folder is not None and _may_divide(folder) and _divide(folder) else None
    except (OSError, ValueError):
        return None


def _own() -> Path | None:
    """The folder of this process's group."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), None)
    for line in Path("/proc/self/mountinfo").read_text().splitlines() if group is not None else ():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            root, place = before.split()[3:5]
            return Path(place) / Path(str(group)).relative_to(root)
    return None


def _may_divide(folder: Path) -> bool:
    """Is it ours alone, and given to us? The root of a cgroup namespace (a container) is, if it may be written at
    all; the machine's own root has no type."""
    if (folder / "cgroup.type").read_text().strip() != "domain":
        return False
    if (folder / "cgroup.procs").read_text().split() != [str(os.getpid())]:
        return False
    if any(not os.access(folder / name, os.W_OK) for name in (".", "cgroup.procs", "cgroup.subtree_control")):
        return False
    return "0::/" in Path("/proc/self/cgroup").read_text().splitlines() or any(
        _mark(folder, one) for one in _MARKS
    )


def _mark(folder: Path, name: str) -> bool:
    with suppress(OSError):
        return os.getxattr(folder, name) == b"1"
    return False


def _divide(folder: Path) -> bool:
    """Hand the controller `memory` to the groups below, if there is one."""
    if "memory" in (folder / "cgroup.controllers").read_text().split():
        own = folder / "gateway"
        own.mkdir(exist_ok=True)
        (own / "cgroup.procs").write_text(str(os.getpid()))
        (folder / "cgroup.subtree_control").write_text("+memory")
    return True
