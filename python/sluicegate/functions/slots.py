"""A semaphore that can also be taken without a wait, at the price of a comparison."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """So many may hold one at the same time; who waits gets one in order."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take one now; false where none is free, or somebody waits."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def release(self) -> None:
        """Give one back: to the first who waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)  # it has the slot from here on
                return
        self._free += 1

    async def __aenter__(self) -> None:
        if self.take():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # it came in the same turn
            raise

    async def __aexit__(self, *_: object) -> None:
        self.release()
