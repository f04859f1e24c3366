"""A twin of `_native.Port`'s sending half: a bounded ring, completions announced by an eventfd."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Submission = tuple[str, float | None, int, bytes, tuple[str, str] | None]
FailureTuple = tuple[int | None, str, str]


@dataclass
class FakeCompletion:
    message_id: str
    source: int | None
    destination: int | None
    entries: int
    sent: int
    duplicates: int
    failures: list[FailureTuple] = field(default_factory=list)
    remote_indexes: list[int | None] = field(default_factory=list)
    scheduled: list[tuple[int, int | None, int, str | None]] = field(default_factory=list)


class FakePort:
    """Holds up to `room` messages; `end` ends the oldest one and announces it, as the I/O thread would."""

    def __init__(self, room: int = 1000, *, announce: bool = True) -> None:
        self.room = room
        self.announce = announce
        self.ring: deque[tuple[str, int | None, int | None, bytes, tuple[str, str] | None]] = deque()
        self.order: list[str] = []
        self._ended: list[FakeCompletion] = []
        self._sent: list[tuple[int, str]] = []
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)

    def submit(self, messages: Sequence[Submission], /) -> int:
        taken = 0
        for message_id, _, source, body, refusal in messages:
            if len(self.ring) >= self.room:
                break
            self.ring.append((message_id, source, None, body, refusal))
            self.order.append(message_id)
            taken += 1
        return taken

    def reply(self, destination: int, request_id: str, body: bytes, /) -> bool:
        if len(self.ring) >= self.room:
            return False
        self.ring.append((request_id, None, destination, body, None))
        self.order.append(request_id)
        return True

    def on_completions(self, callback: Callable[[], object] | None, /) -> None:
        loop = asyncio.get_running_loop()
        if callback is None:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, callback)

    def completions(self) -> list[FakeCompletion]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        ended, self._ended = self._ended, []
        return ended

    def sent_ids(self) -> list[tuple[int, str]]:
        sent, self._sent = self._sent, []
        return sent

    def leave(self, source: int, *ids: str) -> None:
        """Entries with these `Id`s leave, of a message that has not ended."""
        self._sent += [(source, one) for one in ids]
        os.eventfd_write(self._fd, 1)

    def end(
        self,
        *failures: FailureTuple,
        entries: int = 1,
        duplicates: int = 0,
        remotes: Sequence[int | None] = (),
    ) -> None:
        """End the oldest message: whatever is neither failed nor duplicate was sent."""
        message_id, source, destination, _, refusal = self.ring.popleft()
        failed = list(failures)
        if refusal is not None:
            failed = [(None, *refusal)]
        entries = max(entries, duplicates + len(failed))
        sent = entries - duplicates - len(failed)
        self._ended.append(
            FakeCompletion(message_id, source, destination, entries, sent, duplicates, failed, list(remotes))
        )
        if self.announce:
            os.eventfd_write(self._fd, 1)

    def finish(self, completion: FakeCompletion) -> None:
        """End the oldest message so."""
        self.ring.popleft()
        self._ended.append(completion)
        os.eventfd_write(self._fd, 1)

    def submit_due(self, messages: "Sequence[tuple[Submission, tuple[int, Sequence[str], bool]]]", /) -> int:
        return self.submit([message for message, _ in messages])

    def close(self) -> None:
        os.close(self._fd)
