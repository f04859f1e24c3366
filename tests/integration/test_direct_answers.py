"""What is answered at once (`http/direct.py`) is answered as by the way of ASGI: the same refusals, the same effects.

Each request goes to two servers with the same application behind them; one of the two does not know that it could
answer at once.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from starlette.types import Receive, Scope, Send

from doubles import FakeSender
from sluicegate.api.app import create_app as create_api
from sluicegate.deadletters.failures import Failures
from sluicegate.egress.message import EgressClosed, EgressFull, Message, Outcome
from sluicegate.http.auth import Authenticator
from sluicegate.http.direct import BODY_LIMIT, Answer, Direct, Take
from sluicegate.http.server import Server
from sluicegate.sources.local.access import LocalAccess
from sluicegate.sources.local.endpoint import create_app as create_sns
from sluicegate.sources.local.signature import SigV4
from sluicegate.sources.local.topics import Binding, Topics
from sluicegate.state.keys import KeyFile

HANG_SECONDS = 30
ARN = "arn:aws:sns:us-east-1:000000000000:replies"
BODY = b'{"Data":"AQIDBA==","Remote":{"Address":"127.0.0.1","Port":9}}'
SOURCES = "/v1/packet-sources"
PUBLISH = {"Action": "Publish", "Version": "2010-03-31", "TopicArn": ARN, "Message": BODY.decode()}
FORM = ("Content-Type", "application/x-www-form-urlencoded")
Headers = tuple[tuple[str, str], ...]


def request(
    path: str, body: bytes, *headers: tuple[str, str], method: str = "POST", host: str | None = "127.0.0.1"
) -> bytes:
    """As it is sent. `Content-Length` stands in it unless `headers` frame the body."""
    lines = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"])]
    lines += [f"{name}: {value}" for name, value in headers]
    if not {name.lower() for name, _ in headers} & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def rest(*headers: tuple[str, str], name: str = "replies", body: bytes = BODY, **more: Any) -> bytes:
    return request(f"{SOURCES}/{name}/messages", body, *headers, **more)


def sns(*headers: tuple[str, str], path: str = "/", **fields: str) -> bytes:
    return request(path, urlencode({**PUBLISH, **fields}).encode(), FORM, *headers)


ANY = {
    "plain": {},
    "wrong host": {"host": "evil.example"},
    "host with port": {"host": "localhost:8000"},
    "no host": {"host": None},
    "empty host": {"host": ""},
    "host of a name": {"host": "localhost.evil.example"},
    "unspecified host": {"host": "0.0.0.0"},
    "GET": {"method": "GET"},
    "HEAD": {"method": "HEAD"},
    "OPTIONS": {"method": "OPTIONS"},
    "PUT": {"method": "PUT"},
    "DELETE": {"method": "DELETE"},
    "unknown method": {"method": "PURGE"},
}
"""What either door is asked, by what is strange about it."""
HEADERS: dict[str, Headers] = {
    "second host": (("Host", "evil.example"),),
    "origin": (("Origin", "http://evil.example"),),
    "null origin": (("Origin", "null"),),
    "cross-site": (("Sec-Fetch-Site", "cross-site"),),
    "same-origin": (("Sec-Fetch-Site", "same-origin"),),
    "typed by a user": (("Sec-Fetch-Site", "none"),),
    "unknown key": (("Authorization", "Bearer sg_0000000000_nothing"),),
    "key that is none": (("X-Api-Key", "nonsense"),),
    "basic": (("Authorization", "Basic YTpi"),),
    "unknown access key": (
        ("X-Amz-Date", "20260101T000000Z"),
        (
            "Authorization",
            "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/sns/aws4_request, "
            "SignedHeaders=host;x-amz-date, Signature=00",
        ),
    ),
    "compressed": (("Content-Encoding", "gzip"),),
    "to be closed": (("Connection", "close"),),
    "expects 100": (("Expect", "100-continue"),),
    "upgrade": (("Connection", "Upgrade, close"), ("Upgrade", "websocket")),
    "upgrade to HTTP/2": (("Connection", "Upgrade, HTTP2-Settings, close"), ("Upgrade", "h2c")),
    "length that is none": (("Content-Length", "5x"),),
    "negative length": (("Content-Length", "-1"),),
    "two lengths": (("Content-Length", str(len(BODY))), ("Content-Length", "3")),
    "length and chunks": (("Content-Length", "3"), ("Transfer-Encoding", "chunked")),
    "unknown coding": (("Transfer-Encoding", "gzip"),),
    "many headers": tuple((f"X-{number}", "x") for number in range(150)),
}
REST = {
    **{name: rest(**one) for name, one in ANY.items()},
    **{name: rest(*headers) for name, headers in HEADERS.items()},
    "chunks": rest(("Transfer-Encoding", "chunked"), body=chunked(BODY)),
    "HTTP/1.0": rest().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 kept": rest(("Connection", "keep-alive")).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "empty body": rest(body=b""),
    "largest held": rest(body=BODY.ljust(BODY_LIMIT)),
    "larger": rest(body=BODY.ljust(BODY_LIMIT + 1)),
    "largest": rest(body=BODY.ljust(262_144)),
    "too large": rest(body=BODY.ljust(262_145)),
    "unknown source": rest(name="nobody"),
    "disabled source": rest(name="off"),
    "full sender": rest(name="full"),
    "stopping sender": rest(name="closed"),
    "entries that fail": rest(name="failing"),
    "broken sender": rest(name="broken"),
    "escaped name": rest(name="%72eplies"),
    "escaped slash": rest(name="replies%2Fmessages"),
    "escaped line end": request(f"{SOURCES}/replies/messages%0A", BODY),
    "no name": rest(name=""),
    "two slashes": request(f"/{SOURCES}/replies/messages", BODY),
    "slash behind": request(f"{SOURCES}/replies/messages/", BODY),
    "dots": request(f"{SOURCES}/off/../replies/messages", BODY),
    "capitals": request(f"{SOURCES}/replies/Messages", BODY),
    "query": request(f"{SOURCES}/replies/messages?a=b", BODY),
    "fragment": request(f"{SOURCES}/replies/messages#a", BODY),
    "whole URL": request(f"http://127.0.0.1{SOURCES}/replies/messages", BODY),
    "URL of another host": request(f"http://evil.example{SOURCES}/replies/messages", BODY),
    "long name": rest(name="r" * 5_000),
    "another path": request("/v1/listeners", BODY),
    "asterisk": request("*", b"", method="OPTIONS"),
}
SNS = {
    **{name: request("/", urlencode(PUBLISH).encode(), FORM, **one) for name, one in ANY.items()},
    **{name: sns(*headers) for name, headers in HEADERS.items()},
    "chunks": request("/", chunked(urlencode(PUBLISH).encode()), FORM, ("Transfer-Encoding", "chunked")),
    "no content type": request("/", urlencode(PUBLISH).encode()),
    "JSON": request("/", BODY, ("Content-Type", "application/json")),
    "content type with a charset": request(
        "/", urlencode(PUBLISH).encode(), (FORM[0], f"{FORM[1]}; charset=utf-8")
    ),
    "two content types": request("/", urlencode(PUBLISH).encode(), ("Content-Type", "text/plain"), FORM),
    "another path": sns(path="/some/where/"),
    "escaped path": sns(path="/%2e%2e/x"),
    "query": sns(path="/?Action=DeleteTopic"),
    "no action": request("/", b"", FORM),
    "unknown action": sns(Action="Subscribe"),
    "another action": sns(Action="ListTopics"),
    "action that needs a key": sns(Action="DeleteTopic"),
    "unknown topic": sns(TopicArn=ARN + "-no"),
    "no topic": sns(TopicArn=""),
    "telephone": sns(PhoneNumber="+1"),
    "empty message": sns(Message=""),
    "message that is no UTF-8": request("/", urlencode(PUBLISH).encode() + b"%FF", FORM),
    "message too long": sns(Message="x" * 262_145),
    "form that is no form": request("/", b"%" * 3_000, FORM),
    "throttled": sns(TopicArn=ARN + "-full"),
    "larger than any message": request("/", b"Action=Publish&Message=" + b"x" * 1_200_000, FORM),
    "batch": sns(
        Action="PublishBatch",
        **{
            f"PublishBatchRequestEntries.member.{number}.{name}": value
            for number in (1, 2)
            for name, value in (("Id", f"e{number}"), ("Message", BODY.decode()))
        },
    ),
    "empty batch": sns(Action="PublishBatch"),
    "structure": sns(MessageStructure="json", Message='{"default":"x"}'),
    "attribute": sns(
        **{
            "MessageAttributes.entry.1.Name": "a",
            "MessageAttributes.entry.1.Value.DataType": "String",
            "MessageAttributes.entry.1.Value.StringValue": quote("ä"),
        }
    ),
}


class Ending(FakeSender):
    """Ends each message as its kind says, at once or after the wait for room."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def send_now(self, message: Message) -> "asyncio.Future[Outcome] | None":
        if self.kind == "full":
            return None
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(self._end(message))
        except EgressClosed as error:
            done.set_exception(error)
        return done

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        return self._end(message)

    async def settle(self, source: int) -> None:
        await asyncio.sleep(0)

    def _end(self, message: Message) -> Outcome:
        if self.kind == "full":
            raise EgressFull
        if self.kind == "closed":
            raise EgressClosed
        if self.kind == "broken":
            raise RuntimeError("broken")
        self.taken.append(message)
        failed = [(0, "RemoteDenied", "not listed")] if self.kind == "failing" else []
        return Outcome(message.message_id, 1, 1 - len(failed), 0, Failures(failed))


