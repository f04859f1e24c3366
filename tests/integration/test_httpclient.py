"""Calls that go out through `sluicegate.httpclient`, as a web hook would make them. Faults of servers that every client
has to bear are in `test_aws_calls.py` and `test_aws_network.py`."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aws_server import Server, answer, hang_up
from certificates import certificate

from sluicegate.httpclient import Advice, Host, NoAnswer, environment_proxy

HEADERS = {"Content-Type": "application/json", "X-Hook": "1"}


@pytest.fixture
async def host(aws_server: Server) -> AsyncIterator[Host]:
    made = Host(f"{aws_server.url}/in?key=a%2Fb")
    yield made
    await made.close()


async def test_a_post_and_its_answer(host: Host, aws_server: Server) -> None:
    aws_server.answers = [answer(429, b"later", "Retry-After: 7", "Set-Cookie: a=b"), answer(200, b"")]
    status, body, headers = await host.post(HEADERS, b"{}", 10)
    assert (status, body, headers["retry-after"]) == (429, b"later", "7")
    assert (await host.post(HEADERS, b"", 10)).status == 200
    (line, sent, came), (_, again, _) = aws_server.requests
    assert line == "POST /in?key=a%2Fb HTTP/1.1"
    assert came == b"{}"
    assert sent == {
        "host": aws_server.url.removeprefix("http://"),
        "content-type": "application/json",
        "x-hook": "1",
        "content-length": "2",
    }
    assert "cookie" not in again


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers(host: Host, aws_server: Server, status: int) -> None:
    aws_server.answers = [answer(status, b"", f"Location: {aws_server.url}/elsewhere")]
    assert (await host.post(HEADERS, b"{}", 10)).status == status
    assert len(aws_server.requests) == 1


async def test_what_nobody_asked_for_is_no_answer(host: Host, aws_server: Server) -> None:
    """A second answer to one request must not be taken for the answer to the next one."""

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, b"first"))
        await writer.drain()
        await released.wait()
        writer.write(answer(200, b"forged"))
        await writer.drain()
        sent.set()

    released, sent = asyncio.Event(), asyncio.Event()
    aws_server.answers = [twice, answer(200, b"second")]
    assert (await host.post(HEADERS, b"{}", 10)).body == b"first"
    released.set()
    await sent.wait()
    for _ in range(5):  # the bytes have arrived: the client's transport has its turn
        await asyncio.sleep(0)
    assert (await host.post(HEADERS, b"{}", 10)).body == b"second"


async def test_requests_side_by_side_have_a_connection_each(host: Host, aws_server: Server) -> None:
    everybody = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(aws_server.requests) == 150:
            everybody.set()
        await everybody.wait()
        writer.write(answer(200, b""))

    aws_server.answers = [wait]
    answers = await asyncio.gather(*(host.post(HEADERS, b"{}", 30) for _ in range(150)))
    assert {each.status for each in answers} == {200}
    assert aws_server.connections == 150


async def test_a_drip_of_bytes_does_not_prolong_the_time(host: Host, aws_server: Server) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    aws_server.answers = [drip]
    with pytest.raises(NoAnswer, match=r"did not answer within 0\.5 s") as raised:
        await host.post(HEADERS, b"{}", 0.5)
    assert raised.value.timed_out


async def test_only_a_connection_that_was_open_before_is_stale(host: Host, aws_server: Server) -> None:
    aws_server.answers = [answer(200, b""), hang_up]
    await host.post(HEADERS, b"{}", 10)
    with pytest.raises(NoAnswer) as old:
        await host.post(HEADERS, b"{}", 10)
    with pytest.raises(NoAnswer) as new:
        await host.post(HEADERS, b"{}", 10)
    assert (old.value.stale, new.value.stale) == (True, False)


async def test_after_close_nothing_goes_out(host: Host, aws_server: Server) -> None:
    aws_server.answers = [answer(200, b"")]
    await host.post(HEADERS, b"{}", 10)
    await host.close()
    unused = Host(aws_server.url)
    await unused.close()
    for closed in (host, unused):
        with pytest.raises(NoAnswer, match="was closed here"):
            await closed.post(HEADERS, b"{}", 10)
    assert len(aws_server.requests) == 1


async def test_an_authority_of_ones_own_and_a_clients_certificate(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    server = Server()
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made))
    server.tls.load_cert_chain(made, key)
    server.tls.verify_mode = ssl.CERT_REQUIRED
    server.answers = [answer(200, b"in")]
    await server.start()
    tls = ssl.create_default_context(cafile=str(made))
    tls.load_cert_chain(made, key)
    known, stranger = Host(server.url, tls), Host(server.url, advice=Advice(untrusted="check tls.ca"))
    try:
        assert (await known.post(HEADERS, b"{}", 10)).body == b"in"
        with pytest.raises(NoAnswer, match=r"is not trusted: .*; check tls\.ca"):
            await stranger.post(HEADERS, b"{}", 10)
    finally:
        await known.close()
        await stranger.close()
        await server.stop()


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "ALL_PROXY",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert environment_proxy("https://hooks.example/in") == "http://proxy.example:3128"
    assert environment_proxy("https://hooks.inside.example/in") is None
    assert environment_proxy("http://hooks.example/in") is None


async def test_aiohttp_is_not_loaded_before_the_first_call() -> None:
    program = (
        "import sys, sluicegate.gateway, sluicegate.httpclient; "
        "sluicegate.httpclient.Host('http://h'); print('aiohttp' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"False\n"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_an_address_that_may_not_be_called(aws_server: Server, name: str) -> None:
    """Also where a name leads to it."""
    aws_server.answers = [answer(200, b"")]
    seen: list[str] = []

    def forbids(address: str) -> str | None:
        seen.append(address)
        return "a loopback address"

    host = Host(f"http://{name}:{aws_server.port}/", forbids=forbids)
    with pytest.raises(NoAnswer, match=f"no connection to {name}: it is a loopback address") as raised:
        await host.post(HEADERS, b"{}", 10)
    await host.close()
    assert raised.value.forbidden
    assert "127.0.0.1" in seen
    assert aws_server.connections == 0
