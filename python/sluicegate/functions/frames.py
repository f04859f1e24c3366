"""The frames between the gateway and a Python worker, over the socket that the worker inherits.

A frame is a header of 5 bytes and a body: the length of the body (4 bytes, little endian), then the kind (1 byte).

    kind    from       body
    `E`     gateway    an event: deadline in Unix milliseconds (8 bytes) and the length of the head (2 bytes), both
                       little endian; the head, which is the request id, the function's ARN and the trace id, each in
                       a line; the event as JSON
    `N`     worker     empty: the handler is loaded, the first event may come
    `I`     worker     the report of an error at import (`reports.py`); the worker ends then
    `R`     worker     the handler's result, as JSON
    `X`     worker     the report of what the handler raised
    `P`     worker     the next piece of a streamed result
    `F`     worker     the end of a streamed result: empty, or the report of what the handler raised in the middle

One event is answered before the next: by `R`, by `X`, or by any number of `P` and an `F`. So one write and one read of
each side are an invocation.

The socket is not the handler's, but nothing keeps the handler from writing there: what is no frame raises `NotAFrame`.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<IB")
_EVENT = struct.Struct("<IBQH")

EVENT, NEXT, INIT_ERROR, RESULT, ERROR, PIECE, END = b"ENIRXPF"
_KINDS = frozenset(b"NIRXPF")

BODY_LIMIT = 6 * 1024 * 1024 + 100
"""Lambda's quota for a synchronous answer, with its own allowance. What is longer is read and thrown away."""
DISCARD_LIMIT = 64 * 1024 * 1024
PIECE_LIMIT = 256 * 1024

Frame = tuple[int, bytes | None]
"""Kind and body; None for a body that was longer than `BODY_LIMIT`."""


class NotAFrame(Exception):
    """What came is no frame of a runtime. The text says what it was."""


def event_frame(request_id: str, deadline_ms: int, arn: str, trace_id: str, payload: bytes) -> bytes:
    """An `E`.

    >>> event_frame("id", 1, "arn", "root", b"{}")[14:].hex(" ", 4)
    '0069640a 61726e0a 726f6f74 7b7d'
    """
    head = f"{request_id}\n{arn}\n{trace_id}".encode()
    size = _EVENT.size - HEADER.size + len(head) + len(payload)
    return b"".join((_EVENT.pack(size, EVENT, deadline_ms, len(head)), head, payload))


class FrameReader:
    """Cuts what comes from a worker into frames, wherever the pieces of it end.

    >>> reader = FrameReader()
    >>> reader.feed(b"\\x02\\0\\0\\0R{"), reader.feed(b"}")
    ([], [(82, b'{}')])
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = HEADER.size
        self._dropped = 0

    @property
    def inside(self) -> bool:
        """True in the middle of a frame."""
        return bool(self._size or self._dropped)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with `data`. Raises `NotAFrame`; of no use after that."""
        frames: list[Frame] = []
        if self._dropped:
            data = self._drop(data, frames)
        if self._size:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._wanted:
                return frames
            data = b"".join(self._parts)
            self._parts, self._size = [], 0
        start, end = 0, len(data)
        while end - start >= HEADER.size:
            length, kind = HEADER.unpack_from(data, start)
            _check(length, kind)
            if length > BODY_LIMIT:
                self._dropped, self._kind = length, kind
                data, start = self._drop(data[start + HEADER.size :], frames), 0
                end = len(data)
                continue
            stop = start + HEADER.size + length
            if stop > end:
                self._wanted = stop - start
                break
            frames.append((kind, data[start + HEADER.size : stop]))
            start = stop
        else:
            self._wanted = HEADER.size
        if start < end:
            self._parts, self._size = [data[start:]], end - start
        return frames

    def _drop(self, data: bytes, frames: list[Frame]) -> bytes:
        """Throw away what belongs to a body that is too long; what is behind it."""
        dropped = min(self._dropped, len(data))
        self._dropped -= dropped
        if not self._dropped:
            frames.append((self._kind, None))
        return data[dropped:]


def _check(length: int, kind: int) -> None:
    if kind not in _KINDS:
        raise NotAFrame(f"the kind of a frame is {chr(kind)!r}")
    if length > (PIECE_LIMIT if kind == PIECE else 0 if kind == NEXT else DISCARD_LIMIT):
        raise NotAFrame(f"a frame {chr(kind)} has {length} bytes")
