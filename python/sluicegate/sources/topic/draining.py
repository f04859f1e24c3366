"""Sends what waits in queues on AWS where nothing new comes from AWS (contract section 4.2).

For a PacketSource that is not declared any more, and for one whose messages come from elsewhere by now, such as from a
topic of the gateway's own.
"""

import asyncio

from sluicegate.model import PacketSource
from sluicegate.sources.base import MessageSource, SourceContext
from sluicegate.sources.topic.reader import QueueReader
from sluicegate.sources.topic.setting import SnsSetting


class DrainingSource(QueueReader):
    """The queues that a PacketSource has to empty, and `beside` them what takes its messages now, if anything does."""

    def __init__(
        self,
        setting: SnsSetting,
        resource: PacketSource,
        context: SourceContext,
        beside: MessageSource | None = None,
    ) -> None:
        super().__init__(setting, resource, context)
        self._beside = beside

    @property
    def subscription(self) -> str:  # type: ignore[override]  # a source of its own answers
        """That of the source beside."""
        return self._beside.subscription if self._beside is not None else "Subscribed"

    @property
    def subscription_problem(self) -> str:  # type: ignore[override]
        """That of the source beside."""
        return self._beside.subscription_problem if self._beside is not None else ""

    async def provision(self) -> None:
        """Both. Raises what the source beside raises."""
        await super().provision()
        if self._beside is not None:
            await self._beside.provision()

    async def run(self) -> None:
        """Both, until cancelled."""
        self._carrier.start()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.empty_leftovers())
                if self._beside is not None:
                    both.create_task(self._beside.run())
        finally:
            self.stop_polls()

    async def drain(self, seconds: float) -> None:
        """Both, side by side."""
        beside = self._beside.drain(seconds) if self._beside is not None else asyncio.sleep(0)
        await asyncio.gather(super().drain(seconds), beside)

    async def close(self) -> None:
        """Both."""
        await super().close()
        if self._beside is not None:
            await self._beside.close()
