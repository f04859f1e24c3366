"""Patience for what no future or descriptor announces (a file, a counter): one bound on hanging for all tests."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

HANG_SECONDS = 60.0
"""Never an expectation of speed."""


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` is true."""
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110  (what is waited for is the code's own state)
            await asyncio.sleep(0.001)


def wait_until(check: Callable[[], T], what: str) -> T:
    """The first true value of `check`, for tests without an event loop."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (value := check()):
        assert time.monotonic() < deadline, f"it did not happen that {what}"
        time.sleep(0.005)
    return value
