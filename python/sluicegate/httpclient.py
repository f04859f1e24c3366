"""HTTP calls that go out: to services of AWS, to web hooks. aiohttp speaks the protocol.

    host = Host("https://hooks.example/in", ssl.create_default_context(), environment_proxy("https://hooks.example"))
    answer = await host.post({"Content-Type": "application/json"}, body, seconds=10)
    answer.status, answer.body
    await host.close()

This module adds to aiohttp: causes in words that a user understands, a bound on the size of an answer, no surprise by
redirects or cookies, and the knowledge whether a request may be sent again (`NoAnswer.stale`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from sluicegate.threads import Threads

if TYPE_CHECKING:  # aiohttp is imported with the first call: a gateway that makes none saves 8 MB
    import aiohttp

CONNECT_SECONDS = 5.0
"""For the name, the connection and TLS together."""
IDLE_SECONDS = 15.0
"""A connection that nobody has used for so long is closed: servers would do so soon."""
ANSWER_LIMIT = 16 << 20
"""Bytes. Ten messages that fill SQS's limit of 1 MiB together fit, each of their characters escaped."""

_OWN_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What aiohttp would add to a request."""
_sockets: ContextVar[list[str | None]] = ContextVar("sockets")
"""Where a request notes that a socket was made for it, or why none was."""


class Answer(NamedTuple):
    """Any answer, whatever its status. Names of `headers` are looked up without regard to case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})


class NoAnswer(Exception):
    """The request brought no answer; as text the cause. `stale`: an open connection had been closed at the other end,
    as servers do with idle ones, and most likely nobody has read the request. `too_large`: there was one, beyond the
    limit. `forbidden`: the server may not be called."""

    def __init__(
        self,
        cause: str,
        *,
        timed_out: bool = False,
        stale: bool = False,
        too_large: bool = False,
        forbidden: bool = False,
    ) -> None:
        super().__init__(cause)
        self.timed_out = timed_out
        self.stale = stale
        self.too_large = too_large
        self.forbidden = forbidden


@dataclass(frozen=True)
class Advice:
    """What a user should look at, for each failure that a setting may mend."""

    unknown_name: str = "check the name and DNS"
    untrusted: str = "check the authorities that are trusted here"


