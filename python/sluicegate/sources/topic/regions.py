"""Which regions get the messages of a topic, and what that means for one message (contract section 4.2).

A home region gets every message. It has to know which other regions have a gateway of their own, and learns that from
the list of the topic's subscriptions: the endpoint of each is the ARN of a queue, with its region in it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from sluicegate.aws import AwsError
from sluicegate.sources.egress_region import named_regions, shown

SERVED_SECONDS = 60.0
"""For so long a region that was in the list is believed to be there still."""

UNSERVED_SECONDS = 5.0
"""For so long one that was not is believed to be absent: a wrong belief here fails messages that somebody sends."""


class Verdict(Enum):
    """What the gateway of one region does with a message that it has no reason to refuse."""

    SEND = auto()
    SKIP = auto()
    """Another region's gateway gets it too, and sends it."""


class Regions:
    """What is known of one topic. `refresh` lists the regions that are served, and raises `AwsError`; `added` is told
    of each that is new in the list, but for the first one. Messages that name the region `also` are sent too."""

    def __init__(
        self,
        region: str,
        *,
        at_home: bool,
        refresh: Callable[[], Awaitable[frozenset[str]]],
        added: Callable[[str], None],
        also: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.region = region
        self._ours = {region} if also is None else {region, also}
        self._at_home = at_home
        self._refresh = refresh
        self._added = added
        self._clock = clock
        self._served: frozenset[str] = frozenset()
        self._known_at = float("-inf")
        self._asking = asyncio.Lock()
        self._failure: AwsError | None = None
        self._failed_at = float("-inf")

    def update(self, served: frozenset[str]) -> None:
        """Take a fresh list."""
        new = served - self._served - {self.region} if self._served else frozenset()
        self._served = served
        self._known_at = self._clock()
        self._failure = None
        for region in sorted(new):
            self._added(region)

    def judge_at_once(self, wanted: str | bytes | None) -> Verdict | None:
        """The verdict where nothing has to be asked for; None where `judge` has to."""
        if wanted is None:
            return Verdict.SEND if self._at_home else Verdict.SKIP
        if not self._ours.isdisjoint(named_regions(wanted)):
            return Verdict.SEND
        return None if self._at_home else Verdict.SKIP

    async def judge(self, wanted: str | bytes) -> Verdict | tuple[str, str]:
        """The verdict at home on a message for other regions, or the refusal. Raises `AwsError` when it cannot be
        known."""
        named = named_regions(wanted)
        if not await self._all_served(named):
            served = ", ".join(sorted(self._served)) or "none"
            cause = f"EgressRegion is {shown(wanted)}, and no gateway there is subscribed (served: {served})"
            return "WrongRegion", cause
        return Verdict.SKIP

    async def _all_served(self, named: frozenset[str]) -> bool:
        if self._age() < (SERVED_SECONDS if self._knows(named) else UNSERVED_SECONDS):
            return self._knows(named)
        # A region that was served does not go away because the list cannot be had.
        if self._failure is not None and self._asking.locked() and self._knows(named):
            return True
        async with self._asking:  # one asks for all that wait
            if self._age() >= UNSERVED_SECONDS:
                failure = await self._ask()
                if failure is not None and not self._knows(named):
                    raise failure.with_traceback(None)
        return self._knows(named)

    async def _ask(self) -> AwsError | None:
        """Have the list anew; the failure if that is not possible, also if it was not a moment ago."""
        if self._failure is None or self._clock() - self._failed_at >= UNSERVED_SECONDS:
            try:
                self.update(await self._refresh())
            except AwsError as error:
                self._failure, self._failed_at = error, self._clock()
        return self._failure

    def _knows(self, named: frozenset[str]) -> bool:
        return bool(named) and named <= self._served

    def _age(self) -> float:
        return self._clock() - self._known_at
