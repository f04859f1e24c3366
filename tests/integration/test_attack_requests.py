"""What a request has beside its body, requests that do not wait for answers, and answers that nobody reads."""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from conftest import StartGateway
from sluicegate.functions.runtime_api import RuntimeApi
from sluicegate.http import connection
from sluicegate.http.doors import header, read_body
from sluicegate.http.server import Server

pytestmark = pytest.mark.attack

HANG_SECONDS = 60
LONG = 400 * 65_536
"""Bytes of an attack. It must be cut long before."""
ANSWER = 8 << 20
"""More than the kernel keeps of an answer that nobody reads."""


class App:
    """Answers with the body's size and what `X-Late` says; to `/long` with 8 MiB, to `/page` with 32 KiB."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        body = await read_body(scope, receive, 4 << 20)
        if scope["path"] in ("/long", "/page"):
            size = ANSWER if scope["path"] == "/long" else 32_768
            return await Response(bytes(size))(scope, receive, send)
        late = (header(scope, b"x-late") or b"").decode()
        await PlainTextResponse(f"size:{len(body)}{late}")(scope, receive, send)


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def address(app: App) -> AsyncIterator[tuple[str, int]]:
    serving = Server(app, "127.0.0.1", 0, setting="api.bind")
    await serving.start()
    yield serving.address
    await serving.stop()


@pytest.fixture
async def worker_api() -> AsyncIterator[tuple[str, int]]:
    serving = RuntimeApi()
    host, _, port = (await serving.start()).partition(":")
    serving.group = os.getpgrp()
    yield host, int(port)
    await serving.close()


async def pour(address: tuple[str, int], first: bytes, parts: Iterator[bytes]) -> int:
    """Send until the server cuts the connection: how many bytes it took. Nothing is read."""
    reader, writer = await asyncio.open_connection(*address)
    sent = len(first)
    writer.write(first)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await asyncio.wait_for(writer.drain(), HANG_SECONDS)
            sent += len(part)
            if sent > LONG or reader.at_eof():
                break
    writer.transport.abort()
    return sent


CHUNKED = (
    b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
)
MUCH = b"a" * 65_536
ENDLESS = {
    "trailers": (CHUNKED + b"1\r\nb\r\n0\r\n", (b"X-%d: a\r\n" % n * 1000 for n in itertools.count())),
    "one trailer": (CHUNKED + b"0\r\nX-Long: ", itertools.repeat(MUCH)),
    "a trailer's name": (CHUNKED + b"0\r\n", itertools.repeat(MUCH)),
    "trailers after a long body": (
        CHUNKED + b"200000\r\n" + bytes(2 << 20) + b"\r\n0\r\n",
        itertools.repeat(b"X-Much: abc\r\n" * 5000),
    ),
    "a chunk's extension": (CHUNKED + b"1;a=", itertools.repeat(MUCH)),
    "extensions of small chunks": (CHUNKED, itertools.repeat((b"1;a=" + b"c" * 500 + b"\r\nb\r\n") * 100)),
    "chunks of one byte": (CHUNKED, itertools.repeat(b"1\r\nb\r\n" * 10_000)),
    "empty header lines": (CHUNKED[:-2], itertools.repeat(b"a:\r\n" * 1000)),
    "one header": (CHUNKED[:-2] + b"X-Long: ", itertools.repeat(MUCH)),
    "a target": (b"GET /", itertools.repeat(MUCH)),
    "empty lines before a request": (b"", itertools.repeat(b"\r\n" * 10_000)),
}


def attack(name: str) -> tuple[bytes, Iterator[bytes]]:
    first, parts = ENDLESS[name]
    return first, parts


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_is_no_body_has_an_end(name: str, address: tuple[str, int], app: App) -> None:
    assert await pour(address, *attack(name)) < LONG
    assert (
        await ask(address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    ) == b"size:0"


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_is_no_body_has_an_end_for_workers(name: str, worker_api: tuple[str, int]) -> None:
    assert await pour(worker_api, *attack(name)) < LONG


async def ask(address: tuple[str, int], request: bytes) -> bytes:
    """The body of the answer; b"" if the connection was cut."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    try:
        return (await asyncio.wait_for(reader.read(), HANG_SECONDS)).partition(b"\r\n\r\n")[2]
    except ConnectionError:
        return b""
    finally:
        writer.close()


