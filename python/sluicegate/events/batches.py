"""`BatchDelivered`, for those who watch. It is made like the events of single packets: only while somebody watches,
and at most so many a second and Listener; what was left out is told by one more line, with its number in `Suppressed`.
"""

import time
from collections.abc import Callable

from sluicegate.events.filter import Filter
from sluicegate.events.log import EventLog

EVENT = "BatchDelivered"


class BatchWatch:
    """Somebody who watches, until `close`."""

    def __init__(
        self,
        wanted: Filter,
        show: Callable[[bytes], object],
        log: EventLog,
        on_close: Callable[["BatchWatch"], None],
        clock: Callable[[], float],
    ) -> None:
        self._wanted = wanted
        self._show = show
        self._log = log
        self._on_close = on_close
        self._clock = clock
        self._second = 0
        self._shown: dict[str, int] = {}
        self._skipped: dict[tuple[str, str], int] = {}

    def takes(self, listener: str, destination: str) -> bool:
        """True if the next event is to be shown now. One that is wanted and beyond the rate is counted."""
        if not self._wanted.takes({"Event": EVENT, "Listener": listener, "Destination": destination}):
            return False
        second = int(self._clock())
        if second != self._second:
            self._tell_skipped()
            self._second = second
            self._shown.clear()
        shown = self._shown.get(listener, 0)
        if shown >= self._wanted.rate:
            key = (listener, destination)
            self._skipped[key] = self._skipped.get(key, 0) + 1
            return False
        self._shown[listener] = shown + 1
        return True

    def show(self, line: bytes) -> None:
        self._show(line)

    def close(self) -> None:
        """Tell what was left out, and end. Safe to call twice."""
        self._tell_skipped()
        self._on_close(self)

    def _tell_skipped(self) -> None:
        for (listener, destination), count in self._skipped.items():
            self._show(self._log.render(EVENT, Listener=listener, Destination=destination, Suppressed=count))
        self._skipped.clear()


class Batches:
    """Everybody who watches the batches of a gateway. Belongs to the event loop."""

    def __init__(self, log: EventLog, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._watches: list[BatchWatch] = []

    def watch(self, wanted: Filter, show: Callable[[bytes], object]) -> BatchWatch:
        """Hand the lines that `wanted` takes to `show`, at most `wanted.rate` a second and Listener."""
        watch = BatchWatch(wanted, show, self._log, self._closed, self._clock)
        self._watches.append(watch)
        return watch

    def delivered(self, listener: str, destination: str, packets: int, request_id: str) -> None:
        """A Destination took a batch."""
        if not self._watches:
            return
        line = None
        for watch in self._watches:
            if watch.takes(listener, destination):
                if line is None:
                    line = self._log.render(
                        EVENT,
                        Listener=listener,
                        Destination=destination,
                        Packets=packets,
                        RequestId=request_id,
                    )
                watch.show(line)

    def close(self) -> None:
        for watch in list(self._watches):
            watch.close()

    def _closed(self, ended: BatchWatch) -> None:
        if ended in self._watches:
            self._watches.remove(ended)
