"""HTTP/1.1 for the Runtime API: one connection of a worker, whole requests in, whole answers out, no task and no
stream between the socket and the state machine (`runtime_api.py`).

A body that its sender calls a stream is handed on as it comes, if somebody wants it so (`streamed.py`).

httptools parses (it is the parser of Node.js); it sets no limits, so they are here: of a body, of what it has beside it
(`http/overhead.py`), and of what may come early while the answer to a long poll is awaited.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from sluicegate.functions.streamed import Streamed
from sluicegate.http.overhead import Excess, Overhead

RESPONSE_LIMIT = 6 * 1024 * 1024 + 100  # Lambda's quota for a synchronous answer, with its own allowance
DISCARD_LIMIT = 64 * 1024 * 1024  # of a body that is too large; then the connection is cut
EARLY_LIMIT = 256 * 1024  # bytes that may come while the answer to `next` is awaited
WAITING_LIMIT = 32  # requests of a connection that wait for the one before them

_MODE = b"lambda-runtime-function-response-mode"
_TRAILERS = (b"lambda-runtime-function-error-type", b"lambda-runtime-function-error-body")

_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
}


@dataclass(slots=True)
class Request:
    """One request. Header names are lower case; `body` is None when it was longer than `RESPONSE_LIMIT`.

    `streams`: its sender calls the body a stream. `stream` is where the body went then, if somebody wanted it so;
    `trailers` are what came behind it, of those that tell an error.
    """

    method: str = ""
    path: str = ""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes | None = b""
    keep_alive: bool = True
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    stream: Streamed | None = None

    @property
    def streams(self) -> bool:
        return self.headers.get(_MODE, b"").lower() == b"streaming"


class Connection(asyncio.Protocol):
    """`handle` gets each request in turn, the next one only after `answer`, which may come at any later time.

    `admit` is asked as soon as the connection is made, before anything is read of it; one that it does not admit is
    cut. `begin` is asked where the body of a streaming request goes, before any of it has come; None keeps it for
    `handle`. `lost` is called once, with the end of the connection. What is not HTTP is answered by a status and the
    end.
    """

    def __init__(
        self,
        admit: Callable[[Connection, asyncio.Transport], bool],
        begin: Callable[[Connection, Request], Streamed | None],
        handle: Callable[[Connection, Request], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._admit = admit
        self._begin = begin
        self._handle = handle
        self._lost = lost
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._requests: deque[Request] = deque()
        self._answering: Request | None = None
        self._answers: list[bytes] = []
        self._hang_up = select.poll()
        self._early = 0
        self._cut = False
        self._held = self._full = False
        self._overhead = Overhead()
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._trailers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self.stream: Streamed | None = None
        """Where the body of the request goes that is coming in now, and is not complete."""

    def answer(self, status: int, body: bytes = b"", headers: str = "") -> None:
        """Answer the request that `handle` got last with JSON; `headers` are further lines, each with its end.

        Does nothing once the connection is lost.
        """
        request, self._answering = self._answering, None
        if self._transport is None or request is None:
            return
        end = "" if request.keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"{headers}{end}Content-Length: {len(body)}\r\n\r\n"
        )
        self._answers += (head.encode("latin-1"), body)
        if self._requests and request.keep_alive:
            # Whoever has asked for more already does not wait for this alone: it leaves with the next answer.
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self._flush()
        if not request.keep_alive:
            self._transport.close()

    def close(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()

    def hold(self, held: bool) -> None:
        """Read nothing more of it while `held`."""
        self._held = held
        self._set_reading()

    def is_hung_up(self) -> bool:
        """True when the other side has closed, even if that has not come to the event loop yet."""
        if self._transport is None or self._transport.is_closing():
            return True
        return bool(self._hang_up.poll(0))

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            # Without it an answer waits for the other side's delayed acknowledgement: 44 ms measured.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._hang_up.register(connected.fileno(), select.POLLRDHUP)
        if not self._admit(self, self._transport):
            self._cut = True
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._requests.clear()
        self._lost(self)

    def eof_received(self) -> None:
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._cut:
            return
        if self._answering is not None:
            self._early += len(data)
            if self._early > EARLY_LIMIT:
                return self.close()
        try:
            self._parser.feed_data(data)
            self._overhead.received(len(data))
        except Excess:
            return self._refuse(431)
        except httptools.HttpParserError as error:
            return self._refuse(431 if isinstance(error.__context__, Excess) else 400)
        if self._size > DISCARD_LIMIT:
            return self.close()
        self._go_on()

    def pause_writing(self) -> None:
        """The client asks without reading the answers: read no more requests until it does."""
        self._full = True
        self._set_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._set_reading()

    def _set_reading(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._held or self._full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # httptools

    def on_message_begin(self) -> None:
        if len(self._requests) >= WAITING_LIMIT:
            raise Excess

    def on_url(self, url: bytes) -> None:
        self._overhead.target(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._overhead.keeps(len(name) + len(value)):
            self._headers[name.lower()] = value
        elif name.lower() in _TRAILERS:
            self._trailers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._overhead.head_complete()
        waits = self._headers.get(b"expect", b"").lower() == b"100-continue"
        if waits and self._answering is None and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # A request that waits for the one before it may be about an invocation that has not begun.
        if _MODE in self._headers and self._answering is None and not self._requests:
            head = self._request(b"")
            self.stream = self._begin(self, head) if head.streams else None

    def on_body(self, body: bytes) -> None:
        self._overhead.body(len(body))
        if self.stream is not None:
            return self.stream.put(body)
        self._size += len(body)
        if self._size <= RESPONSE_LIMIT:
            self._parts.append(body)
        else:
            self._parts.clear()

    def on_message_complete(self) -> None:
        self._overhead.complete()
        self._requests.append(self._request(b"".join(self._parts) if self._size <= RESPONSE_LIMIT else None))
        self._url, self._headers, self._trailers, self._parts, self._size = b"", {}, {}, [], 0
        self.stream = None

    def _request(self, body: bytes | None) -> Request:
        return Request(
            self._parser.get_method().decode("latin-1"),
            self._url.decode("latin-1").partition("?")[0],
            self._headers,
            body,
            self._parser.should_keep_alive(),
            self._trailers,
            self.stream,
        )

    def _go_on(self) -> None:
        while self._requests and self._answering is None:
            self._early = 0
            self._answering = self._requests.popleft()
            self._handle(self, self._answering)

    def _flush(self) -> None:
        """Write the answers that have waited for the next one."""
        answers, self._answers = self._answers, []
        if self._transport is not None and answers:
            self._transport.writelines(answers)

    def _refuse(self, status: int) -> None:
        self._flush()
        if self._transport is not None and self._answering is None:
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self._transport.write(head.encode("latin-1"))
        if self._transport is not None:
            self._transport.close()
