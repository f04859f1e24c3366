"""A response that a worker sends piece by piece, on its way to whoever consumes it.

Example: a handler writes 5 documents, one every 200 ms. Each is with the consumer as soon as it has come, and the
invocation is answered after the last one.

Theory of operation. The connection puts pieces in as they are read, and one task hands them on in order. While the
consumer does not keep up, what waits is bounded: the connection is not read any more, its socket fills, and the handler
waits in its write. What had come before a failure of the handler is handed on before the failure is reported. What
still waits at a timeout, or at the end of the gateway, is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Consume = Callable[[bytes], Awaitable[None]]
"""Takes the next piece of a response; returns once there is room for another one."""

CUT_SECONDS = 1.0
"""From the end of a connection in the middle of a response until the handler is blamed: the worker may have died."""

WAITING_BYTES = 256 * 1024
"""What may wait for the consumer before the connection is not read any more."""


class Streamed:
    """One response. After the last piece is consumed, `succeed(b"")` is called, or `fail` with the failure.

    `hold(True)` and `hold(False)` stop and resume the reading of the connection.
    """

    def __init__(
        self,
        consume: Consume,
        succeed: Callable[[bytes], None],
        fail: Callable[[Exception], None],
        hold: Callable[[bool], None],
    ) -> None:
        self._consume = consume
        self._succeed = succeed
        self._fail = fail
        self._hold = hold
        self._pieces: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._ended = False
        self._failure: Exception | None = None
        self._task = asyncio.get_running_loop().create_task(self._hand_on(), name="streamed response")

    def put(self, piece: bytes) -> None:
        """The next piece has come."""
        if self._ended or self._task.done():
            return
        self._pieces.append(piece)
        self._size += len(piece)
        self._wake.set()
        if self._size > WAITING_BYTES:
            self._hold(True)

    def end(self, failure: Exception | None = None) -> None:
        """The response is complete, or the handler failed in the middle of it. Only the first call counts."""
        if not self._ended:
            self._ended, self._failure = True, failure
            self._wake.set()

    def close(self) -> None:
        """Hand on nothing more: the invocation has ended. Safe to call twice."""
        self._ended = True
        self._task.cancel()
        self._pieces.clear()
        self._hold(False)

    async def _hand_on(self) -> None:
        try:
            while self._pieces or not self._ended:
                await self._wake.wait()
                self._wake.clear()
                data, self._size = b"".join(self._pieces), 0
                self._pieces.clear()
                self._hold(False)
                if data:
                    await self._consume(data)
        except Exception as error:  # of the consumer; the owner of the invocation gets it
            self._failure = error
        if self._failure is not None:
            self._fail(self._failure)
        else:
            self._succeed(b"")
