"""`http://…` and `https://…`: what a web hook gets, and what its answers lead to."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aws_server import Peer, Server, answer, hang_up, say_nothing
from certificates import certificate
from web_server import OK, Request, Response, WebHook

from sluicegate import httpclient
from sluicegate.destinations.base import DeliveryError, Destination, DestinationContext, DestinationError
from sluicegate.destinations.http import HttpDestination, HttpsDestination
from sluicegate.localcode import LocalCode
from sluicegate.testing import DestinationContract, destination_context, packet_batch

KEY = bytes(range(24))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
BEARER = "Bearer t0p-s3cret"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


class TestHttp(DestinationContract):
    kind = HttpDestination
    arguments = {
        "TimeoutInSeconds": 30.5,
        "Concurrency": 3,
        "Headers": {"X-Site": "north"},
        "HeadersFile": "headers",
        "SecretFile": "hook.key",
    }
    bad_targets = (
        "",
        "//",
        "/in",
        "//user:hunter2@hooks.example/in",
        "//hunter2@hooks.example/in",
        "//hooks.example:99999/hunter2",
        "//hooks.example:0/hunter2",
        "//hooks.example:x/hunter2",
        "//hooks.example/hunter2#part",
        "//hooks.example/hunter2\r\nX-Evil: 1",
        "//hooks.example/hunter2 and",
        "//hooks.exämple/in",
        "//hooks.example\\@elsewhere/in",
    )
    bad_arguments = (
        {"TimeoutInSeconds": 0},
        {"Concurrency": 0},
        {"Headers": "X-Site: north"},
        {"Headers": {"X-Site": "north\r\nX-Evil: hunter2"}},
        {"Headers": {"X-Site\r\nX-Evil": "hunter2"}},
        {"Headers": {"X-Site": "hunter2\0"}},
        {"Headers": {"X-Site": ""}},
        {"Headers": {"Content-Length": "7"}},
        {"Headers": {"host": "hunter2"}},
        {"Headers": {"Webhook-Signature": "v1,hunter2"}},
        {"Headers": {"Authorization": "hunter2"}},
        {"Headers": {"X-Api-Key": "hunter2"}},
        {"HeadersFile": "bad-headers"},
        {"HeadersFile": "absent"},
        {"HeadersFile": "."},
        {"SecretFile": "headers"},
        {"SecretFile": "empty"},
        {"CaFile": "hook.key"},
    )
    secrets = ("hunter2", "t0p-s3cret", SECRET)

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, web_hook: WebHook) -> None:
        self.hook = web_hook
        self.target = f"//127.0.0.1:{web_hook.port}/in"
        (tmp_path / "headers").write_text(f"Authorization: {BEARER}\n")
        (tmp_path / "bad-headers").write_text("Authorization hunter2\n")
        (tmp_path / "hook.key").write_text(f"{SECRET}\n")
        (tmp_path / "empty").write_text("\n")

    def delivered(self, destination: Destination) -> list[str]:
        taken, self.hook.taken = self.hook.taken, []
        return [one for request in taken for one in request.data]

    def refuse(self, destination: Destination) -> None:
        self.hook.respond = lambda request: (403, {}, b"hunter2")

    def refuse_packets(self, destination: Destination) -> str:
        self.hook.respond = lambda request: (413, {}, b"") if b'"too large"' in request.body else OK
        return "too large"

    def stall(self, destination: Destination) -> None:
        def respond(request: Request) -> Response:
            self.hook.stopped.wait()
            return OK

        self.hook.respond = respond


@asynccontextmanager
async def made(
    url: str, directory: Path, arguments: Mapping[str, Any] | None = None
) -> AsyncIterator[Destination]:
    scheme, _, target = url.partition(":")
    kind = {"http": HttpDestination, "https": HttpsDestination}[scheme]
    one = kind.from_spec("hook", target, arguments or {}, destination_context(directory))
    await one.provision()
    try:
        yield one
    finally:
        await one.close()


async def failed(one: Destination, *data: str) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await one.deliver(packet_batch(*data))
    return raised.value


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await writer.drain()


async def drop_by_drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(0.02)


async def in_an_hour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(429, b"", f"Retry-After: {formatdate(time.time() + 3600, usegmt=True)}"))


@pytest.mark.parametrize(
    ("refused", "reason", "retryable", "after"),
    [
        pytest.param(
            answer(429, b"", "Retry-After: 7"),
            "Throttled",
            True,
            7,
            marks=pytest.mark.shows("throttled", service="http"),
        ),
        (in_an_hour, "Throttled", True, 3600),
        (answer(429, b"", "Retry-After: soon"), "Throttled", True, 0),
        (answer(503, b"", "Retry-After: 99999999999999999999"), "ServerError", True, 1e9),
        (answer(500, b"hunter2"), "ServerError", True, 0),
        (answer(401, b"hunter2"), "AccessDenied", False, 0),
        pytest.param(
            answer(403, b"hunter2"),
            "AccessDenied",
            False,
            0,
            marks=pytest.mark.shows("denied", service="http"),
        ),
        (answer(404, b"hunter2", "Retry-After: 7"), "Refused", False, 0),
        (answer(301, b"", "Location: http://127.0.0.1:1/hunter2"), "Redirected", False, 0),
        (answer(307, b"", "Location: http://169.254.169.254/hunter2"), "Redirected", False, 0),
        (answer(413, b""), "PacketTooLarge", False, 0),
        (hang_up, "NoAnswer", True, 0),
        (b"this is not HTTP\r\n\r\n", "NoAnswer", True, 0),
        (say_nothing, "TimedOut", True, 0),
        (drop_by_drop, "TimedOut", True, 0),
        (endless, "AnswerTooLarge", False, 0),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
async def test_a_hook_that_does_not_take_it(
    refused: bytes | Peer,
    reason: str,
    retryable: bool,
    after: float,
    aws_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(httpclient, "ANSWER_LIMIT", 1 << 20)
    aws_server.answers = [refused]
    slow = refused in (say_nothing, drop_by_drop)
    arguments = {"TimeoutInSeconds": 0.3} if slow else {}
    async with made(f"{aws_server.url}/hunter2?key=hunter2", tmp_path, arguments) as one:
        error = await failed(one, "a")
        assert (error.reason, error.retryable) == (reason, retryable)
        assert reason in one.reasons
        assert error.retry_after == pytest.approx(after, rel=0.1) or error.retry_after >= after > 1e8
        assert "hunter2" not in f"{error} {error.__cause__}"
        assert len(aws_server.requests) == 1
        # Nothing of it stays: the next one gets through.
        aws_server.answers = [answer(200, b"null")]
        await one.deliver(packet_batch("a"))


@pytest.mark.parametrize(
    ("kind", "body", "handed_on"),
    [
        ("application/json", b'{"Replies": []}', True),
        ("application/problem+json; charset=utf-8", b"[]", True),
        ("text/plain", b"ok", False),
        ("text/html", b"<html>", False),
        ("text/plain", b' {"Replies": []}', True),
        (None, b"null", True),
    ],
)
async def test_replies_are_read_from_answers_that_are_json(
    kind: str | None, body: bytes, handed_on: bool, aws_server: Server, tmp_path: Path
) -> None:
    aws_server.answers = [answer(200, body, *([f"Content-Type: {kind}"] if kind else []))]
    async with made(aws_server.url, tmp_path) as one:
        assert await one.deliver(packet_batch("a")) == (body if handed_on else None)


async def test_a_compressed_answer_is_not_unpacked(aws_server: Server, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    aws_server.answers = [answer(200, bomb, "Content-Type: application/json", "Content-Encoding: gzip")]
    async with made(aws_server.url, tmp_path) as one:
        assert await one.deliver(packet_batch("a")) == bomb
    assert aws_server.requests[0][1]["accept-encoding"] == "identity"


async def test_requests_are_signed_and_a_repeated_one_has_its_id(aws_server: Server, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{SECRET}\nwhsec_{base64.b64encode(KEY[::-1]).decode()}\n")
    (tmp_path / "headers").write_text(f"Authorization: {BEARER}\n\nX-Api-Key:k\n")
    arguments = {"SecretFile": "keys", "HeadersFile": "headers", "Headers": {"X-Site": "north"}}
    aws_server.answers = [answer(500, b""), answer(200, b"")]
    async with made(f"{aws_server.url}/in?a=b", tmp_path, arguments) as one:
        await failed(one, "a", "b")
        await one.deliver(packet_batch("a", "b"))
        await one.deliver(packet_batch("a"))
    (line, headers, body), (_, again, _), (_, other, _) = aws_server.requests
    assert line == "POST /in?a=b HTTP/1.1"
    assert (headers["content-type"], headers["x-site"]) == ("application/json", "north")
    assert (headers["authorization"], headers["x-api-key"]) == (BEARER, "k")
    assert body == packet_batch("a", "b").body()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in (KEY, KEY[::-1])]
    assert headers["webhook-signature"] == " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests)
    assert headers["webhook-id"] == again["webhook-id"] != other["webhook-id"]


@pytest.mark.shows("oversize", service="http")
async def test_a_batch_that_is_too_large_goes_in_parts(web_hook: WebHook, tmp_path: Path) -> None:
    def respond(request: Request) -> Response:
        if len(request.data) > 2 or "x" in request.data:
            return 413, {}, b""
        replies = ",".join(f'{{"Tag":"{one["Tag"]}","Data":"r"}}' for one in request.messages)
        return 200, {"Content-Type": "application/json"}, f'{{"Replies":[{replies}]}}'.encode()

    web_hook.respond = respond
    async with made(web_hook.url, tmp_path) as one:
        whole = await one.deliver(packet_batch(*"abcde"))
        error = await failed(one, *"abxd")
    assert re.findall(rb"tag-(.)", whole or b"") == [b"a", b"b", b"c", b"d", b"e"]
    assert web_hook.data == [*"abcde", *"abd"]
    assert error.packets is not None
    assert {index: (each.reason, each.retryable) for index, each in error.packets.items()} == {
        2: ("PacketTooLarge", False)
    }
    assert re.findall(rb"tag-(.)", error.answer or b"") == [b"a", b"b", b"d"]
    first = web_hook.taken[:3]
    assert [request.data for request in first] == [["a", "b"], ["c"], ["d", "e"]]
    assert len({request.headers["webhook-id"] for request in first}) == 3


async def test_an_authority_and_a_certificate_of_ones_own(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "both.pem").write_text(cert.read_text() + key.read_text())
    server = Server()
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    server.tls.load_cert_chain(cert, key)
    server.tls.verify_mode = ssl.CERT_REQUIRED
    server.answers = [answer(200, b"")]
    await server.start()
    names = {"CaFile": cert.name, "CertificateFile": cert.name, "KeyFile": key.name}
    try:
        for good in (names, {"CaFile": cert.name, "CertificateFile": "both.pem"}):
            async with made(server.url, tmp_path, good) as one:
                await one.deliver(packet_batch("a"))
        async with made(server.url, tmp_path) as stranger:
            assert "CaFile" in (await failed(stranger, "a")).detail
        async with made(server.url.replace("127.0.0.1", "localhost"), tmp_path, names) as other:
            assert "localhost is not trusted" in (await failed(other, "a")).detail
    finally:
        await server.stop()
    context = destination_context(tmp_path)
    (tmp_path / "locked.pem").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    for bad, place in (
        ({**names, "KeyFile": cert.name}, "KeyFile"),
        ({**names, "KeyFile": "locked.pem"}, "KeyFile"),
        ({**names, "CertificateFile": "absent"}, "KeyFile"),
        ({"KeyFile": key.name}, "KeyFile"),
        ({"CertificateFile": cert.name}, "CertificateFile"),
    ):
        with pytest.raises(DestinationError) as refused:
            HttpsDestination.from_spec("hook", "//h.example/", bad, context)
        assert refused.value.argument == (place,), bad


async def test_the_proxy_of_the_environment_is_used(
    aws_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", aws_server.url)
    aws_server.answers = [answer(200, b"")]
    async with made("http://hooks.example/in", tmp_path) as one:
        await one.deliver(packet_batch("a"))
    assert aws_server.requests[0][0] == "POST http://hooks.example/in HTTP/1.1"


def test_secrets_do_not_go_out_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text(f"Authorization: {BEARER}\n")
    context, arguments = destination_context(tmp_path), {"HeadersFile": "headers"}
    for host in ("127.0.0.1", "localhost", "[::1]"):
        HttpDestination.from_spec("hook", f"//{host}/", arguments, context)
    HttpsDestination.from_spec("hook", "//hooks.example/", arguments, context)
    with pytest.raises(DestinationError, match="in the clear"):
        HttpDestination.from_spec("hook", "//hooks.example/", arguments, context)


@pytest.fixture
def bounded(tmp_path: Path) -> DestinationContext:
    """The context of a document of the API."""
    bounds = LocalCode((str(tmp_path / "open"),), (str(tmp_path / "open/s.db"),), ("10.20.0.0/16",))
    (tmp_path / "open").mkdir()
    return replace(destination_context(tmp_path), local_code=bounds)


@pytest.mark.attack
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "localhost",
        "a.localhost",
        "LOCALHOST.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "10.21.0.1",
        "[fe80::1]",
    ],
)
def test_a_document_of_the_api_reaches_no_special_address(host: str, bounded: DestinationContext) -> None:
    with pytest.raises(DestinationError, match="local_networks"):
        HttpDestination.from_spec("hook", f"//{host}:8080/", {}, bounded)


@pytest.mark.attack
def test_nor_does_a_name_that_leads_there(
    bounded: DestinationContext, web_hook: WebHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it led to when the document was read."""
    look_up = socket.getaddrinfo

    def rebound(host: Any, *rest: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == "rebind.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)

    async def deliver(context: DestinationContext) -> None:
        one = HttpDestination.from_spec("hook", f"//rebind.example:{web_hook.port}/", {}, context)
        try:
            await one.deliver(packet_batch("a"))
        finally:
            await one.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        with pytest.raises(
            DeliveryError, match=r"AddressForbidden.*rebind\.example: it is a loopback address"
        ) as raised:
            runner.run(deliver(bounded))
        assert not raised.value.retryable
        assert web_hook.requests == []
        runner.run(deliver(destination_context(bounded.base_dir)))  # the operator's word
        assert web_hook.data == ["a"]


@pytest.mark.attack
def test_a_document_of_the_api_names_no_secrets_that_are_sent_and_none_of_the_gateway(
    bounded: DestinationContext, tmp_path: Path
) -> None:
    for name in ("outside", "open/s.db.admin-key", "open/mine"):
        (tmp_path / name).write_text(SECRET)
    HttpsDestination.from_spec("hook", "//hooks.example/", {"SecretFile": "open/mine"}, bounded)
    for arguments in (
        {"SecretFile": "outside"},
        {"SecretFile": "open/s.db.admin-key"},
        {"HeadersFile": "open/mine"},
        {"CaFile": "/etc/ssl/certs/ca-certificates.crt"},
        {"CertificateFile": "outside"},
    ):
        with pytest.raises(DestinationError) as refused:
            HttpsDestination.from_spec("hook", "//hooks.example/", arguments, bounded)
        assert refused.value.argument == tuple(arguments)
