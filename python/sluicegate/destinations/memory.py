"""A Destination in memory, for tests of programs that use Sluicegate: what came in can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import orjson

from sluicegate.destinations.base import (
    Arguments,
    Destination,
    DestinationContext,
    DestinationError,
    PacketBatch,
)

Answer = Callable[[dict[str, Any]], Any]
"""Gets `{"Messages": [...]}`, returns `{"Replies": [...]}` or None, like a Lambda handler; may raise
`DeliveryError`.
"""


class MemoryDestination(Destination):
    """Keeps every packet in `packets` (dicts, contract section 2) and answers with `answer` if any."""

    usage = "memory:"

    def __init__(
        self, name: str, context: DestinationContext, answer: Answer | None = None, concurrency: int = 1
    ) -> None:
        super().__init__(name, context)
        self.packets: list[dict[str, Any]] = []
        self.batches = 0
        self._answer = answer
        self._concurrency = concurrency

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        reader = Arguments(arguments, f"destination {name}")
        concurrency = reader.integer("Concurrency", 1, 1, 1000)
        reader.finish()
        if target:
            raise DestinationError(
                f"destination {name}: memory: takes nothing after the colon", "write memory:"
            )
        return cls(name, context, concurrency=concurrency)

    async def provision(self) -> None:
        return

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        document: dict[str, Any] = orjson.loads(batch.body())
        answer = self._answer(document) if self._answer else None
        self.batches += 1
        self.packets.extend(document["Messages"])
        return None if answer is None else orjson.dumps(answer)

    async def close(self) -> None:
        return

    @property
    def concurrency(self) -> int:
        return self._concurrency
