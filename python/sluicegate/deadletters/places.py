"""Where the dead letters of every PacketSource go, while PacketSources come and go.

A queue is shared by all who name its ARN, a file by all who name its path: it is started for the first of them and
closed after the last.
"""

import asyncio
from pathlib import Path

from sluicegate.aws import Aws
from sluicegate.deadletters.file import DeadLetterFile
from sluicegate.deadletters.letter import DeadLetterPlace
from sluicegate.deadletters.queue import DeadLetterQueue
from sluicegate.events import EventLog
from sluicegate.linefile import Rotation
from sluicegate.localcode import LocalCode

END_SECONDS = 10.0
"""How long a place that nobody names any more may send what waits for it."""


Keeper = DeadLetterQueue | DeadLetterFile


class DeadLetterPlaces:
    """Belongs to the event loop. `close` it after the Listeners and before `aws`."""

    def __init__(self, aws: Aws, events: EventLog, rotation: Rotation | None = None) -> None:
        self._aws = aws
        self._rotation = rotation or Rotation()
        self._events = events
        self.by_source: dict[str, DeadLetterPlace] = {}
        self._used: dict[str, Keeper] = {}
        self._ending: dict[asyncio.Task[None], Keeper] = {}

    @property
    def used(self) -> list[Keeper]:
        """Those that somebody names."""
        return list(self._used.values())

    def find(
        self, arn: str | None, base_dir: Path, local_code: LocalCode | None = None
    ) -> DeadLetterPlace | None:
        """The place that `dead_letter_queue_arn` names; nothing is kept there before `use`.

        A file is made, so that a path which cannot be written is found early (`OSError`); a queue may come and
        go. Raises `Outside` for a file outside of `local_code`.
        """
        scheme, _, path = (arn or "").partition(":")
        if arn and scheme == "arn":
            return DeadLetterQueue(arn, self._aws, self._events)
        if scheme != "file":
            return None
        if local_code is None:
            file = DeadLetterFile(base_dir / path, self._events, rotation=self._rotation)
        else:
            file = DeadLetterFile(
                local_code.writable(base_dir / path), self._events, links=False, rotation=self._rotation
            )
        try:
            file.make()
        except OSError as error:
            error.filename = file.name
            raise
        return file

    def use(self, source: str, place: DeadLetterPlace | None) -> None:
        """The dead letters of this PacketSource go there from now on. `tidy` once all of a change have been told."""
        if isinstance(place, DeadLetterQueue | DeadLetterFile):
            if place.key not in self._used:
                self._used[place.key] = place
                place.start()
            place = self._used[place.key]
        if place is None:
            self.by_source.pop(source, None)
        else:
            self.by_source[source] = place

    def tidy(self) -> None:
        """Close, in the background, the places that nobody names any more."""
        used = set(map(id, self.by_source.values()))
        for key in [key for key, place in self._used.items() if id(place) not in used]:
            place = self._used.pop(key)
            task = asyncio.create_task(place.close(END_SECONDS), name=f"end dead letters {place.name}")
            self._ending[task] = place
            task.add_done_callback(self._ending.pop)

    async def close(self, seconds: float) -> None:
        """Keep what waits, for at most `seconds`; what is left is reported. Safe to call twice."""
        ending = list(self._ending)
        places = [*self._used.values(), *self._ending.values()]
        await asyncio.gather(*(place.close(seconds) for place in places))
        await asyncio.gather(*ending)
