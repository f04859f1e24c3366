"""A Delivery with a fake native queue: an eventfd that is readable while there is something to read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from sluicegate.backoff import Backoff
from sluicegate.destinations import Destination, DestinationContext
from sluicegate.destinations.base import PacketBatch
from sluicegate.destinations.delivery import Delivery
from sluicegate.events import EventLog, MemorySink
from sluicegate.testing import destination_context


class Batch:
    """A batch whose packets do not matter."""

    def __init__(self, name: str, count: int = 10) -> None:
        self.name = name
        self.count = count

    def body(self) -> bytes:
        return b'{"Messages":[]}'

    def records(self) -> list[bytes]:
        return []

    def lines(self) -> bytes:
        return b""


class Reader:
    """Level triggered like the real one: readable while batches wait, for good once the Port is closed."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.queue: list[PacketBatch] = []
        self.port_closed = False
        self.reads: list[int] = []

    def on_ready(self, callback: Callable[[], object] | None, /) -> None:
        loop = asyncio.get_running_loop()
        if callback is None:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, callback)

    def put(self, *batches: PacketBatch) -> None:
        self.queue += batches
        os.eventfd_write(self._fd, 1)

    def close_port(self) -> None:
        self.port_closed = True
        os.eventfd_write(self._fd, 1)

    def read(self, limit: int) -> list[PacketBatch]:
        self.reads.append(limit)
        taken, self.queue = self.queue[:limit], self.queue[limit:]
        if not self.queue and not self.port_closed:
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)
        return list(taken)

    @property
    def closed(self) -> bool:
        return self.port_closed and not self.queue


Deliver = Callable[[Any], Awaitable[bytes | None]]


class Scripted(Destination):
    def __init__(self, deliver: Deliver, concurrency: int = 1) -> None:
        super().__init__("echo", destination_context())
        self._deliver = deliver
        self._concurrency = concurrency

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        raise NotImplementedError

    async def provision(self) -> None: ...

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        return await self._deliver(batch)

    async def close(self) -> None: ...

    @property
    def concurrency(self) -> int:
        return self._concurrency


class Rig:
    """A Delivery with everything around it."""

    def __init__(self, deliver: Deliver, concurrency: int = 1, attempts: int = 3) -> None:
        self.reader = Reader()
        self.sink = MemorySink()
        self.events = EventLog(self.sink)
        self.replies: list[tuple[str, bytes]] = []
        self.pauses: list[float] = []
        self.delivered: list[tuple[int, str]] = []
        self.delivery = Delivery(
            Scripted(deliver, concurrency),
            self.reader,
            listener="decoder",
            events=self.events,
            reply=self.reply,
            on_delivered=lambda packets, request_id: self.delivered.append((packets, request_id)),
            attempts=attempts,
            pauses=Backoff(1.0, 3.0, chance=lambda: 0.0),
            sleep=self.sleep,
        )
        self.delivery.start()

    @property
    def seen(self) -> list[dict[str, Any]]:
        """The events so far."""
        return self.sink.events

    async def reply(self, request_id: str, body: bytes) -> None:
        self.replies.append((request_id, body))

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def finish(self, seconds: float = 10.0) -> None:
        """Close the Port and drain."""
        self.reader.close_port()
        await self.delivery.drain(seconds)


async def settle() -> None:
    """Let everything that can run, run; time does not pass."""
    for _ in range(20):
        await asyncio.sleep(0)


async def nothing(batch: Any) -> bytes | None:
    return None


def balance(rig: Rig) -> tuple[int, int]:
    stats = rig.delivery.stats
    assert sum(stats.failed_by_reason.values()) == stats.packets_failed
    return stats.packets_delivered, stats.packets_failed
