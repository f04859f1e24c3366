"""Calls that can only block, in daemon threads of their owner: a slow disk holds up its own Destination alone.

`asyncio.to_thread` does not do here. Its threads are shared, so that a few stuck calls would starve everybody else, and
the interpreter waits for them at exit. Nobody waits for these: a terminal that nobody reads does not keep the gateway
alive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """Runs blocking calls in at most `limit` threads; with one thread, in the order in which the calls came.

        >>> import asyncio, time
        >>> from sluicegate import Threads
        >>> async def main():
        ...     threads = Threads("slow disk")
        ...     await threads.call(lambda: time.sleep(0.001))
        ...     threads.close()
        >>> asyncio.run(main())

    A thread starts when a call finds all others busy, and stays until `close`. To be used from one event loop.
    """

    def __init__(self, name: str, limit: int = 1) -> None:
        self._name = name
        self._limit = limit
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._unfinished = 0

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function()`, or its exception.

        Cancelling the caller takes back a call that has not begun; one that has begun goes on unseen.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: Exception | None) -> None:
            self._unfinished -= 1
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # T may be None itself

        def work() -> None:
            result, failed = None, None
            if not future.cancelled():
                try:
                    result = function()
                except Exception as error:
                    failed = error
            try:
                loop.call_soon_threadsafe(finish, result, failed)
            except RuntimeError:
                return  # the loop is closed: the gateway has ended, and nobody waits any more

        self._unfinished += 1
        self._calls.put(work)
        if self._started < min(self._limit, self._unfinished):
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._started += 1
        return await future

    def close(self) -> None:
        """End the threads after the calls that wait, without waiting for them. A later call starts a new thread."""
        for _ in range(self._started):
            self._calls.put(None)
        self._started = 0

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