class Host:
    """The server at `url`, reached through the HTTP proxy at the URL `proxy` if there is one.

    `tls` says for an https URL whom to trust, and holds a client's certificate. Connections stay open, are reused, and
    are as many as there are requests at a time: the caller limits those. Belongs to the event loop of its first call.

    `forbids` says why a numeric address may not be called, or None. It is asked about each address to which a
    connection is made, the proxy's where there is one.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        advice: Advice | None = None,
        forbids: Callable[[str], str | None] = lambda address: None,
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        self.name = parts.hostname or ""
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._address = parts._replace(path=_encoded(parts.path), fragment="").geturl()
        self._tls = tls
        self._proxy = proxy
        self._advice = advice or Advice()
        self._forbids = forbids
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._target: Any = None
        self._closed = False

    async def post(self, headers: Mapping[str, str], body: bytes, seconds: float) -> Answer:
        """The answer to a POST to the URL. Raises `NoAnswer`, as `request` does."""
        return await self.request("POST", headers, body, seconds)

    async def request(
        self,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        *,
        path: str | None = None,
        take: Callable[[bytes], Awaitable[object]] | None = None,
    ) -> Answer:
        """The answer to a request. Redirects are answers too: none is followed.

        `path` is another one at the same server. `take` gets the body of a 200 piece by piece, as it
        arrives, and the `Answer` has none.

        Raises `NoAnswer` if none is there within `seconds`, connection included, or it is larger than 16 MiB.
        """
        session = self._session or await self._open()
        target = self._target if path is None else self._target.with_path(_encoded(path), encoded=True)
        made: list[str | None] = []
        _sockets.set(made)
        try:
            async with (
                asyncio.timeout(seconds),
                session.request(
                    method, target, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                if take is not None and response.status == 200:
                    async for part in response.content.iter_any():
                        await take(part)
                    return Answer(response.status, b"", response.headers)
                return Answer(response.status, await self._read(response), response.headers)
        except NoAnswer:
            raise
        except Exception as error:
            raise self._no_answer(error, seconds, reused=not made) from error

    async def close(self) -> None:
        """Close all connections; requests that are under way fail."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _open(self) -> aiohttp.ClientSession:
        """The session. The first call imports aiohttp, in a thread: that takes longer than an event loop may pause."""
        async with self._opening:
            if self._closed:
                raise NoAnswer(f"the connection to {self.name} was closed here")
            if self._session is None:
                await Threads("aiohttp", 1).call(_import)
                self._session, self._target = self._make()
        return self._session

    def _make(self) -> tuple[aiohttp.ClientSession, Any]:
        import aiohttp
        import yarl

        class Connector(aiohttp.TCPConnector):
            async def connect(self, *given: Any, **named: Any) -> aiohttp.connector.Connection:
                """As aiohttp's, but on no connection that has brought something which nobody asked for: aiohttp would
                take it for the answer to the next request."""
                while True:
                    connection = await super().connect(*given, **named)
                    if connection.protocol is None or not connection.protocol.should_close:
                        return connection
                    connection.close()

        connector = Connector(
            limit=0, keepalive_timeout=IDLE_SECONDS, ssl=self._tls or True, socket_factory=self._socket
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OWN_HEADERS,
            auto_decompress=False,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
        )
        return session, yarl.URL(self._address, encoded=True)

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """For a connection to this address (an entry of `getaddrinfo`): nothing happens between look-up and check."""
        wrong = self._forbids(address[4][0])
        _sockets.get().append(wrong)
        if wrong is not None:
            raise PermissionError(errno.EACCES, wrong)
        return socket.socket(address[0], address[1], address[2])

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.content.is_eof():  # it came with its head
            return response.content.read_nowait()
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > ANSWER_LIMIT:
                response.close()
                raise NoAnswer(f"{self.name} answers with more than {ANSWER_LIMIT >> 20} MiB", too_large=True)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _no_answer(self, error: Exception, seconds: float, *, reused: bool) -> NoAnswer:
        """An exception of aiohttp in a user's words; a fault of ours is raised again."""
        import aiohttp

        place = urlsplit(self._proxy).hostname if self._proxy else self.name
        refused = _sockets.get()
        if refused and all(refused):
            return NoAnswer(f"no connection to {place}: it is {refused[0]}", forbidden=True)
        match error:
            case _ if self._closed:
                return NoAnswer(f"the connection to {self.name} was closed here")
            case aiohttp.ConnectionTimeoutError():
                return no_connection(TimeoutError(), self.name, place, self._advice)
            case TimeoutError():
                return NoAnswer(f"{self.name} did not answer within {seconds:g} s", timed_out=True)
            case aiohttp.ClientConnectorCertificateError():
                return no_connection(error.certificate_error, self.name, place, self._advice)
            case aiohttp.ClientConnectorError():
                return no_connection(error.os_error, self.name, place, self._advice)
            case aiohttp.ClientHttpProxyError():
                asked = f"{self.name}:{self._port}"
                return NoAnswer(f"the proxy {place} answers {error.status} when asked for {asked}")
            case aiohttp.ClientResponseError():
                return NoAnswer(f"{self.name} answers with something that is not HTTP")
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return NoAnswer(f"{self.name} closed the connection", stale=reused)
            case aiohttp.ClientError() | OSError():
                return NoAnswer(f"{self.name} closed the connection")
        raise error


def no_connection(error: Exception, name: str, place: str | None, advice: Advice) -> NoAnswer:
    """Why there is no connection to `place`, which is the server `name` or a proxy, in the system's words."""
    match error:
        case TimeoutError():
            return NoAnswer(f"no connection to {place} within {CONNECT_SECONDS:g} s", timed_out=True)
        case ssl.SSLCertVerificationError():
            return NoAnswer(
                f"the certificate of {name} is not trusted: {error.verify_message}; {advice.untrusted}"
            )
        case socket.gaierror():
            cause = f"its name is not known; {advice.unknown_name}"
        case ssl.SSLError():  # its number is OpenSSL's, not the system's
            cause = "TLS failed; check who answers there, and whether the URL should begin with http:"
        case OSError() if error.errno:
            cause = os.strerror(error.errno)
        case _:
            cause = "it is refused"
    return NoAnswer(f"no connection to {place}: {cause}")


def environment_proxy(url: str) -> str | None:
    """The URL of the HTTP proxy that the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) has for `url`."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _encoded(path: str) -> str:
    """As it goes out; what is percent-encoded already stays."""
    return quote(path or "/", safe="/%!$&'()*+,;=:@~")


def _import() -> None:
    import aiohttp  # noqa: F401
