"""A task whose service of AWS fails reports the outage now and then, and tries again later."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.faults import log_fault

REPORT_SECONDS = 60.0
"""Seconds between two reports while an outage lasts."""


class Outage:
    """Failures in a row of one task. `tell` gets reason and cause of those that are to be reported. `closing` is set
    when the gateway stops; pauses then end early."""

    def __init__(
        self,
        what: str,
        tell: Callable[[str, str], None],
        closing: asyncio.Event,
        backoff: Backoff | None,
        *,
        closing_seconds: float,
    ) -> None:
        self._what = what
        self._tell = tell
        self._closing = closing
        self._closing_seconds = closing_seconds
        self._backoff = backoff or Backoff()
        self._failures = 0
        self._told_at = float("-inf")

    def over(self) -> None:
        """Note that the service works: the next failure is reported at once."""
        self._failures, self._told_at = 0, float("-inf")

    def failed(self, error: Exception) -> None:
        """Report a failure. Anything but an `AwsError` is a fault of the gateway, and goes into its log."""
        if isinstance(error, AwsError):
            self.tell(reason(error), str(error))
        else:
            log_fault(
                structlog.get_logger("sluicegate.outage"),
                "a task goes on after a fault",
                error,
                of=self._what,
            )
            self.tell("InternalError", "a fault of the gateway, see its log")

    def tell(self, reason: str, cause: str) -> None:
        """Report a failure, at most once in `REPORT_SECONDS`."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= REPORT_SECONDS:
            self._told_at = now
            self._tell(reason, cause)

    async def pause(self) -> None:
        """Before the next attempt; longer after each failure."""
        self._failures += 1
        await self.wait(self._backoff.pause(self._failures))

    async def wait(self, seconds: float) -> None:
        """So long, but not for long while the gateway stops."""
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, self._closing_seconds))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def reason(error: AwsError) -> str:
    """The reason of an event, for an error that time or a policy may mend."""
    if error.denied:
        return "AccessDenied"
    if "NonExistentQueue" in error.code or "QueueDoesNotExist" in error.code:
        return "NoSuchQueue"
    return "Throttled" if error.throttled else "Unavailable"
