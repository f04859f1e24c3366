"""The new Destinations of a change begin side by side, because each may wait: a function for its first worker, a
service for its connection. Sources begin one after the other, as several may share a queue on AWS.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

from sluicegate.running.change import Change
from sluicegate.running.listener import DestinationPlace

AT_ONCE = max(4, os.cpu_count() or 1)
"""Destinations that begin at the same time: with more, workers that start would only take the processor from each
other."""


async def provision_all(changes: Sequence[Change], undo: AsyncExitStack) -> None:
    """Provision what is new in `changes`; `undo` closes it again. Raises `Refused`.

    Of several that are refused, the first one in the order of the documents is reported, as if they had begun one after
    the other. What comes after it is cancelled.
    """
    room = asyncio.Semaphore(AT_ONCE)
    tasks = [
        asyncio.create_task(
            _begin(room, change, index, place, undo),
            name=f"provision {change.running.name}/{place.resource.name}",
        )
        for change in changes
        for index, place in change.new_destinations()
    ]
    try:
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for change in changes:
        await change.provision_sources(undo)


async def _begin(
    room: asyncio.Semaphore, change: Change, index: int, place: DestinationPlace, undo: AsyncExitStack
) -> None:
    async with room:
        await change.provision_destination(index, place, undo)
