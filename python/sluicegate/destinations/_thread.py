"""One thread for calls that can only block: a slow disk or terminal holds up its own Destination and nothing
else.

Not `asyncio.to_thread`: its threads are shared, so that a few stuck Destinations would starve the others, and
the interpreter waits for them at exit. This one is a daemon: a terminal that nobody reads does not keep the
gateway alive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class CallThread:
    """Runs calls one after the other, in the order in which they came. Starts with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function()`, or its exception. Cancelling does not stop a call that has begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

        def set_result(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def set_exception(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = function()
            except Exception as error:
                _hand_over(loop, set_exception, error)
            else:
                _hand_over(loop, set_result, result)

        self._calls.put(work)
        return await future

    def close(self) -> None:
        """End the thread after the calls that are waiting. Does not wait for it."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


def _hand_over(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], value: T) -> None:
    try:
        loop.call_soon_threadsafe(function, value)
    except RuntimeError:
        # The loop is closed: the gateway has ended while the call was stuck, and nobody waits any more.
        return
