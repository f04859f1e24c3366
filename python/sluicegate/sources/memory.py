"""A MessageSource in memory, for tests of programs that use Sluicegate: a queue that is filled by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

from sluicegate.egress.message import Outcome
from sluicegate.sources.base import MessageSource, SourceContext


@dataclass(slots=True, eq=False)
class Published:
    """A message that was put into a `MemorySource`. `outcome` is None until it is acknowledged."""

    message_id: str
    body: bytes
    outcome: Outcome | None = None

    @property
    def acknowledged(self) -> bool:
        """True once each entry has ended and its failures are written: the queue may forget the message."""
        return self.outcome is not None


class MemorySource(MessageSource):
    """Takes what `publish` puts into it, in that order. For example, in a test of yours:

    >>> import asyncio
    >>> from sluicegate import MemorySource, SourceContext
    >>> from sluicegate.testing import MemorySender
    >>> async def main():
    ...     sender = MemorySender()
    ...     source = MemorySource("readings", SourceContext(sender))
    ...     running = asyncio.create_task(source.run())
    ...     published = source.publish(b'{"Data": "aGk=", "Tag": "..."}')
    ...     while not sender.held:
    ...         await asyncio.sleep(0)
    ...     early = published.acknowledged
    ...     _ = sender.end()
    ...     await source.drain(10)
    ...     _ = running.cancel()
    ...     await source.close()
    ...     return early, published.acknowledged
    >>> asyncio.run(main())
    (False, True)
    """

    def __init__(self, name: str, context: SourceContext) -> None:
        super().__init__(name, context)
        self._waiting: asyncio.Queue[Published] = asyncio.Queue()
        self._numbers = count(1)

    def publish(self, body: bytes, message_id: str | None = None) -> Published:
        """Put a message behind those that wait, also before `run`."""
        published = Published(message_id or f"{self.name}-{next(self._numbers)}", body)
        self._waiting.put_nowait(published)
        return published

    async def provision(self) -> None:
        return

    async def run(self) -> None:
        while True:
            published = await self._waiting.get()

            async def acknowledge(outcome: Outcome, published: Published = published) -> None:
                published.outcome = outcome

            await self.carry(published.message_id, published.body, acknowledge)
