"""HTTP/1.1 for SQS's messages: POSTs to one server, without a proxy, over connections that stay open.

A queue's consumer makes two requests for ten messages. Next to aiohttp (`sluicegate.httpclient`, which carries whatever
else goes out) this client saves half of the gateway's processor time for a message: decision 5 has the numbers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import httptools

from sluicegate import httpclient
from sluicegate.httpclient import CONNECT_SECONDS, IDLE_SECONDS, Advice, Answer, NoAnswer, no_connection

_PORTS = {"http": 80, "https": 443}


class DirectHost:
    """The server at `url`. The same as `httpclient.Host`, as far as SQS needs it."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, advice: Advice) -> None:
        self.url = url
        self._url = urlsplit(url)
        self._tls = tls if self._url.scheme == "https" else None
        self._advice = advice
        self.name = self._url.hostname or ""
        target = quote(self._url.path or "/", safe="/%!$&'()*+,;=:@~")
        self._head = f"POST {target} HTTP/1.1\r\n"
        self._idle: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        self._closed = False

    async def post(self, headers: Mapping[str, str], body: bytes, seconds: float) -> Answer:
        """Status and body of the answer. `headers` has Host. Raises `NoAnswer`, also when none comes within `seconds`
        once there is a connection."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{self._head}{fields}Content-Length: {len(body)}\r\n\r\n"
        connection = self._take() or await self._connect()
        answer = await connection.exchange(head.encode("latin-1") + body, seconds)
        if connection.usable:
            self._idle.append(connection)
        return answer

    async def close(self) -> None:
        """Close all connections; requests that are under way fail."""
        self._closed = True
        for connection in list(self._all):
            connection.close()
        await asyncio.sleep(0)

    def _take(self) -> _Connection | None:
        """The open connection that was used last."""
        limit = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle and self._idle[0].last_used < limit:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self.name, self._all),
                    self.name,
                    self._url.port or _PORTS[self._url.scheme],
                    ssl=self._tls,
                    server_hostname=self.name if self._tls else None,
                )
        except OSError as error:
            raise no_connection(error, self.name, self.name, self._advice) from error
        if self._closed:
            connection.close()
        return connection


class _Connection(asyncio.Protocol):
    """One connection, for one request after the other. It is in `all_open` while it is open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, all_open: set[_Connection]) -> None:
        self._loop = loop
        self._host = host
        self._all_open = all_open
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._served = 0
        self.last_used = 0.0

    @property
    def usable(self) -> bool:
        """True if it can take a request."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, seconds: float) -> Answer:
        if self._transport is None:
            raise NoAnswer(f"{self._host} closed the connection", stale=True)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = answer
        timer = self._loop.call_later(seconds, self._time_out, seconds)
        self._transport.write(request)
        try:
            return await answer
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's is no asyncio.Transport by type
        self._all_open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._all_open.discard(self)
        self._fail(
            NoAnswer(f"{self._host} closed the connection", stale=self._served > 0 and not self._parts)
        )

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(NoAnswer(f"{self._host} answers with something that is not HTTP"))

    # httptools

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > httpclient.ANSWER_LIMIT:
            self._fail(NoAnswer(f"{self._host} answers with more than {httpclient.ANSWER_LIMIT >> 20} MiB"))

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        answer, parts = self._answer, self._parts
        if answer is None or status < 200:
            return
        self._answer, self._parts, self._size = None, [], 0
        self._served += 1
        self.last_used = self._loop.time()
        if not self._parser.should_keep_alive():
            self.close()
        if not answer.done():
            answer.set_result(Answer(status, parts[0] if len(parts) == 1 else b"".join(parts)))

    def _time_out(self, seconds: float) -> None:
        self._fail(NoAnswer(f"{self._host} did not answer within {seconds:g} s", timed_out=True))

    def _fail(self, error: NoAnswer) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        self.close()
