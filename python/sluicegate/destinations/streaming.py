"""Replies that a service writes one after the other: each is sent as soon as it has come (contract section 3).

A Destination makes a `ReplyStream` in `deliver`, feeds it with what comes, and returns None. So do the Destinations for
local functions and for Lambda's streaming API.
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.destinations.base import EarlyAnswers, early_answers
from sluicegate.destinations.framing import Framing, Malformed

TOLD = 3
"""Malformed documents of one stream that get an event of their own; the others are told by their number."""


class ReplyStream:
    """The replies of one delivery. `look` sees each document before it is sent."""

    def __init__(
        self, look: Callable[[bytes], object] = lambda document: None, answers: EarlyAnswers | None = None
    ) -> None:
        """`answers` takes the replies; without it, those of the current task's delivery."""
        self._look = look
        self._answers = answers or early_answers.get()
        self.wanted = self._answers is not None
        """False where nobody takes early answers. Then do not stream: return the answer as a whole."""
        self._framing: Framing | None = None  # most deliveries stream nothing
        self._malformed = 0
        self.documents = 0
        """Documents handed on so far."""

    async def feed(self, piece: bytes) -> None:
        """Send what the next piece completes. Waits while the gateway can send no more: read no further meanwhile."""
        self._framing = self._framing or Framing()
        for found in self._framing.feed(piece):
            if isinstance(found, Malformed):
                self._tell(found)
            else:
                self._look(found)
                self.documents += 1
                if self._answers is not None:
                    await self._answers.send(found)

    def end(self, *, complete: bool = True) -> None:
        """Nothing more comes. `complete` is false where the delivery failed: then a document may lack its end."""
        left = self._framing.end() if self._framing is not None and complete else []
        for found in left:
            if isinstance(found, Malformed):
                self._tell(found)
        if self._malformed > TOLD and self._answers is not None:
            self._answers.malformed(
                f"{self._malformed - TOLD} more places of the streamed answer are no replies"
            )

    def _tell(self, found: Malformed) -> None:
        self._malformed += 1
        if self._malformed <= TOLD and self._answers is not None:
            self._answers.malformed(f"byte {found.offset} of the streamed answer: {found.detail}")
