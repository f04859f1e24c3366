"""Destinations that can begin a delivery at once, and tell its end by a call: small batches cost no task then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from sluicegate.destinations.base import Destination, EarlyAnswers, PacketBatch

Outcome = bytes | Exception
"""What `Destination.deliver` returns, or raises."""


class UnderWay(Protocol):
    """A delivery that has begun."""

    def cancel(self) -> object:
        """Give it up: its end is told no more, where it is not a task."""


class PromptDestination(Destination):
    """A Destination that need not be awaited where it has room."""

    @abstractmethod
    def begin(
        self,
        batch: PacketBatch,
        request_id: str,
        answers: EarlyAnswers,
        ended: Callable[[Outcome], object],
    ) -> UnderWay | None:
        """Deliver one batch as `deliver` does, in the event loop's present callback. None where that cannot be, and
        `deliver` is to be called.

        `ended` is called once, later and from the event loop, with the answer or the failure.
        """
