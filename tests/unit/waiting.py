"""Patience for what no future announces."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (what is waited for is the code's own state)
            await asyncio.sleep(0.001)
