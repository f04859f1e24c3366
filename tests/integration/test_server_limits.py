"""What one connection to the API or the SNS endpoint can hold: neither time nor memory without end."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sluicegate.http import acceptor, server
from sluicegate.http.doors import read_body
from sluicegate.http.server import BindError, Server


async def size(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, 1 << 20)
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, int]]:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(server, "CONNECTION_LIMIT", 5)
    serving = Server(size, "127.0.0.1", 0, setting="api.bind")
    await serving.start()
    yield serving.address
    await serving.stop()


async def answer(address: tuple[str, int], *parts: bytes, pause: float = 0.0) -> bytes:
    """Everything that comes back until the server closes, b"" for nothing."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), 60)
    except (ConnectionResetError, BrokenPipeError):
        return b""
    finally:
        writer.close()


REQUEST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"


async def test_a_request_that_arrives_in_time(address: tuple[str, int]) -> None:
    assert (await answer(address, REQUEST, b"hello")).endswith(b"\r\n\r\n5")
    assert (await answer(address, REQUEST[:20], REQUEST[20:], b"he", b"llo")).endswith(b"\r\n\r\n5")


@pytest.mark.parametrize("parts", [(), (REQUEST[:20],), (REQUEST,), (REQUEST, b"he")])
async def test_a_request_that_does_not_arrive_in_time(
    address: tuple[str, int], parts: tuple[bytes, ...]
) -> None:
    assert await answer(address, *parts) == b""


async def test_a_request_that_trickles(address: tuple[str, int]) -> None:
    drops = [b"X-A: b\r\n"] * 20
    assert await answer(address, REQUEST[:-2], *drops, pause=0.05) == b""


async def test_the_second_request_of_a_connection_has_its_own_time(address: tuple[str, int]) -> None:
    keep = REQUEST.replace(b"Connection: close\r\n", b"") + b"hello"
    reader, writer = await asyncio.open_connection(*address)
    writer.write(keep)
    assert await reader.readuntil(b"\r\n\r\n5")
    await asyncio.sleep(0.4)
    writer.write(keep[:30])
    assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()


async def test_a_head_without_end(address: tuple[str, int]) -> None:
    assert await answer(address, REQUEST[:-2] + b"X-Long: " + b"a" * 200_000) == b""
    many = b"".join(b"X-%d: a\r\n" % number for number in range(20_000))
    assert await answer(address, REQUEST[:-2] + many) == b""


async def test_a_long_body_is_no_long_head(address: tuple[str, int]) -> None:
    request = REQUEST.replace(b"Content-Length: 5", b"Content-Length: 500000")
    assert (await answer(address, request + b"b" * 500_000)).endswith(b"\r\n\r\n500000")


async def ask(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    """The answer to a request on a connection that stays open; b"" if it was closed."""
    reader, writer = stream
    try:
        writer.write(KEEP)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n5"), 60)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


KEEP = REQUEST.replace(b"Connection: close\r\n", b"") + b"hello"


@pytest.mark.attack
@pytest.mark.parametrize("first", [b"", KEEP[:20], KEEP[:-2]], ids=["silent", "half a head", "half a body"])
async def test_whoever_asked_nothing_gives_way_to_a_newcomer(address: tuple[str, int], first: bytes) -> None:
    held = [await asyncio.open_connection(*address) for _ in range(5)]
    for _, writer in held:
        writer.write(first)
    assert (await answer(address, REQUEST, b"hello")).endswith(b"\r\n\r\n5")
    assert await held[0][0].read() == b""
    for _, writer in held:
        writer.close()


@pytest.mark.attack
async def test_newcomers_are_refused_while_all_others_are_active(address: tuple[str, int]) -> None:
    active = [await asyncio.open_connection(*address) for _ in range(5)]
    for stream in active:
        assert b"200 OK" in await ask(stream)
    refused = await answer(address, REQUEST, b"hello")
    assert b"503 Service Unavailable" in refused
    assert b"connection: close" in refused
    for stream in active:
        assert b"200 OK" in await ask(stream)
    for _, writer in active:
        writer.close()
        await writer.wait_closed()
    assert (await answer(address, REQUEST, b"hello")).endswith(b"\r\n\r\n5")


@pytest.mark.attack
async def test_whoever_rests_longest_gives_way(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "REST_SECONDS", 0.0)
    streams = [await asyncio.open_connection(*address) for _ in range(5)]
    for stream in (*streams, streams[0]):
        assert b"200 OK" in await ask(stream)
    assert (await answer(address, REQUEST, b"hello")).endswith(b"\r\n\r\n5")
    assert [bool(await ask(stream)) for stream in streams] == [True, False, True, True, True]
    for _, writer in streams:
        writer.close()


@pytest.mark.attack
async def test_more_newcomers_than_can_be_told_are_closed(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "ASIDE", 2)
    monkeypatch.setattr(server, "CONNECTION_LIMIT", 12)
    active = [await asyncio.open_connection(*address) for _ in range(5)]
    for stream in active:
        assert b"200 OK" in await ask(stream)
    silent = [await asyncio.open_connection(*address) for _ in range(2)]
    assert await answer(address) == b""
    for _, writer in (*active, *silent):
        writer.close()


@pytest.mark.attack
async def test_no_descriptor_left_neither_ends_the_server_nor_makes_it_spin(address: tuple[str, int]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket() for _ in range(3)]
    highest = os.dup(0)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        for one in waiting:
            one.connect(address)
        used = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - used < 0.25
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await answer(address, REQUEST, b"hello")).endswith(b"\r\n\r\n5")
    for one in waiting:
        one.close()


async def test_any_address_but_loopback_only_with_credentials() -> None:
    with pytest.raises(BindError, match="is not a loopback address"):
        Server(size, "0.0.0.0", 0, setting="api.bind").bind()
    serving = Server(size, "0.0.0.0", 0, setting="api.bind", authenticated=True)
    serving.bind()
    await serving.stop()
