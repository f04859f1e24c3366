"""The framing of streamed answers, `application/vnd.amazon.eventstream`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class BadFrame(Exception):
    """What came is no event stream, or was altered on the way."""


class Frame(NamedTuple):
    """One message: `kind` is `event`, `exception` or `error`, `name` which of these."""

    kind: str
    name: str
    payload: bytes


class Frames:
    """The messages of one stream. botocore takes them apart, and checks both checksums of each."""

    def __init__(self) -> None:
        from botocore.eventstream import (  # type: ignore[import-untyped]  # loaded by now
            EventStreamBuffer,
            ParserError,
        )

        self._buffer = EventStreamBuffer()
        self._bad = ParserError

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Those that `data` completes. Raises `BadFrame`."""
        self._buffer.add_data(data)
        try:
            for message in self._buffer:
                kind = str(message.headers.get(":message-type", "event"))
                name = message.headers.get(f":{kind}-{'code' if kind == 'error' else 'type'}", "")
                yield Frame(kind, str(name), message.payload)
        except self._bad as error:
            raise BadFrame(str(error)) from error
