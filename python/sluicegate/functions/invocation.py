"""One event on its way through a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sluicegate.functions.streamed import Consume, Streamed


class Invocation:
    """One event for the handler. `deadline_ms` is Unix time in milliseconds.

    It ends once, by `succeed` or `fail`. Whoever waits for that awaits `answer`, or sets `on_end`, which is called with
    it. `taken` is true once the worker has it: from then on the handler may have run. `consume` takes a streamed
    response as it comes; `answer` is b"" then.
    """

    __slots__ = (
        "_answer",
        "arn",
        "body",
        "consume",
        "deadline_ms",
        "failure",
        "on_end",
        "over",
        "payload",
        "request_id",
        "stream",
        "taken",
        "trace_id",
    )

    def __init__(
        self,
        request_id: str,
        payload: bytes,
        deadline_ms: int,
        arn: str,
        trace_id: str,
        consume: Consume | None = None,
    ) -> None:
        self.request_id = request_id
        self.payload = payload
        self.deadline_ms = deadline_ms
        self.arn = arn
        self.trace_id = trace_id
        self.consume = consume
        self.taken = False
        self.stream: Streamed | None = None
        self.on_end: Callable[[Invocation], object] | None = None
        self.over = False
        self.body = b""
        self.failure: Exception | None = None
        self._answer: asyncio.Future[bytes] | None = None

    @property
    def answer(self) -> asyncio.Future[bytes]:
        """Gets the body of the response, or raises what `fail` was told."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._tell()
        return self._answer

    def succeed(self, body: bytes) -> None:
        """The handler has answered. Does nothing once it is over."""
        if not self.over:
            self.over, self.body = True, body
            self._end()

    def fail(self, failure: Exception) -> None:
        """It has failed. Does nothing once it is over."""
        if not self.over:
            self.over, self.failure = True, failure
            self._end()

    def close(self) -> None:
        """It has ended, or nobody waits for it any more: consume nothing more, and tell no end."""
        self.over = True
        if self.stream is not None:
            self.stream.close()
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()

    def _end(self) -> None:
        self._tell()
        if self.on_end is not None:
            self.on_end(self)

    def _tell(self) -> None:
        if self._answer is None or self._answer.done() or not self.over:
            return
        if self.failure is not None:
            self._answer.set_exception(self.failure)
        else:
            self._answer.set_result(self.body)
