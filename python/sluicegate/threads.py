"""Calls that block, in threads which nobody waits for at exit.

Not `asyncio.to_thread`: its threads are shared with everyone, and the interpreter waits for them when it ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A thread for each call, at most `limit` at a time. Calls are rare: none is kept."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._free = asyncio.Semaphore(limit)

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function()`, or its exception. Cancelling does not stop a call that has begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # T may be None itself

        def work() -> None:
            result, failed = None, None
            try:
                result = function()
            except Exception as error:
                failed = error
            try:
                loop.call_soon_threadsafe(finish, result, failed)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        async with self._free:
            threading.Thread(target=work, name=self._name, daemon=True).start()
            return await future
