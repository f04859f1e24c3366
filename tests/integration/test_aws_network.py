"""TLS and proxies on the gateway's own way to AWS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aws_server import EMPTY, Server, answer, failure
from certificates import certificate

from sluicegate.aws import Aws, access

pytestmark = pytest.mark.usefixtures("aws_keys")


@pytest.fixture(autouse=True, params=["direct", "aiohttp"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clients behave alike."""
    if request.param == "aiohttp":
        monkeypatch.setattr(access, "DIRECT", frozenset())


@pytest.fixture
async def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server whose certificate AWS_CA_BUNDLE names."""
    authority, key = certificate(tmp_path)
    made = Server()
    made.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.tls.load_cert_chain(authority, key)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    await made.start()
    yield made
    await made.stop()


async def test_tls(tls_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    tls_server.answers = [answer(200, EMPTY)]
    assert await tls_server.queue().receive() == []
    monkeypatch.delenv("AWS_CA_BUNDLE")
    assert "is not trusted" in str(await failure(tls_server.queue().receive()))
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")
    assert "check AWS_CA_BUNDLE" in str(await failure(tls_server.queue().receive()))


async def test_http_where_tls_is_expected_is_told_as_that() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = str(await failure(Aws("us-east-1", url).queue(f"{url}/1/q").receive()))
    assert "TLS failed; check who answers there" in error
    assert "permitted" not in error


async def test_through_a_proxy(aws_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://name:pass%40word@127.0.0.1:{aws_server.port}")
    aws_server.answers = [answer(200, EMPTY)]
    url = "http://sqs.elsewhere.invalid:8080"
    await Aws("us-east-1", url).queue(f"{url}/1/q").receive()
    line, headers, _ = aws_server.requests[0]
    assert line == f"POST {url}/ HTTP/1.1"
    assert headers["host"] == "sqs.elsewhere.invalid:8080"
    assert headers["proxy-authorization"] == "Basic bmFtZTpwYXNzQHdvcmQ="


async def test_tls_through_a_proxy(
    aws_server: Server, tls_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{aws_server.port}")

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", tls_server.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        finally:
            back.close()

    aws_server.answers = [tunnel]
    tls_server.answers = [answer(200, EMPTY)]
    queue = tls_server.queue()
    await queue.receive()
    await queue.receive()
    assert [line for line, _, _ in aws_server.requests] == [f"CONNECT 127.0.0.1:{tls_server.port} HTTP/1.1"]
    assert len(tls_server.requests) == 2
    aws_server.answers = [answer(407, b"who are you?")]
    assert "answers 407" in str(await failure(tls_server.queue().receive()))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
