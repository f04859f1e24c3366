"""When a queue without subscription may be deleted (contract section 4.2).

SQS's counts are approximate, and what SNS delivers may arrive a while after the subscription has ended. So neither one
poll nor one count says that a queue is empty.
"""

import time

from sluicegate.aws import Aws
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.state import SourceQueue

QUIET_SECONDS = 60.0
"""For so long polls bring nothing and all counts are 0 before a queue is deleted."""


class Quiet:
    """Watches one queue. `counted` is what SQS counted last, held and delayed messages included; None before."""

    def __init__(self, aws: Aws, queue: SourceQueue) -> None:
        self.counted: int | None = None
        self._aws = aws
        self._queue = queue
        self._zero_since: float | None = None

    async def lasts(self, since: float) -> bool:
        """Count; true if all was 0 for long enough, and `since` (of `time.monotonic`) is as long ago. `AwsError`."""
        self.counted = await sns_queue.count(self._aws, self._queue)
        now = time.monotonic()
        if self.counted:
            self._zero_since = None
            return False
        if self._zero_since is None:
            self._zero_since = now
        return now - max(since, self._zero_since) >= QUIET_SECONDS