class Registry:
    def absent(self, kind: str, name: str) -> str:
        return f"there is no {kind} {name[:50]}"


class Api:
    """`GatewayView` as far as messages need it."""

    registry = Registry()

    def __init__(self, senders: dict[str, Ending]) -> None:
        self._senders = senders

    def source(self, name: str) -> tuple[Ending, int, str] | None:
        if name == "off":
            return self._senders["replies"], 0, "Disabled"
        return (self._senders[name], 0, "Active") if name in self._senders else None

    def metrics(self) -> None: ...


@dataclass
class Door:
    """One server."""

    server: Server
    senders: dict[str, Ending]
    long_way: list[str]
    """Methods of the requests that came by ASGI."""

    def taken(self) -> list[tuple[str, int, bytes]]:
        """What of which message was taken, by whom."""
        return [(name, one.source, one.body) for name, of in self.senders.items() for one in of.taken]


async def answer(door: Door, sent: bytes) -> bytes:
    """What the server answers until it closes or rests."""
    reader, writer = await asyncio.open_connection(*door.server.address)
    # A second request says where the answer to the first one ends; whoever is refused may be cut before it.
    writer.write(sent)
    writer.write(b"GET /end HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    try:
        return plain(await asyncio.wait_for(reader.read(-1), HANG_SECONDS))
    except ConnectionError:
        return b"cut"
    finally:
        writer.close()


def plain(text: bytes) -> bytes:
    """Without what is another one in each answer."""
    text = re.sub(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", b"UUID", text)
    return re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate: now", text)


KINDS = ("replies", "full", "closed", "failing", "broken")
Make = Callable[[dict[str, Ending], Path, str], Direct]


def rest_app(senders: dict[str, Ending], directory: Path, access: Any) -> Direct:
    keys = KeyFile(directory / "keys.json")
    return create_api(Api(senders), Authenticator(keys, anonymous=access), room_seconds=1)  # type: ignore[arg-type]


def sns_app(senders: dict[str, Ending], directory: Path, access: Any) -> Direct:
    topics = Topics("us-east-1")
    topics.bind(ARN, Binding("replies", 0, senders["replies"]))
    topics.bind(f"{ARN}-full", Binding("full", 0, senders["full"]))
    senders["full"].full = True
    return create_sns(topics, LocalAccess(access, SigV4(KeyFile(directory / "keys.json")), "gateway.yaml"))


class Noted(Direct):
    """The application, which notes what comes by ASGI."""

    def __init__(self, app: Direct) -> None:
        self.app = app
        self.long_way: list[str] = []

    def enter(self, scope: Scope) -> Take | None:
        return self.app.enter(scope)

    def failed(self) -> Answer:
        return self.app.failed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.long_way.append(scope["method"])
        await self.app(scope, receive, send)


async def serve(make: Make, directory: Path, access: str, *, direct: bool) -> Door:
    senders = {name: Ending(name) for name in KINDS}
    noted = Noted(make(senders, directory, access))

    async def by_asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await noted(scope, receive, send)

    server = Server(noted if direct else by_asgi, "127.0.0.1", 0, setting="api.bind")
    await server.start()
    return Door(server, senders, noted.long_way)


@pytest.fixture(params=["rest", "sns"])
def door(request: pytest.FixtureRequest) -> tuple[Make, dict[str, bytes]]:
    return (rest_app, REST) if request.param == "rest" else (sns_app, SNS)


@pytest.mark.attack
@pytest.mark.parametrize("access", ["none", "read", "publish", "admin"])
async def test_both_ways_answer_alike(
    access: str, door: tuple[Make, dict[str, bytes]], tmp_path: Path
) -> None:
    make, requests = door
    one, other = [await serve(make, tmp_path, access, direct=direct) for direct in (True, False)]
    for name, sent in requests.items():
        found, expected = await asyncio.gather(answer(one, sent), answer(other, sent))
        assert found == expected, f"{name}: {sent[:300]!r}"
        assert found, f"{name}: no answer"
        assert one.taken() == other.taken(), name
    at_once = len(other.long_way) - len(one.long_way)
    if access == "none":
        assert at_once == 0, "who is refused by the head goes the long way"
    elif access != "read":
        assert at_once > 5
    for each in one, other:
        await each.server.stop()


async def test_a_plain_publish_is_answered_at_once(
    door: tuple[Make, dict[str, bytes]], tmp_path: Path
) -> None:
    make, requests = door
    served = await serve(make, tmp_path, "publish", direct=True)
    found = await answer(served, requests["plain"])
    assert found.startswith(b"HTTP/1.1 200 OK\r\ndate: now\r\n")
    assert served.long_way == ["GET"], "the end alone"
    assert len(served.taken()) == 1
    await served.server.stop()


@pytest.mark.attack
async def test_whoever_sends_many_at_once_waits_between_them(
    door: tuple[Make, dict[str, bytes]], tmp_path: Path
) -> None:
    make, requests = door
    served = await serve(make, tmp_path, "publish", direct=True)
    found = await answer(served, requests["plain"] * 20)
    assert found.count(b"HTTP/1.1 200 ") == 20, "in order, as they came"
    assert 0 < served.long_way.count("POST") < 20
    assert len(served.taken()) == 20
    await served.server.stop()


async def test_a_body_may_come_in_pieces(door: tuple[Make, dict[str, bytes]], tmp_path: Path) -> None:
    make, requests = door
    served = await serve(make, tmp_path, "publish", direct=True)
    reader, writer = await asyncio.open_connection(*served.server.address)
    for byte in requests["plain"]:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.readline(), HANG_SECONDS)).startswith(b"HTTP/1.1 200 ")
    assert (len(served.taken()), served.long_way) == (1, [])
    writer.close()
    await served.server.stop()


