"""An HTTP server inside the gateway's own event loop: the API and the SNS endpoint each run in one.

Strangers may connect where it is not on loopback. What one of them can hold is bounded: connections in all
(`acceptor.py`), what a request has beside its body (`overhead.py`), the time that a request or a TLS handshake may
take, the requests that wait for the one before them, and the time for which an answer lies unread.
"""

import asyncio
import errno
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator, Sized
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sluicegate.http.acceptor import Acceptor, Connection, Room
from sluicegate.http.direct import BODY_LIMIT, Answer, Direct, Later, Take
from sluicegate.http.doors import discard_body
from sluicegate.http.overhead import Excess, Overhead
from sluicegate.model.text import endpoint_text

SHUTDOWN_SECONDS = 5
CONNECTION_LIMIT = 1000
"""Connections at a time, unless `Server` is given another budget; `Room` says who gives way to further ones."""
REQUEST_SECONDS = 30.0
"""From the first byte of a request, or from the connection, until the whole request has arrived; a TLS handshake has
as long."""
REFUSED_SECONDS = 2.0
"""The same for a connection that is to be refused."""
PIPELINE_LIMIT = 32
"""Requests of one connection that wait for the one before them (RFC 9112, 9.3.2)."""
UNREAD_SECONDS = 30.0
"""A client must take `UNREAD_BYTES` of an answer in this time, or the rest of it."""
UNREAD_BYTES = 16_384


