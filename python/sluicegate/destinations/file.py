"""`file:PATH.ndjson`: appends each packet as one JSON line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    PacketBatch,
)
from sluicegate.linefile import append_lines, is_at, open_lines
from sluicegate.paths import obstacle
from sluicegate.regular import require_appendable
from sluicegate.threads import Threads

_NEXT = "make the path writable for the gateway, or name another one"


class FileDestination(Destination):
    """Appends the records of a batch, one per line, in the order in which they came.

    A reader never sees half a record that stays: a write that stops in the middle (disk full) is taken back
    before it is retried. A batch is with the kernel when it counts as delivered; no fsync, so a power loss
    may lose it. A file that was moved or deleted (logrotate) is opened anew with the next batch. Missing
    directories are made by `provision`.
    """

    usage = "file:PATH.ndjson"
    reasons = ("FileError",)

    def __init__(self, name: str, path: Path, context: DestinationContext) -> None:
        super().__init__(name, context)
        self._path = path
        self._links = context.local_code is None
        self._thread = Threads(f"file {name}")
        self._file: int | None = None

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        Arguments(arguments, f"destination {name}").finish()
        if not target.strip() or "\0" in target or target.endswith("/"):
            raise DestinationError(f"destination {name}: file: names no file", f"write it as {cls.usage}")
        path = context.local_path(target, written=True)
        if (wrong := obstacle(path, makes_folders=True)) is not None:
            raise DestinationError(f"destination {name}: {path} {wrong}", _NEXT)
        return cls(name, path, context)

    async def provision(self) -> None:
        try:
            await self._thread.call(self._open_first)
        except OSError as error:
            raise DestinationError(
                f"destination {self.name}: {self._path} cannot be opened ({_words(error)})",
                _NEXT,
            ) from error

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        data = batch.lines()
        try:
            await self._thread.call(lambda: self._append(data))
        except OSError as error:
            detail = f"{self._path} could not be written: {_words(error)}"
            raise DeliveryError("FileError", detail, retryable=True) from error
        return None

    async def close(self) -> None:
        try:
            await self._thread.call(self._close_file)
        finally:
            self._thread.close()

    # In the thread

    def _open_first(self) -> None:
        if self._links:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> int:
        self._close_file()
        require_appendable(self._path)
        self._file = open_lines(self._path, 0o644, links=self._links, devices=True)
        return self._file

    def _append(self, data: bytes) -> None:
        file = self._file
        if file is None or not is_at(self._path, file):
            file = self._open()
        append_lines(file, data)

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


def _words(error: OSError) -> str:
    return (error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)).lower()
