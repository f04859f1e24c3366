"""How many messages of a PacketSource may be fetched, shared by the polls of all its queues."""

import asyncio
from collections import deque
from collections.abc import Callable


class Room:
    """Each poll takes a `share`, so many messages as it asks for, before it goes out, and gives it back once what it
    brought is counted by `free`: the messages that may come, polls under way left aside. First come, first served.

    Whoever makes `free` grow calls `look`.
    """

    def __init__(self, free: Callable[[], int], share: int) -> None:
        self.share = share
        self._free = free
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def open(self) -> bool:
        """True if `take` would not wait."""
        return not self._waiting and self._fits()

    async def take(self) -> None:
        """Wait for a share."""
        if self.open:
            self._taken += self.share
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:
                self.give()  # it came in the same turn of the loop
            raise

    def give(self) -> None:
        """Give a share back."""
        self._taken -= self.share
        self.look()

    def look(self) -> None:
        """Let in those who wait, as far as there is room."""
        while self._waiting and self._fits():
            turn = self._waiting[0]
            if turn.done():  # its poll was cancelled a moment ago, and removes it
                return
            self._waiting.popleft()
            self._taken += self.share
            turn.set_result(None)

    def _fits(self) -> bool:
        return self._free() - self._taken >= self.share