_PLAIN = re.compile(rb"(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII)
"""A target without query, escapes and whatever else has to be read: its path is its text."""
_PLAIN_LENGTH = 300


class BindError(Exception):
    """The address cannot be served: the message says why and what to do next. `errno` is the kernel's, or
    None."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


class _Uvicorn(uvicorn.Server):
    """Signals belong to the gateway, which drains its Listeners before its servers."""

    def __init__(self, config: uvicorn.Config, serving: "Server", room: Room) -> None:
        super().__init__(config)
        self._serving = serving
        self._room = room
        self._written: tuple[object, bytes] = (None, b"")

    @property
    def direct(self) -> Direct | None:
        """Who answers some requests at once."""
        return self._serving.direct

    @property
    def headers(self) -> bytes:
        """The headers of every answer as they are written; uvicorn makes a new list of them each second."""
        listed = self.server_state.default_headers
        if self._written[0] is not listed:
            self._written = listed, b"".join(b"%b: %b\r\n" % one for one in listed)
        return self._written[1]

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but accepts within a budget. asyncio's servers accept whatever comes, and uvloop's end when no
        descriptor is left."""
        assert sockets is not None  # noqa: S101
        await self.lifespan.startup()
        acceptor = Acceptor(
            sockets[0],
            self._room,
            lambda: _Limited(self, self._room, self._serving.busy, acceptor),
            lambda: self._serving.tls,
            REQUEST_SECONDS,
        )
        self.servers = [acceptor]  # type: ignore[list-item]  # uvicorn closes it, and asks no more of it
        self.started = True


class _Flow(FlowControl):
    """As uvicorn's, but nothing more is read while requests wait in `pipeline`."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


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


class _Limited(HttpToolsProtocol, Connection):
    """A connection that is closed when a request does not arrive in time or is too much, and when its answers are not
    read.

    uvicorn bounds the time between requests only: a client that sends one byte a minute would stay for ever.
    """

    def __init__(self, server: _Uvicorn, room: Room, busy: ASGIApp, acceptor: Acceptor) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self._server = server
        self._direct = server.direct
        self._answers = True
        """Whether a request of this read may be answered at once. One may: whoever sends many takes turns."""
        self._room = room
        self._busy = busy
        self._acceptor = acceptor
        self._seconds = REQUEST_SECONDS
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
        self._direct = None
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
        self._answers = self._direct is not None
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
        take = self._enter() if self._answers else None
        if take is None:
            super().on_headers_complete()
        else:
            self._answers = False
            self.cycle = _Plain(take)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._overhead.body(len(body))
        request: object = self.cycle
        if isinstance(request, _Plain) and request.more_body:
            request.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._arrived()
        self._overhead.complete()
        request: object = self.cycle
        if isinstance(request, _Plain) and request.more_body:
            request.more_body = False
            self._room.serve(self)
            self._answer(request)
        else:
            super().on_message_complete()
            self._room.serve(self)

    # answers at once

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
        lines = [STATUS_LINE[answer.status], self._server.headers]
        for name, value in answer.headers:
            lines += name, b": ", value, b"\r\n"
        lines.append(b"\r\n" if request.keep_alive else b"connection: close\r\n\r\n")
        lines.append(answer.body)
        self.transport.write(b"".join(lines))
        request.response_complete = True
        if not request.keep_alive:
            self.transport.close()
        self.on_response_complete()

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


class Server:
    """Serves `app` on `host:port` (port 0: any free one). `setting` names the configuration key in errors.

    `authenticated`: the application asks everybody for credentials, as the contract (4.2, 8) wants it on any bind but
    loopback. Without that only loopback is served. `busy` answers whoever finds no place, in the application's own
    language; `connections` says how many places there are at that moment. `tls` may be replaced while the server runs:
    new connections get the new one.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        setting: str,
        authenticated: bool = False,
        busy: ASGIApp | None = None,
        connections: Callable[[], int] = lambda: CONNECTION_LIMIT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.busy = busy or _busy
        self.tls = tls
        self._connections = connections
        self._app = app
        self.direct = app if isinstance(app, Direct) else None
        self._authenticated = authenticated
        self._host = host
        self._port = port
        self._setting = setting
        self._socket: socket.socket | None = None
        self._server: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """`(ip, port)` as bound."""
        if self._socket is None:
            raise RuntimeError("the server is not bound")
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """`http://ip:port`, or `https://ip:port`."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{endpoint_text(*self.address)}"

    def bind(self) -> None:
        """Take the address without serving it yet; `BindError` when it cannot be had. `start` does it when
        needed."""
        if self._socket is not None:
            return
        shown = f"{self._host}:{self._port}"
        host = "127.0.0.1" if self._host == "localhost" else self._host.strip("[]")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise BindError(f"{self._setting}: {self._host!r} is not an IP address: use 127.0.0.1") from None
        if not address.is_loopback and not self._authenticated:
            raise BindError(
                f"{self._setting}: {shown} is not a loopback address, and nobody would be asked for a key: "
                "bind 127.0.0.1"
            )
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        # Named, not 0: asyncio turns Nagle's algorithm off for sockets that say they are TCP, and an answer
        # written in two pieces takes 44 ms with it.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits this
            # Takes over connections in TIME_WAIT of the gateway before a restart; a port that is served stays
            # refused.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((host, self._port))
            opened.listen(1024)
        except OSError as error:
            opened.close()
            raise BindError(self._explain(error, shown), error.errno) from error
        opened.setblocking(False)
        self._socket = opened

    async def start(self) -> None:
        """Bind, and serve from now on. Returns once connections are accepted."""
        self.bind()
        assert self._socket is not None  # noqa: S101  (bind raises otherwise)
        config = uvicorn.Config(
            self._app,
            http=_Limited,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        # uvicorn's start and stop lines would stand between the event lines of the gateway.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        room = Room(self._connections, asyncio.get_running_loop().time)
        self._server = _Uvicorn(config, self, room)
        self._task = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name=f"serve {self._setting}"
        )
        while not self._server.started:
            if self._task.done():
                await self._task
                raise BindError(f"{self._setting}: the server ended before it started")
            await asyncio.sleep(0.001)

    async def stop(self, seconds: float = SHUTDOWN_SECONDS + 1) -> None:
        """Refuse new connections, let running requests end (5 s at most, or `seconds`), close. Safe to call twice."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task], timeout=seconds)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._server = self._task = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _explain(self, error: OSError, shown: str) -> str:
        if error.errno == errno.EADDRINUSE:
            return (
                f"{shown} is in use by another program: stop it "
                f"(`ss -ltnp 'sport = :{self._port}'` names it), or choose another port in {self._setting}"
            )
        if error.errno == errno.EACCES:
            return f"{shown} needs privileges (ports below 1024): choose another port in {self._setting}"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{shown} is not an address of this machine: choose another one in {self._setting}"
        return f"{shown} cannot be served ({error.strerror}): choose another address in {self._setting}"


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


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer of a server that was given none of its own."""
    await discard_body(scope, receive)
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
