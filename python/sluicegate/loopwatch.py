"""Notices that the event loop does not turn, and says who holds it.

Theory of operation. Everything in the gateway that is not the data plane shares one event loop. Code that blocks in
it (`time.sleep`, a client without `await`) holds everybody up, and the loop itself cannot say so. So a thread asks the
loop once a second to set a flag. If that takes longer than `BLOCKED_SECONDS`, the thread looks at what the loop does
now: the task that runs, and the lines of code that it is in. Code that never lets go of the interpreter's lock (an
extension in C) holds up this thread too, and is not noticed.
"""

import asyncio
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

LOOK_SECONDS = 1.0
BLOCKED_SECONDS = 2.0
REPORT_SECONDS = 10.0
"""Seconds from one report to the next, of the same block or of another."""
_RESUMED_SECONDS = 0.3  # after a stop of the whole process (SIGSTOP), threads come back one after the other

_OURS = str(Path(__file__).parent)
_STANDARD = sysconfig.get_paths()["stdlib"]


@dataclass(frozen=True, slots=True)
class Doing:
    """What the loop's thread does. `place` is `deliver (/path/of.py:12)`, a person's way to it."""

    place: str = "unknown"
    task: str = ""
    names: dict[str, str] = field(default_factory=dict)
    """Names of resources as events have them: Listener, Destination, PacketSource."""

    def __str__(self) -> str:
        return f"{self.task} in {self.place}" if self.task else self.place


class LoopWatch:
    """Watches the running event loop from `start` to `stop`. `report(seconds, doing)` is called from a thread."""

    def __init__(
        self,
        report: Callable[[float, Doing], None],
        *,
        look: float = LOOK_SECONDS,
        blocked: float = BLOCKED_SECONDS,
        pause: float = REPORT_SECONDS,
    ) -> None:
        self._report = report
        self._look, self._blocked, self._pause = look, blocked, pause
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._reported: float | None = None

    def start(self) -> None:
        """Begin, in the thread of the running loop."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        threading.Thread(target=self._watch, name="loop watch", daemon=True).start()

    def stop(self) -> None:
        """End; the thread does so within a moment."""
        self._ended.set()

    def doing(self) -> Doing:
        """What the loop's thread does right now. From any thread."""
        frame = sys._current_frames().get(self._thread)
        if frame is None or self._loop is None:
            return Doing()
        task = None
        with suppress(RuntimeError, KeyError):
            task = asyncio.current_task(self._loop)
        name = task.get_name() if task is not None else ""
        return Doing(_place(frame), name, _names(name))

    def _watch(self) -> None:
        assert self._loop is not None  # noqa: S101  (set by `start`)
        while not self._ended.wait(self._look):
            turned, begun = threading.Event(), time.monotonic()
            try:
                self._loop.call_soon_threadsafe(turned.set)
            except RuntimeError:
                return  # the loop is closed
            while not turned.wait(self._blocked) and not turned.wait(_RESUMED_SECONDS):
                now = time.monotonic()
                if self._ended.is_set():
                    return
                if self._reported is None or now - self._reported >= self._pause:
                    self._reported = now
                    self._report(now - begun, self.doing())


def _names(task: str) -> dict[str, str]:
    """The resources that a task's name has: `deliver LISTENER/DESTINATION`, `provision …`, `source PACKETSOURCE`."""
    kind, _, rest = task.partition(" ")
    if kind in ("deliver", "provision") and "/" in rest:
        return dict(zip(("Listener", "Destination"), rest.split("/", 1), strict=True))
    return {"PacketSource": rest} if kind == "source" else {}


def _place(frame: FrameType | None) -> str:
    """Where a thread is: the line at which our code called somebody else's, and the innermost one if that is another.

    The standard library's own lines are left out as far as there are others: nobody looks for the fault there.
    """
    inner: list[FrameType] = []  # from the innermost one outwards, until it is ours
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        inner.append(frame)
        frame = frame.f_back
    others = [one for one in inner if not _is_standard(one)]
    if frame is None and not others:
        return "the event loop itself"
    if not others:
        assert frame is not None  # noqa: S101
        return _line(frame)
    entry, last = _line(others[-1]), _line(others[0])
    return entry if entry == last else f"{entry}, which is at {last}"


def _is_standard(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith("<") or (name.startswith(_STANDARD) and "-packages" not in name)


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