CLOSING = CHUNKED.replace(b"chunked", b"chunked\r\nConnection: close")


async def test_a_chunked_request_with_trailers_is_answered_without_them(address: tuple[str, int]) -> None:
    for trailer in (b"", b"X-Late: too late\r\n", b"Host: example.org\r\n", b"X-Late: a\r\n" * 100):
        assert await ask(address, CLOSING + b"5;a=b\r\nhello\r\n0\r\n" + trailer + b"\r\n") == b"size:5"


@pytest.mark.parametrize("size", [16, 1_000, 65_536])
async def test_a_long_body_in_small_chunks_is_taken(size: int, address: tuple[str, int]) -> None:
    count = (3 << 20) // size
    chunks = (b"%x\r\n" % size + bytes(size) + b"\r\n") * count
    assert await ask(address, CLOSING + chunks + b"0\r\n\r\n") == b"size:%d" % (count * size)


async def test_more_header_lines_than_anybody_needs(address: tuple[str, int]) -> None:
    """In one read, so that the whole head is there at once."""
    head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    assert await ask(address, head + b"a: b\r\n" * 150 + b"\r\n") == b"size:0"
    assert await ask(address, head + b"a: b\r\n" * 5000 + b"\r\n") == b""


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
NEXT = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def test_requests_that_do_not_wait_for_answers(address: tuple[str, int], app: App) -> None:
    assert await pour(address, b"", itertools.repeat(HEALTH * 1000)) < LONG
    assert app.requests < 1000


async def test_requests_that_wait_for_an_answer_that_is_not_read(
    address: tuple[str, int], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.2)
    long = HEALTH.replace(b"/healthz", b"/long")
    assert await pour(address, long, itertools.repeat(HEALTH)) < LONG
    assert app.requests <= 2


async def test_a_worker_that_does_not_wait_for_answers(worker_api: tuple[str, int]) -> None:
    assert await pour(worker_api, NEXT, itertools.repeat(NEXT * 1000)) < LONG


async def test_some_requests_at_a_time_are_answered_in_order(address: tuple[str, int]) -> None:
    posts = [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % n + bytes(n) for n in range(30)
    ]
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(20):
        writer.write(b"".join(posts))
        for number in range(len(posts)):
            assert await asyncio.wait_for(reader.readuntil(b"size:%d" % number), HANG_SECONDS)
    writer.close()


@pytest.mark.parametrize("path", [b"/long", b"/page"])
async def test_whoever_reads_no_answer_is_cut(
    path: bytes, address: tuple[str, int], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.2)
    _, writer = await asyncio.open_connection(*address, limit=1)
    async with asyncio.timeout(HANG_SECONDS):
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(HEALTH.replace(b"/healthz", path))
                await writer.drain()
                await asyncio.sleep(0.001)


async def test_a_slow_reader_gets_its_long_answer(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.5)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(HEALTH.replace(b"/healthz", b"/long"))
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(ANSWER >> 18):
        await reader.readexactly(1 << 18)
        await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("server_of", ["api_url", "sns_url"])
@pytest.mark.parametrize("name", ["trailers", "one trailer", "chunks of one byte", "requests"])
def test_a_gateway_cuts_them_and_serves_on(name: str, server_of: str, gateway: StartGateway) -> None:
    """With the event loop of a real gateway, which is another one."""
    one = gateway("listeners: [{ name: decoder, bind: 127.0.0.1 }]")
    first, parts = (b"", itertools.repeat(HEALTH * 100)) if name == "requests" else attack(name)
    host, _, port = getattr(one, server_of).rpartition("//")[2].rpartition(":")
    with socket.create_connection((host, int(port)), HANG_SECONDS) as connection:
        connection.sendall(first)
        sent = 0
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                sent += len(part)
                assert sent < LONG
    assert one.api("GET", "/healthz").status_code == 200
    assert one.sns.list_topics()["Topics"] == []
    assert one.stop() == 0
    assert "Traceback" not in one.process.stderr.text
