"""SIGINT, SIGTERM and SIGHUP, taken in a thread of their own: a stop has a deadline, whatever the event loop does.

Theory of operation. Python calls signal handlers in the main thread, between two steps of its code. While that thread
is held up in somebody's code, nothing would happen. But the kernel's call of the handler writes the signal's number to
a descriptor at once (`signal.set_wakeup_fd`), and a thread reads it there. It asks the event loop to stop, and waits.
When the time is over it reports what is lost and ends the process.

Code that never lets go of the interpreter's lock holds up that thread too. If it looks for signals at least (a regular
expression does), Python's own handler has set the kernel's timer, and SIGALRM ends the process.
"""

import asyncio
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from sluicegate.cli.errors import Exit

STOP_SECONDS = 10.0
"""Seconds that a stop takes at most, from the first signal to the end of the process."""
FORCE_SECONDS = 9.3
"""Seconds until a stop is ended by force; what is left is for saying so."""

_hung_up = False


def await_reload() -> None:
    """Keep a SIGHUP that comes before there is anything to reload: its default would end the process."""

    def note(number: int, frame: FrameType | None) -> None:
        global _hung_up
        _hung_up = True

    signal.signal(signal.SIGHUP, note)


class Signals:
    """Takes the signals from here to the end of the process. Made in the event loop, in the main thread.

    `stop` and `hang_up` are called in the loop. `late` is called in a thread when the stop has taken too long.
    """

    def __init__(
        self, stop: Callable[[], None], hang_up: Callable[[], None], late: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._hang_up, self._late = stop, hang_up, late
        self._deadline: float | None = None
        self._ended = False
        self._first = 0
        self._handled: list[int] = []
        self._numbers, write = os.pipe()
        os.set_blocking(write, False)
        # From uvloop's descriptor: its loop takes no signals any more.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._in_main_thread)
        threading.Thread(target=self._take, name="signals", daemon=True).start()
        if _hung_up:
            hang_up()

    @property
    def left(self) -> float:
        """Seconds of a stop that are left until it is ended by force; at most those of a whole one."""
        return FORCE_SECONDS if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def end(self) -> None:
        """Everything is done: what still runs at the deadline is worth no word."""
        self._ended = True

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            return
        self._handled.append(number)
        if len(self._handled) == 1:
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
        else:
            # Of two that wait, Python handles the lower number first. The descriptor has them in their order.
            os._exit(128 + next((one for one in self._handled if one != self._first), number))

    def _take(self) -> None:
        while True:
            ready, _, _ = select.select([self._numbers], [], [], self.left if self._deadline else None)
            if not ready:
                self._force()
            for number in os.read(self._numbers, 64):
                self._take_one(number)

    def _take_one(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._in_loop(self._hang_up)
        elif number in (signal.SIGINT, signal.SIGTERM):
            if self._deadline is not None:
                # Handlers' workers end with this process (PR_SET_PDEATHSIG), and the state is always consistent.
                os._exit(128 + number)
            self._first, self._deadline = number, time.monotonic() + FORCE_SECONDS
            self._in_loop(self._stop)
            say(f"stopping within {STOP_SECONDS:.0f} s; once more to stop at once")

    def _in_loop(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call)

    def _force(self) -> None:
        if self._ended:
            os._exit(Exit.OK)
        try:
            self._late()
        finally:
            os._exit(Exit.FORCED)


def say(text: str) -> None:
    """A line on standard error, which does not wait for its reader."""
    print(text, file=sys.stderr, flush=True)
