"""`python -m bench.poster DOOR URL SINK_PORT SIZE CONNECTIONS COUNT RATE`: posts COUNT messages of one entry.

DOOR is `rest` or `sns`. RATE is requests a second, which wait for a free connection; 0: each connection posts as soon
as it is answered. Prints how it went.
"""

import asyncio
import gc
import json
import sys
import time
import urllib.parse
from collections import deque
from typing import cast

import uvloop

from .feeder import prepare
from .gateway import TOPIC
from .results import percentile

SDK_HEADERS = """\
Content-Type: application/x-www-form-urlencoded; charset=utf-8
User-Agent: Boto3/1.43.106 md/Botocore#1.43.106 ua/2.1 os/linux#6.18 md/arch#x86_64 lang/python#3.11.7 cfg/retry-mode#standard
X-Amz-Date: 20261129T060659Z
Authorization: AWS4-HMAC-SHA256 Credential=local/20261129/us-east-1/sns/aws4_request, SignedHeaders=content-type;host;\
x-amz-date, Signature=9321f664883c55e5b6bd3316127c6f5196f3e3bc23832a376c71ad6767eade31
amz-sdk-invocation-id: 84b628d0-0eea-4e0a-953d-ac6b8b651eee
amz-sdk-request: attempt=1
Accept-Encoding: identity
"""  # noqa: E501
"""boto3's; nobody looks at a signature on loopback."""


def main() -> None:
    door, url = sys.argv[1:3]
    port, size, connections, count, rate = map(int, sys.argv[3:8])
    place = urllib.parse.urlsplit(url)
    request = REQUESTS[door](place.netloc, prepare(port, 1, size, 1)[0][0].decode())
    gc.freeze()
    assert place.hostname is not None  # noqa: S101
    assert place.port is not None  # noqa: S101
    print(json.dumps(uvloop.run(post(place.hostname, place.port, request, connections, count, rate))))


def rest(host: str, message: str) -> bytes:
    """As most clients send it."""
    headers = "User-Agent: bench\nAccept: */*\nConnection: keep-alive\nContent-Type: application/json\n"
    return _request("/v1/packet-sources/replies/messages", host, headers, message)


def sns(host: str, message: str) -> bytes:
    """As boto3 sends it."""
    form = {"Action": "Publish", "Version": "2010-03-31", "TopicArn": TOPIC, "Message": message}
    return _request("/", host, SDK_HEADERS, urllib.parse.urlencode(form))


REQUESTS = {"rest": rest, "sns": sns}


def _request(path: str, host: str, headers: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\nHost: {host}\n{headers}Content-Length: {len(body)}\n\n"
    return (head.replace("\n", "\r\n") + body).encode()


async def post(
    host: str, port: int, request: bytes, connections: int, count: int, rate: int
) -> dict[str, float]:
    """Posts all of them; what came of it."""
    loop = asyncio.get_running_loop()
    load = Load(request, count, rate)
    for _ in range(connections):
        await loop.create_connection(lambda: Client(load), host, port)
    start = time.monotonic()
    if rate:
        await load.paced()
    else:
        for one in load.idle.copy():
            load.idle.popleft()
            one.post(start)
    await load.done.wait()
    seconds = time.monotonic() - start
    took = [one * 1e3 for one in load.took]
    return {"posts": count, "seconds": seconds, "p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}


class Load:
    """What is to be posted, by whoever is idle."""

    def __init__(self, request: bytes, count: int, rate: int) -> None:
        self.request = request
        self.count = count
        self.rate = rate
        self.given = 0
        self.took: list[float] = []
        self.idle: deque[Client] = deque()
        self.due: deque[float] = deque()
        self.done = asyncio.Event()

    async def paced(self) -> None:
        start = time.monotonic()
        for number in range(self.count):
            if (left := start + number / self.rate - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if self.idle:
                self.idle.popleft().post(time.monotonic())
            else:
                self.due.append(time.monotonic())

    def answered(self, client: "Client", seconds: float) -> None:
        self.took.append(seconds)
        if len(self.took) == self.count:
            self.done.set()
        elif self.rate and self.due:
            client.post(self.due.popleft())
        elif not self.rate and self.given < self.count:
            client.post(time.monotonic())
        else:
            self.idle.append(client)


class Client(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answer = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's does not derive from it
        self._load.idle.append(self)

    def post(self, due: float) -> None:
        self._load.given += 1
        self._due = due
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"answered {self._answer!r}")
        if len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            self._answer = b""
            self._load.answered(self, time.monotonic() - self._due)

    def connection_lost(self, error: Exception | None) -> None:
        if len(self._load.took) < self._load.count:
            print(f"the connection was closed: {error}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
