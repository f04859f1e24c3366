"""The SNS endpoint: whatever a client sends, the answer is one document of SNS, never a 5xx.

An input is a form, or a request: a line `METHOD /path`, header lines, an empty line, the form.
"""

import asyncio
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote, unquote_to_bytes
from uuid import UUID

from sluicegate.egress.message import Message, Outcome
from sluicegate.sources.local.attributes import LARGEST_MESSAGE_SIZE
from sluicegate.sources.local.endpoint import create_app
from sluicegate.sources.local.topics import Binding, Topics
from sluicegate.sources.local.xml import NAMESPACE, unquote_plus

ACCOUNT = "arn:aws:sns:us-east-1:000000000000"
BATCH = 10
HEADERS = [
    (b"host", b"127.0.0.1:4566"),
    (b"content-type", b"application/x-www-form-urlencoded; charset=utf-8"),
]


class Sender:
    """Takes so many messages and no more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.full = room == 0
        self.taken: list[Message] = []

    def try_submit(self, messages: Sequence[Message]) -> int:
        """As many as there is room for."""
        fits = list(messages)[: self.room - len(self.taken)]
        self.taken += fits
        return len(fits)

    def submit_later(self, message: Message) -> None:
        """Always taken."""
        self.taken.append(message)

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        """Nobody waits here."""
        raise NotImplementedError


def check(data: bytes) -> None:
    """Any bytes as a request."""
    topics = Topics("us-east-1")
    senders = [Sender(1_000), Sender(3), Sender(0)]
    for name, sender in zip(("replies", "small", "full"), senders, strict=True):
        topics.bind(f"{ACCOUNT}:{name}", Binding(name, 0, sender))
    status, body = _loop().run_until_complete(_request(topics, data))
    taken = [message for sender in senders for message in sender.taken]
    _check_answer(status, body, taken)
    if unquote_plus(data) != unquote_to_bytes(data.replace(b"+", b" ")):
        raise AssertionError("decoded otherwise than by the standard library")


def _check_answer(status: int, body: bytes, taken: list[Message]) -> None:
    root = ElementTree.fromstring(body)  # noqa: S314 (our own answer)
    space = f"{{{NAMESPACE}}}"
    if (root.tag == f"{space}ErrorResponse") != (status != 200):
        raise AssertionError(f"{status} with {root.tag}")
    if status != 200 and not root.findtext(f"{space}Error/{space}Code"):
        raise AssertionError("an error without a code")
    UUID(next(root.iter(f"{space}RequestId")).text)
    answered = [found.text for found in root.iter(f"{space}MessageId")]
    if answered != [message.message_id for message in taken]:
        raise AssertionError(f"{answered} is not what was taken: {taken}")
    if len(taken) > BATCH or any(not 0 < len(message.body) <= LARGEST_MESSAGE_SIZE for message in taken):
        raise AssertionError("taken beyond the limits")


async def _request(topics: Topics, data: bytes) -> tuple[int, bytes]:
    scope, form = _read(data)
    half = len(form) // 2
    parts = [
        {"type": "http.request", "body": form[:half], "more_body": True},
        {"type": "http.request", "body": form[half:], "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await create_app(topics)(scope, receive, send)
    start, body = sent
    headers = dict(start["headers"])
    if not 200 <= start["status"] < 500 or headers.get(b"content-type") != b"text/xml":
        raise AssertionError(f"answered {start}")
    if headers[b"content-length"] != str(len(body["body"])).encode():
        raise AssertionError(f"answered {start} and {len(body['body'])} bytes")
    return start["status"], body["body"]


def _read(data: bytes) -> tuple[dict[str, Any], bytes]:
    head, found, form = data.partition(b"\n\n")
    if not found:
        head, form = b"POST /", data
    first, *lines = head.split(b"\n")
    method, _, target = first.decode("latin-1").partition(" ")
    headers = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/" + unquote(path.lstrip("/")),  # as the server does, which refuses other paths itself
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": headers or HEADERS,
        "server": ("127.0.0.1", 4566),
        "client": ("127.0.0.1", 50_000),
    }
    return scope, form


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()
