"""Dead letters in a file, one JSON object a line: the gateway appends, `sluicegate replay` takes the whole file away.

Each does so under the file's lock, so that neither loses what the other does. The file is opened for each append:
failures are rare, and a file that was moved away (by `replay`, by a log rotation) is simply made anew. A thread of the
place's own writes: a slow disk, or whoever holds the lock, holds up these letters alone. Before a file becomes too
large it is renamed to `FILE.1`, and what came before that to `FILE.2`, …; what falls off the end is counted as lost.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sluicegate.backoff import Backoff
from sluicegate.deadletters.keeper import DeadLetterKeeper, Waiting
from sluicegate.deadletters.letter import FailedMessage, Line
from sluicegate.events import EventLog
from sluicegate.linefile import Rotation, append_lines, locked, open_lines, rotated
from sluicegate.threads import Threads

WAITING_BYTES = 32 << 20
CLOSING_SECONDS = 1.0
"""How long a disk is given at the least when the gateway stops."""
_MESSAGES = 256  # that are written as one at most
_PIECE_BYTES = 1 << 20  # of lines that are written as one


@dataclass(slots=True)
class _Piece:
    """Lines that are written together, and how many entries of which messages they are for."""

    lines: bytes
    of: list[tuple[Waiting[Line], int]]
    faults: list[tuple[Waiting[Line], Exception]]


class DeadLetterFile(DeadLetterKeeper[Line]):
    """`file:PATH` of a PacketSource's `DeadLetterQueueArn`. `links` as for `linefile.open_lines`."""

    kept_verb = "written to"

    def __init__(
        self,
        path: Path,
        events: EventLog,
        *,
        links: bool = True,
        rotation: Rotation = Rotation(),  # noqa: B008  (frozen)
        limit_bytes: int = WAITING_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        pauses = backoff or Backoff(0.25, 2.0)  # to look at a disk costs little
        super().__init__(str(path), events, limit_bytes=limit_bytes, backoff=pauses)
        self.path = path
        self._links = links
        self._rotation = rotation
        self._thread = Threads(f"dead letters {path}")
        # Of the thread:
        self._piece: _Piece | None = None
        self._deleted = 0

    @property
    def key(self) -> str:
        return self.name if self._links else f"{self.name} without links"

    def make(self) -> None:
        """Make the file, if it is absent. Raises `OSError`."""
        os.close(open_lines(self.path, 0o600, links=self._links))

    async def close(self, seconds: float) -> None:
        await super().close(max(seconds, CLOSING_SECONDS))
        self._thread.close()

    # The task

    async def _keep(self) -> str | None:
        head = list(itertools.islice(self._waiting.values(), _MESSAGES))
        try:
            piece = await self._thread.call(lambda: self._write(head))
        finally:
            self._report_deleted()
        for waiting, error in piece.faults:
            self._not_made(waiting, error)
        for waiting, count in piece.of:
            self._kept += count
            self._end(waiting, count)
        self._settle_ended()
        return None

    def _letters_of(self, message: FailedMessage) -> Iterator[Line]:
        return message.lines()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self._outage.tell("WriteFailed", error.strerror or "the system does not say why")
        else:
            super()._failed(error)

    def _report_deleted(self) -> None:
        deleted, self._deleted = self._deleted, 0
        if deleted:
            self._lost += deleted
            detail = (
                f"{self.path}.{self._rotation.keep} was deleted, as newer letters needed its place: "
                "replay letters sooner, or keep more of these files"
            )
            self._emit(None, "Rotated", detail, deleted)

    # In the thread

    def _write(self, head: list[Waiting[Line]]) -> _Piece:
        """Write a piece, the beginning of what waits. Raises `OSError`; then it is still to be written."""
        if self._piece is None:
            self._piece = _made(head)
        piece = self._piece
        if piece.lines:
            self._append(piece.lines)
        self._piece = None
        return piece

    def _append(self, lines: bytes) -> None:
        while True:
            with locked(self.path, links=self._links) as fd:
                size = os.fstat(fd).st_size
                if not size or size + len(lines) <= self._rotation.bytes:
                    return append_lines(fd, lines)
                self._deleted += rotated(self.path, self._rotation.keep, links=self._links, count=True)


def _made(head: list[Waiting[Line]]) -> _Piece:
    lines: list[bytes] = []
    size = 0
    piece = _Piece(b"", [], [])
    for waiting in head:
        count = 0
        try:
            for line in waiting.letters:
                lines.append(line.data)
                size += len(line.data)
                count += line.entries
                if size > _PIECE_BYTES:
                    break
        except Exception as error:
            piece.faults.append((waiting, error))
        waiting.unmade -= count
        piece.of.append((waiting, count))
        if size > _PIECE_BYTES:
            break
    piece.lines = b"".join(lines)
    return piece
