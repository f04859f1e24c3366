"""What one connection to the API or the SNS endpoint can hold: neither time nor memory without end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sluicegate.http import server
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


async def test_connections_beyond_the_limit(address: tuple[str, int]) -> None:
    held = [await asyncio.open_connection(*address) for _ in range(4)]
    assert b"503 Service Unavailable" in await answer(address, REQUEST + b"hello")
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    assert (await answer(address, REQUEST, b"hello")).endswith(b"\r\n\r\n5")


async def test_any_address_but_loopback_only_with_credentials() -> None:
    with pytest.raises(BindError, match="is not a loopback address"):
        Server(size, "0.0.0.0", 0, setting="api.bind").bind()
    serving = Server(size, "0.0.0.0", 0, setting="api.bind", authenticated=True)
    serving.bind()
    await serving.stop()
