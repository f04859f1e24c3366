"""A Destination in memory, for tests: what has come in can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import orjson

from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
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
    """Keeps each packet that it takes in `packets` (dicts, contract section 2); `answer`, if any, answers a batch.

        >>> import asyncio
        >>> from sluicegate import MemoryDestination
        >>> from sluicegate.testing import destination_context, packet_batch
        >>> def echo(batch):
        ...     return {"Replies": [{"Tag": packet["Tag"], "Data": packet["Data"]} for packet in batch["Messages"]]}
        >>> memory = MemoryDestination("memory", destination_context(), echo)
        >>> asyncio.run(memory.deliver(packet_batch("hello")))
        b'{"Replies":[{"Tag":"tag-hello","Data":"hello"}]}'
        >>> [packet["Data"] for packet in memory.packets]
        ['hello']

    When `answer` raises a `DeliveryError`, the packets that failed are not kept.
    """

    usage = "memory:"

    def __init__(
        self, name: str, context: DestinationContext, answer: Answer | None = None, concurrency: int = 1
    ) -> None:
        super().__init__(name, context)
        self.packets: list[dict[str, Any]] = []
        self.batches = 0
        self.answer = answer
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
        packets = document["Messages"]
        try:
            answer = self.answer(document) if self.answer else None
        except DeliveryError as error:
            if error.packets is not None:
                self.packets += [packet for n, packet in enumerate(packets) if n not in error.packets]
            raise
        self.batches += 1
        self.packets += packets
        return None if answer is None else orjson.dumps(answer)

    async def close(self) -> None:
        return

    @property
    def concurrency(self) -> int:
        return self._concurrency
