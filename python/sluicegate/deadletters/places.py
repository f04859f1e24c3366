"""Where the dead letters of every PacketSource go, while PacketSources come and go.

A queue is shared by all who name its ARN: it is started for the first of them and closed after the last.
"""

import asyncio
from pathlib import Path

from sluicegate.aws import Aws
from sluicegate.deadletters.letter import DeadLetterFile, DeadLetterPlace
from sluicegate.deadletters.queue import DeadLetterQueue
from sluicegate.events import EventLog
from sluicegate.localcode import LocalCode

END_SECONDS = 10.0
"""How long a queue that nobody names any more may send what waits for it."""


class DeadLetterPlaces:
    """Belongs to the event loop. `close` it after the Listeners and before `aws`."""

    def __init__(self, aws: Aws, events: EventLog) -> None:
        self._aws = aws
        self._events = events
        self.by_source: dict[str, DeadLetterPlace] = {}
        self._queues: dict[str, DeadLetterQueue] = {}
        self._ending: dict[asyncio.Task[None], DeadLetterQueue] = {}

    @property
    def queues(self) -> list[DeadLetterQueue]:
        """Those that somebody names."""
        return list(self._queues.values())

    def find(
        self, arn: str | None, base_dir: Path, local_code: LocalCode | None = None
    ) -> DeadLetterPlace | None:
        """The place that `dead_letter_queue_arn` names; nothing is kept there before `use`.

        A file is opened once, so that a path which cannot be written is found early (`OSError`); a queue may come and
        go. Raises `Outside` for a file outside of `local_code`.
        """
        scheme, _, path = (arn or "").partition(":")
        if arn and scheme == "arn":
            return DeadLetterQueue(arn, self._aws, self._events)
        if scheme != "file":
            return None
        if local_code is None:
            file = DeadLetterFile(base_dir / path)
        else:
            file = DeadLetterFile(local_code.writable(base_dir / path), links=False)
        try:
            file.append([], settles=False)
        except OSError as error:
            error.filename = file.name
            raise
        return file

    def use(self, source: str, place: DeadLetterPlace | None) -> None:
        """The dead letters of this PacketSource go there from now on. `tidy` once all of a change have been told."""
        if isinstance(place, DeadLetterQueue):
            if place.name not in self._queues:
                self._queues[place.name] = place
                place.start()
            place = self._queues[place.name]
        if place is None:
            self.by_source.pop(source, None)
        else:
            self.by_source[source] = place

    def tidy(self) -> None:
        """Close, in the background, the queues that nobody names any more."""
        used = {place.name for place in self.by_source.values()} if self._queues else set()
        for arn in [arn for arn in self._queues if arn not in used]:
            queue = self._queues.pop(arn)
            task = asyncio.create_task(queue.close(END_SECONDS), name=f"end dead letters {arn}")
            self._ending[task] = queue
            task.add_done_callback(self._ending.pop)

    async def close(self, seconds: float) -> None:
        """Send what waits, for at most `seconds`; what is left is reported. Safe to call twice."""
        ending = list(self._ending)
        queues = [*self._queues.values(), *self._ending.values()]
        await asyncio.gather(*(queue.close(seconds) for queue in queues))
        await asyncio.gather(*ending)
