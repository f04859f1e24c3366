"""`python -m bench.canned_sqs SIZE COUNT RATE BLOCKS EVERY`: an SQS that costs little, so that its client is the limit.

Prints its URL, then `polled` when somebody waits for messages. At SIGUSR1 it begins to give them out: COUNT messages,
RATE a second (0: as fast as they are asked for), ten in an answer if there are so many, each an SNS envelope with one
entry of SIZE bytes for a UDP socket of its own. When all of them were deleted and have arrived, or nothing has happened
for a while, it prints how that went. So it goes BLOCKS times, a SIGUSR1 each, and then it ends. In every second block
each EVERYth message (0: none) has no Data and cannot be sent.

Nothing is checked but the operation: signatures, receipts and queues are taken as they come.
"""

import asyncio
import base64
import collections
import json
import signal
import socket
import struct
import sys
import time
from typing import Any

import uvloop

from .canned_aws import control_answer
from .gateway import TOPIC
from .results import percentile

BATCH = 10
IDLE_SECONDS = 5.0
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
NUMBER_BYTES = 9
"""At the head of each payload, in decimal: a multiple of three, so that base64 keeps them apart."""

_SIGNATURE = base64.b64encode(bytes(range(256))).decode()


class Queue:
    """Messages that are given out once, and what has become of them."""

    def __init__(self, size: int, count: int, rate: float, every: int) -> None:
        self.count, self.rate, self.every = count, rate, every
        self._blocks = 0
        self._first = 0
        """The number of the block's first message."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self._template = _template(size, self.socket.getsockname()[1])
        self._malformed = self._template.replace(b"Data", b"Nothing")
        self._waiting: collections.deque[Client] = collections.deque()
        self._due: list[int] = []
        """When each message became due, in Unix nanoseconds."""
        self._given = 0
        self._deleted = 0
        self._arrived = bytearray()
        self.strange = 0
        self.latencies: list[float] = []
        self.started = self.last = 0.0
        self.cpu_at_start = 0.0
        self.receives = 0

    # Giving out

    def start(self) -> None:
        """Begin to give out the next block."""
        self.started = self.last = time.monotonic()
        self.cpu_at_start = time.process_time()
        self._blocks += 1
        self._first, self._deleted, self.receives = self._given, 0, 0
        self._arrived += bytes(self.count)
        self.latencies.clear()
        if self.rate:
            asyncio.get_running_loop().call_soon(self._tick)
        else:
            self._due += [0] * self.count
        self._give()

    @property
    def malformed(self) -> int:
        """How many messages of the block cannot be sent."""
        return self.count // self.every if self.every and self._blocks % 2 == 0 else 0

    def wait(self, client: "Client") -> None:
        if not self._waiting and not self.started and self.receives == 0:
            print("polled", flush=True)
        self.receives += 1
        self._waiting.append(client)
        self._give()

    def forget(self, client: "Client") -> None:
        if client in self._waiting:
            self._waiting.remove(client)

    def _tick(self) -> None:
        """Make due what is due by now."""
        due = min(self.count, int((time.monotonic() - self.started) * self.rate) + 1)
        self._due += [time.time_ns()] * (self._first + due - len(self._due))
        self._give()
        if due < self.count:
            next_at = self.started + due / self.rate
            asyncio.get_running_loop().call_later(max(0.0, next_at - time.monotonic()), self._tick)

    def _give(self) -> None:
        while self._waiting and self._given < len(self._due):
            last = min(self._given + BATCH, len(self._due))
            messages = b",".join([self._message(number) for number in range(self._given, last)])
            self._given = last
            self._waiting.popleft().answer(b'{"Messages":[' + messages + b"]}")

    def _message(self, number: int) -> bytes:
        payload = base64.b64encode(b"%0*d" % (NUMBER_BYTES, number))
        malformed = self.malformed and number % self.every == self.every - 1
        return (self._malformed if malformed else self._template) % (number, number, number, payload)

    # What comes back

    def delete(self, count: int) -> None:
        self._deleted += count
        self.last = time.monotonic()

    def receive_datagrams(self) -> None:
        for _ in range(200):
            try:
                data, control, _, _ = self.socket.recvmsg(2048, 64)
            except BlockingIOError:
                return
            number = int(data[:NUMBER_BYTES])
            self._arrived[number] += 1
            if self.rate:
                seconds, nanoseconds = struct.unpack("@qq", control[0][2])
                self.latencies.append((seconds * 1_000_000_000 + nanoseconds - self._due[number]) / 1e6)

    async def ended(self) -> None:
        """Waits until every message of the block was deleted and has arrived, or until nothing happens any more."""
        good = self.count - self.malformed
        while self._deleted < self.count or sum(self._arrived[self._first :]) < good:
            await asyncio.sleep(0.05)
            if time.monotonic() - self.last > IDLE_SECONDS:
                return

    def result(self) -> dict[str, Any]:
        """How the block went."""
        arrived = self._arrived[self._first :]
        found: dict[str, Any] = {
            "given": self._given - self._first,
            "deleted": self._deleted,
            "arrived": sum(1 for times in arrived if times),
            "twice": sum(1 for times in arrived if times > 1),
            "receives": self.receives,
            "seconds": self.last - self.started,
            "cpu_seconds": time.process_time() - self.cpu_at_start,
        }
        if self.latencies:
            found |= {"p50": percentile(self.latencies, 0.5), "p99": percentile(self.latencies, 0.99)}
        return found


class Client(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._queue.forget(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            start = head.index(b"\r\ncontent-length:") + 17
            length = int(head[start:].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        if b"amazonsqs.receivemessage" in head:
            self._queue.wait(self)
        elif b"amazonsqs.deletemessagebatch" in head:
            count = body.count(b'"ReceiptHandle"')
            self._queue.delete(count)
            self.answer(_DELETED[count])
        else:
            content_type, answer = control_answer(head, body, self._transport.get_extra_info("sockname"))
            self.answer(answer, content_type)

    def answer(self, body: bytes, content_type: bytes = b"application/x-amz-json-1.0") -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nx-amzn-RequestId: 1b7e5a3c-0000-4000-8000-000000000000\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (content_type, len(body), body)
        )


_DELETED = [
    json.dumps({"Failed": [], "Successful": [{"Id": str(index)} for index in range(count)]}).encode()
    for count in range(BATCH + 1)
]


def _template(size: int, port: int) -> bytes:
    """A message as bytes to format: SQS's id, the receipt, SNS's id, the head of the payload."""
    mark = "\0%012d"
    data = "\0%b" + base64.b64encode(b"x" * (size - NUMBER_BYTES)).decode()
    entry = json.dumps({"Data": data, "Remote": {"Address": "127.0.0.1", "Port": port}})
    envelope = {
        "Type": "Notification",
        "MessageId": f"11111111-2222-4333-8444-{mark}",
        "TopicArn": TOPIC,
        "Message": entry,
        "Timestamp": "2026-11-22T10:11:12.345Z",
        "SignatureVersion": "1",
        "Signature": _SIGNATURE,
        "SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "UnsubscribeURL": f"https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn={TOPIC}:"
        "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    }
    message = {
        "MessageId": f"55555555-6666-4777-8888-{mark}",
        "ReceiptHandle": f"AQEB{'receipt' * 24}{mark}",
        "Body": json.dumps(envelope, indent=2),
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795342272345"},
    }
    text = json.dumps(message).replace("%", "%%")
    for backslashes in (4, 2, 1):  # a mark went through JSON three times, twice or once
        text = text.replace("\\" * backslashes + "u0000%%", "%")
    return text.encode()


async def main(size: int, count: int, rate: float, blocks: int, every: int) -> None:
    queue = Queue(size, count, rate, every)
    loop = asyncio.get_running_loop()
    started = asyncio.Event()

    def start() -> None:
        queue.start()
        started.set()

    loop.add_signal_handler(signal.SIGUSR1, start)
    loop.add_reader(queue.socket, queue.receive_datagrams)
    server = await loop.create_server(lambda: Client(queue), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    for _ in range(blocks):
        await started.wait()
        started.clear()
        await queue.ended()
        print(json.dumps(queue.result()), flush=True)


if __name__ == "__main__":
    uvloop.run(
        main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    )
