"""An HTTP server inside the gateway's own event loop: the API and the SNS endpoint each run in one.

Strangers may connect where it is not on loopback. What one of them can hold is bounded: connections in all, the time
and the size of a request's head, and the time that a body may take to arrive.
"""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sluicegate.model.text import endpoint_text

SHUTDOWN_SECONDS = 5
CONNECTION_LIMIT = 1000
"""Connections at a time; further ones are answered 503."""
REQUEST_SECONDS = 30.0
"""From the first byte of a request, or from the connection, until the whole request has arrived."""
HEAD_LIMIT = 65_536
"""Bytes of a request's line and headers."""


class BindError(Exception):
    """The address cannot be served: the message says why and what to do next. `errno` is the kernel's, or
    None."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


class _Uvicorn(uvicorn.Server):
    """Signals belong to the gateway, which drains its Listeners before its servers."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Limited(HttpToolsProtocol):
    """A connection that closes when a request does not arrive in time or has too long a head.

    uvicorn bounds the time between requests only: a client that sends one byte a minute would stay for ever.
    """

    _late: asyncio.TimerHandle | None = None
    _head: int | None = 0
    """Bytes of the head so far; None while a body arrives and while nothing is asked."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_LIMIT:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:
            self._await_request()

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        self._head = 0
        super().on_message_complete()

    def _await_request(self) -> None:
        self._late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server:
    """Serves `app` on `host:port` (port 0: any free one). `setting` names the configuration key in errors.

    `authenticated`: the application asks everybody for credentials, as the contract (4.2, 8) wants it on any bind but
    loopback. Without that only loopback is served.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, setting: str, authenticated: bool = False
    ) -> None:
        self._app = app
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
        """`http://ip:port`"""
        return f"http://{endpoint_text(*self.address)}"

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
            limit_concurrency=CONNECTION_LIMIT,
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
        self._server = _Uvicorn(config)
        self._task = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name=f"serve {self._setting}"
        )
        while not self._server.started:
            if self._task.done():
                await self._task
                raise BindError(f"{self._setting}: the server ended before it started")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Refuse new connections, let running requests end (5 s at most), close. Safe to call twice."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task], timeout=SHUTDOWN_SECONDS + 1)
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
