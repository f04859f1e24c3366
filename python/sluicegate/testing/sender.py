"""What takes messages from a MessageSource, made by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sluicegate.deadletters.failures import Failure
from sluicegate.egress.message import EgressClosed, EgressFull, Message, Outcome

Ended = Callable[[Outcome], None]


@dataclass(slots=True, eq=False)
class _Held:
    message: Message
    ended: Ended | None


class MemorySender:
    """A `Sender` that holds up to `room` messages until `end` ends them, the oldest first.

    >>> from sluicegate.testing import MemorySender
    >>> sender = MemorySender()
    >>> sender.full
    False
    """

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.taken: list[Message] = []
        """Every message that was taken, in order."""
        self.given_back: list[str] = []
        """MessageIds that their source keeps for another time."""
        self.congested = False
        self._held: deque[_Held] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._written = asyncio.Event()
        self._written.set()
        self._closed = False

    @property
    def held(self) -> list[str]:
        """MessageIds of those that have not ended."""
        return [one.message.message_id for one in self._held]

    def end(self, *reasons: str, entries: int = 1, duplicates: int = 0) -> Outcome:
        """End the oldest message: an entry fails for each of `reasons`, so many are duplicates, the others are sent. A
        refused message fails for the reason of its refusal."""
        one = self._held.popleft()
        failures = [Failure(index, reason, "made by a test") for index, reason in enumerate(reasons)]
        if one.message.refusal is not None:
            failures, duplicates = [Failure(None, *one.message.refusal)], 0
        entries = max(entries, duplicates + len(failures))
        sent = entries - duplicates - len(failures)
        outcome = Outcome(one.message.message_id, entries, sent, duplicates, failures)
        if one.ended is not None:
            one.ended(outcome)
        if self._waiting and len(self._held) < self.room:
            self._waiting.popleft().set_result(None)
        return outcome

    def delay_letters(self) -> None:
        """From now on dead letters wait, until `write_letters`."""
        self._written.clear()

    def write_letters(self) -> None:
        """Dead letters are written."""
        self._written.set()

    def close(self) -> None:
        """The gateway stops: whoever waits gets `EgressClosed`."""
        self._closed = True
        self._written.set()
        for waiter in self._waiting:
            waiter.cancel()
        for one in self._held:
            if isinstance(one.ended, _Future):
                one.ended.fail()
        self._held.clear()

    # Sender

    @property
    def full(self) -> bool:
        return self._closed or bool(self._waiting) or len(self._held) >= self.room

    def try_submit(
        self,
        messages: Sequence[Message],
        ended: Ended | None = None,
        gone: Callable[[], object] | None = None,
    ) -> int:
        fits = [] if self.full else list(messages)[: self.room - len(self._held)]
        for message in fits:
            self._take(message, ended)
        return len(fits)

    def submit_later(self, message: Message, ended: Ended | None = None) -> None:
        self._take(message, ended)

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        if self._closed:
            raise EgressClosed("the sender was closed")
        if self.full:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            try:
                async with asyncio.timeout(room_seconds):
                    await room
            except TimeoutError:
                raise EgressFull("no room") from None
            except asyncio.CancelledError:
                if self._closed:
                    raise EgressClosed("the sender was closed") from None
                raise
            finally:
                if room in self._waiting:
                    self._waiting.remove(room)
        future = _Future()
        self._take(message, future)
        return await future.outcome

    def send_now(self, message: Message) -> asyncio.Future[Outcome] | None:
        if self.full:
            return None
        future = _Future()
        self._take(message, future)
        return future.outcome

    def settled(self, source: int) -> bool:
        return self._written.is_set()

    async def settle(self, source: int) -> None:
        await self._written.wait()
        if self._closed:
            raise EgressClosed("the sender was closed")

    def give_back(self, source: int, message_ids: Iterable[str]) -> None:
        self.given_back += message_ids

    def _take(self, message: Message, ended: Ended | None) -> None:
        self.taken.append(message)
        self._held.append(_Held(message, ended))


class _Future:
    """Somebody awaits the outcome."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def __call__(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def fail(self) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(EgressClosed("the sender was closed"))