async def one_that_waits(
    tmp_path: Path,
) -> "tuple[Door, Waiting, asyncio.StreamReader, asyncio.StreamWriter]":
    """A server, and a client whose publish has not ended."""
    served = await serve(rest_app, tmp_path, "publish", direct=True)
    waiting = served.senders["replies"] = Waiting("replies")
    reader, writer = await asyncio.open_connection(*served.server.address)
    writer.write(rest())
    await asyncio.wait_for(waiting.asked.wait(), HANG_SECONDS)
    return served, waiting, reader, writer


async def test_a_server_that_stops_answers_whoever_waits(tmp_path: Path) -> None:
    served, waiting, reader, writer = await one_that_waits(tmp_path)
    stopping = asyncio.create_task(served.server.stop())
    await asyncio.sleep(0)
    waiting.done.set_result(Outcome("m", 1, 1, 0, Failures()))
    found = await asyncio.wait_for(reader.read(-1), HANG_SECONDS)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b'"Sent":1' in found
    await stopping
    assert served.long_way == []
    writer.close()


async def test_a_client_that_leaves_before_its_answer_harms_nobody(tmp_path: Path) -> None:
    served, waiting, _, writer = await one_that_waits(tmp_path)
    writer.transport.abort()
    waiting.done.set_exception(EgressClosed())
    assert (await answer(served, rest(name="failing"))).startswith(b"HTTP/1.1 200 ")
    await served.server.stop()


class Waiting(Ending):
    """Ends its message when `done` is set."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.asked = asyncio.Event()
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def send_now(self, message: Message) -> "asyncio.Future[Outcome]":
        self.asked.set()
        return self.done
