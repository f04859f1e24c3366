"""Whether the data plane still answers: what `/healthz` shows, whoever asks and however often."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice

from sluicegate.running.listener import RunningListener
from sluicegate.threads import Threads

PULSE_SECONDS = 1.0
"""Seconds between two questions."""
ANSWER_SECONDS = 5.0
"""Seconds within which the data plane has to answer."""


class Pulse:
    """Asks the data plane once a second, through one Listener, and keeps the answer. Belongs to the event loop."""

    def __init__(self, *, pause: float = PULSE_SECONDS, limit: float = ANSWER_SECONDS) -> None:
        self.alive = True
        """False from a question that found no answer until one that finds it."""
        self._pause = pause
        self._limit = limit

    async def run(self, listeners: Callable[[], Sequence[RunningListener]]) -> None:
        """Ask until cancelled. `listeners` are those that run; without one nothing is asked."""
        thread = Threads("pulse")  # of its own: a question without an answer never ends
        try:
            while True:
                for running in islice(listeners(), 1):
                    self.alive = await self._ask(thread, running)
                await asyncio.sleep(self._pause)
        finally:
            thread.close()

    async def _ask(self, thread: Threads, running: RunningListener) -> bool:
        try:
            async with asyncio.timeout(self._limit):
                await thread.call(running.port.stats)
        except (RuntimeError, TimeoutError):
            return False
        return True
