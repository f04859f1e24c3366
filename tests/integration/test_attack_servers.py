"""The API and the SNS endpoint of a running gateway under more connections than they serve, and for odd `Host`s."""

import socket
from urllib.parse import urlsplit

import pytest
from harness import ECHO, HANG_SECONDS, Client, Gateway, source_of

from conftest import StartGateway
from sluicegate.http.server import CONNECTION_LIMIT

pytestmark = pytest.mark.attack

LISTENER = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: { networks: [127.0.0.0/8] }
    destinations:
      - name: echo
        destination_arn: function:echo.py:handler
        batching: { count: 1, timeout_in_seconds: 0.01 }
"""
LIST = b"Action=ListTopics&Version=2010-03-31"


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), HANG_SECONDS)


def request(url: str, head: str = "GET /healthz", host: str | None = "localhost", body: bytes = b"") -> bytes:
    lines = [f"{head} HTTP/1.1", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/x-www-form-urlencoded"] if body else []
    lines += [f"Host: {one}" for one in host.split("|")] if host is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer(connection: socket.socket, sent: bytes) -> bytes:
    """Status line, headers and the first part of the body; b"" if the connection is closed."""
    try:
        connection.sendall(sent)
        got = b""
        while b"\r\n\r\n" not in got or got.endswith(b"\r\n\r\n"):
            part = connection.recv(65_536)
            if not part:
                break
            got += part
    except ConnectionError:
        return b""
    return got


def of(url: str, one: Gateway) -> bytes:
    """A cheap request in the language of this endpoint."""
    if url == one.api_url:
        return request(url)
    return request(url, "POST /", body=LIST)


@pytest.fixture
def one(gateway: StartGateway) -> Gateway:
    return gateway(LISTENER + source_of("decoder"), {"echo": ECHO})


def test_a_thousand_silent_connections_keep_nobody_out(one: Gateway) -> None:
    for url in (one.api_url, one.sns_url):
        held = [connect(url) for _ in range(CONNECTION_LIMIT)]
        with connect(url) as late:
            assert b"200 OK" in answer(late, of(url, one))
            more = [connect(url) for _ in range(100)]
            assert b"200 OK" in answer(late, of(url, one))  # it has asked something, so that it stays
        for connection in (*held, *more):
            connection.close()
    assert one.publish({"Messages": []})
    with Client() as client:
        client.send(b"x", one.address())
        assert client.receive()[0] == b"x"


def test_a_thousand_active_connections_are_served_and_newcomers_told(one: Gateway) -> None:
    for url, refusal in (
        (one.api_url, b"application/problem+json"),
        (one.sns_url, b"<Code>ServiceUnavailable</Code>"),
    ):
        sent = of(url, one)
        active: list[socket.socket] = []
        while b"200 OK" in (got := answer(newcomer := connect(url), sent)):
            active.append(newcomer)
            assert len(active) <= CONNECTION_LIMIT
        newcomer.close()
        assert b"503 Service Unavailable" in got
        assert refusal in got
        assert len(active) >= CONNECTION_LIMIT - 1  # the harness may have one
        for held in active:
            assert b"200 OK" in answer(held, sent)
        for connection in active:
            connection.close()


BELIEVED = [
    "127.0.0.1",
    "127.0.0.1:8080",
    "localhost",
    "LOCALHOST:1",
    "[::1]",
    "[::1]:8080",
    "192.168.1.7:80",
]
DOUBTED = [
    "[::1].evil.com",
    "[::1]evil.com",
    "[::1]:80@evil.com",
    "[::1]:evil",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "localhost.",
    "localhost:80@evil.com",
    "evil@localhost",
    "127.0.0.1:80:evil.com",
    "0.0.0.0",
    "[::]",
    "2130706433",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
    "127.0.0.1.",
    "::1",
    "localhost|evil.com",
    "evil.com|localhost",
    "localhost, evil.com",
    "",
    None,
]


def status(url: str, sent: bytes) -> bytes:
    with connect(url) as asked:
        return answer(asked, sent).partition(b"\r\n")[0]


def test_only_addresses_and_localhost_are_believed_as_host(one: Gateway) -> None:
    for url, head, body in ((one.api_url, "GET /v1/listeners", b""), (one.sns_url, "POST /", LIST)):
        for host in BELIEVED:
            assert b" 200 " in status(url, request(url, head, host, body)), host
        for host in DOUBTED:
            found = status(url, request(url, head, host, body))
            assert b" 403 " in found or b" 400 " in found, (host, found)


def test_a_host_in_the_target_is_the_one_that_counts(one: Gateway) -> None:
    for target, believed in (
        ("http://evil.com/v1/listeners", False),
        ("http://evil.com", False),
        ("http://localhost@evil.com/v1/listeners", False),
        ("HTTP://[::1].evil.com/v1/listeners", False),
        ("http://127.0.0.1:8080/v1/listeners", True),
    ):
        found = status(one.api_url, request(one.api_url, f"GET {target}", "localhost"))
        assert (b" 200 " in found) is believed, (target, found)
