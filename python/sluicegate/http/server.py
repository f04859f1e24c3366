"""An HTTP server inside the gateway's own event loop: the API and the SNS endpoint each run in one.

Strangers may connect where it is not on loopback. What one of them can hold is bounded: connections in all
(`acceptor.py`), what a request has beside its body (`overhead.py`), the time that a request or a TLS handshake may
take, the requests that wait for the one before them, and the time for which an answer lies unread (`connection.py`).
"""

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.http.acceptor import Acceptor, Room
from sluicegate.http.answering import Answering
from sluicegate.http.direct import Direct
from sluicegate.http.doors import discard_body
from sluicegate.model.text import endpoint_text

SHUTDOWN_SECONDS = 5
CONNECTION_LIMIT = 1000
"""Connections at a time, unless `Server` is given another budget; `Room` says who gives way to further ones."""
REQUEST_SECONDS = 30.0
"""From the first byte of a request, or from the connection, until the whole request has arrived; a TLS handshake has
as long."""


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

    def _written_headers(self) -> bytes:
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
            lambda: Answering(
                self,
                self._room,
                self._serving.busy,
                acceptor,
                REQUEST_SECONDS,
                self._serving.direct,
                self._written_headers,
            ),
            lambda: self._serving.tls,
            REQUEST_SECONDS,
        )
        self.servers = [acceptor]  # type: ignore[list-item]  # uvicorn closes it, and asks no more of it
        self.started = True


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
            http=Answering,
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


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer of a server that was given none of its own."""
    await discard_body(scope, receive)
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
