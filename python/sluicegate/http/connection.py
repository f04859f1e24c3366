"""One HTTP connection, and what its client can hold: time, waiting requests, answers that lie unread."""

import asyncio
from collections.abc import Sized
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sluicegate.http.acceptor import Acceptor, Connection, Room
from sluicegate.http.overhead import Excess, Overhead

REFUSED_SECONDS = 2.0
"""Until the request of a connection that is to be refused has arrived."""
PIPELINE_LIMIT = 32
"""Requests of one connection that wait for the one before them (RFC 9112, 9.3.2)."""
UNREAD_SECONDS = 30.0
"""A client must take `UNREAD_BYTES` of an answer in this time, or the rest of it."""
UNREAD_BYTES = 16_384


class _Flow(FlowControl):
    """As uvicorn's, but nothing more is read while requests wait in `pipeline`."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class Limited(HttpToolsProtocol, Connection):
    """A connection that is closed when a request does not arrive in time or is too much, and when its answers are not
    read.

    `seconds` bound a request's arrival. uvicorn bounds the time between requests only: a client that sends one byte a
    minute would stay for ever.
    """

    def __init__(
        self, server: uvicorn.Server, room: Room, busy: ASGIApp, acceptor: Acceptor, seconds: float
    ) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self._room = room
        self._busy = busy
        self._acceptor = acceptor
        self._seconds = seconds
        self._late: asyncio.TimerHandle | None = None
        self._begun = False
        """Whether a request has begun and has not arrived whole."""
        self._rests_since: float | None = None
        """Of the event loop's clock; None while something is to be done."""
        self._overhead = Overhead()
        self._unread: asyncio.TimerHandle | None = None
        self._left = 0
        """Bytes of answers that were not taken yet when `_unread` was set."""

    def refuse(self) -> None:
        self.app = self._busy
        self._seconds = REFUSED_SECONDS

    def cut(self) -> None:
        if self.transport is None:
            self._acceptor.stop_handshake(self)
        else:
            self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        self._watch_no_answer()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self._room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        try:
            self._overhead.received(len(data))
        except Excess:
            self.transport.abort()
        if self._begun and self._late is None:
            self._await_request()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    # httptools: an exception ends the parsing

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINE_LIMIT:
            self._exceed()
        super().on_message_begin()
        self._begun = True

    def on_url(self, url: bytes) -> None:
        try:
            self._overhead.target(len(url))
        except Excess:
            self._exceed()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        try:
            if not self._overhead.keeps(len(name) + len(value)):
                return
        except Excess:
            self._exceed()
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._overhead.head_complete()
        self._believe_target()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead.body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arrived()
        self._overhead.complete()
        super().on_message_complete()
        self._room.serve(self)

    # answers

    def on_response_complete(self) -> None:
        # In the place of uvicorn's, which makes a timer for each answer.
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._rests_since = self.loop.time()
                if self.timeout_keep_alive_task is None:
                    self._await_more(self.timeout_keep_alive)
        self.flow.resume_reading()
        if self.transport.get_write_buffer_size():
            self._watch_answer()
        if not self._serves():
            self._room.rest(self)

    def _unset_keepalive_if_required(self) -> None:
        self._rests_since = None

    def _await_more(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._rests_since is None:
            return
        left = self._rests_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._await_more(left)
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()
        self._room.rest(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch_no_answer()
        if self._serves():
            self._room.serve(self)

    def _watch_answer(self) -> None:
        if self._unread is None:
            self._left = self.transport.get_write_buffer_size()
            self._unread = self.loop.call_later(UNREAD_SECONDS, self._check_answer)

    def _check_answer(self) -> None:
        self._unread = None
        left = self.transport.get_write_buffer_size()
        if left > self._left - UNREAD_BYTES and left:
            self.transport.abort()
        elif left:
            self._watch_answer()

    def _watch_no_answer(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _exceed(self) -> NoReturn:
        self.transport.abort()
        raise Excess

    def _serves(self) -> bool:
        """Whether a request has arrived that is not answered yet."""
        if self.pipeline:
            return True
        return self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body)

    def _believe_target(self) -> None:
        """Where a target names a host (`GET http://HOST/`), that is the one, whatever `Host` says (RFC 9112, 3.2.2)."""
        if not self.url.startswith((b"/", b"*")):
            host = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(b"host", host), *(one for one in self.headers if one[0] != b"host")]

    def _await_request(self) -> None:
        self._late = self.loop.call_later(self._seconds, self.transport.abort)

    def _arrived(self) -> None:
        self._begun = False
        if self._late is not None:
            self._late.cancel()
            self._late = None
