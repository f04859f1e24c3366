"""A connection whose plain requests are answered at once, as their application (`direct.py`) offers."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from sluicegate.http.acceptor import Acceptor, Room
from sluicegate.http.connection import Limited
from sluicegate.http.direct import BODY_LIMIT, Answer, Direct, Later, Take

_PLAIN = re.compile(rb"(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII)
"""A target without query, escapes and whatever else has to be read: its path is its text."""
_PLAIN_LENGTH = 300


class _Plain:
    """A request that is answered at once, in the place of uvicorn's cycle."""

    __slots__ = ("body", "disconnected", "keep_alive", "more_body", "response_complete", "take")

    def __init__(self, take: Take) -> None:
        self.take = take
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True

    @property
    def message_event(self) -> "_Plain":
        """Where uvicorn says that something has come: nobody waits."""
        return self

    def set(self) -> None: ...


class Answering(Limited):
    """Asks `direct` first. `headers` gives those of every answer, as they are written."""

    def __init__(
        self,
        server: uvicorn.Server,
        room: Room,
        busy: ASGIApp,
        acceptor: Acceptor,
        seconds: float,
        direct: Direct | None,
        headers: Callable[[], bytes],
    ) -> None:
        super().__init__(server, room, busy, acceptor, seconds)
        self._direct = direct
        self._headers = headers
        self._answers = True
        """Whether a request of this read may be answered at once. One may: whoever sends many takes turns."""

    def refuse(self) -> None:
        self._direct = None
        super().refuse()

    def data_received(self, data: bytes) -> None:
        self._answers = self._direct is not None
        super().data_received(data)

    def on_headers_complete(self) -> None:
        take = self._enter() if self._answers else None
        if take is None:
            return super().on_headers_complete()
        self._overhead.head_complete()
        self._answers = False
        self.cycle = _Plain(take)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        request: object = self.cycle
        if not isinstance(request, _Plain) or not request.more_body:
            return super().on_body(body)
        self._overhead.body(len(body))
        request.body += body

    def on_message_complete(self) -> None:
        request: object = self.cycle
        if not isinstance(request, _Plain) or not request.more_body:
            return super().on_message_complete()
        self._arrived()
        self._overhead.complete()
        request.more_body = False
        self._room.serve(self)
        self._answer(request)

    def _enter(self) -> Take | None:
        """Who takes the body of this request, if it is plain and small."""
        assert self._direct is not None  # noqa: S101
        url, parser = self.url, self.parser
        path = _plain_path(url) if len(url) <= _PLAIN_LENGTH else None
        if (
            path is None
            or parser.get_method() != b"POST"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
            or self.expect_100_continue
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or not _is_small(self.headers)
        ):
            return None
        scope = self.scope
        scope["method"] = "POST"
        scope["path"] = path
        scope["raw_path"] = url
        scope["query_string"] = b""
        try:
            return self._direct.enter(scope)  # type: ignore[arg-type]
        except Exception:
            return None  # the long way meets it too, and says so

    def _answer(self, request: _Plain) -> None:
        try:
            found = request.take(bytes(request.body))
        except Exception:
            return self._fail(request)
        if isinstance(found, Answer):
            self._write(request, found)
        elif isinstance(found, Later):
            self.tasks.add(found.future)  # type: ignore[arg-type]  # uvicorn cancels it when it stops
            found.future.add_done_callback(lambda future: self._finish(request, future, found.finish))
        else:
            self._await(request, found)

    def _await(self, request: _Plain, found: Awaitable[Answer]) -> None:
        task = asyncio.ensure_future(found)
        self.tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(lambda task: self._finish(request, task, task.result))

    def _finish(
        self, request: _Plain, ended: asyncio.Future[Any], finish: Callable[[], Answer | Awaitable[Answer]]
    ) -> None:
        self.tasks.discard(ended)
        try:
            found = finish()
        except (Exception, asyncio.CancelledError):
            return self._fail(request)
        if isinstance(found, Answer):
            self._write(request, found)
        else:
            self._await(request, found)

    def _fail(self, request: _Plain) -> None:
        assert self._direct is not None  # noqa: S101
        self.logger.exception("Exception in ASGI application")
        self._write(request, self._direct.failed())
        self.transport.close()

    def _write(self, request: _Plain, answer: Answer) -> None:
        if request.disconnected:
            return
        lines = [STATUS_LINE[answer.status], self._headers()]
        for name, value in answer.headers:
            lines += name, b": ", value, b"\r\n"
        lines.append(b"\r\n" if request.keep_alive else b"connection: close\r\n\r\n")
        lines.append(answer.body)
        self.transport.write(b"".join(lines))
        request.response_complete = True
        if not request.keep_alive:
            self.transport.close()
        self.on_response_complete()


@lru_cache(maxsize=256)
def _plain_path(url: bytes) -> str | None:
    """The path that a target is; None if it is more, or has to be decoded."""
    return url.decode("ascii") if _PLAIN.fullmatch(url) else None


_LENGTHS = frozenset((b"content-length", b"transfer-encoding"))


def _is_small(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether these announce a body that is held for an answer at once, in one piece."""
    lengths = [value for name, value in headers if name in _LENGTHS]
    if len(lengths) != 1:
        return False
    (length,) = lengths
    return length.isdigit() and len(length) < 6 and int(length) <= BODY_LIMIT
