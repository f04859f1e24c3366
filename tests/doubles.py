"""Stand-ins that unit and integration tests share."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sluicegate.egress.message import Message, Outcome


class Batch:
    """`sluicegate._native.Batch`: a packet for each `data`."""

    def __init__(self, *data: str) -> None:
        self.packets = [packet(text) for text in data]

    @property
    def count(self) -> int:
        return len(self.packets)

    def body(self) -> bytes:
        return json.dumps({"Messages": self.packets}).encode()

    def records(self) -> list[bytes]:
        return [json.dumps(packet).encode() for packet in self.packets]

    def lines(self) -> bytes:
        return b"".join(record + b"\n" for record in self.records())


def packet(data: str) -> dict[str, Any]:
    return {
        "Tag": f"tag-{data}",
        "Remote": {"IpAddress": "198.51.100.7", "Port": 40001},
        "Local": {"Domain": "ingress-1", "IpAddress": "192.0.2.10", "Port": 2101, "Protocol": "udp"},
        "ReceivedAt": "2026-06-09T10:00:00.123Z",
        "IngressRegion": "us-west-2",
        "Formatter": "utf8",
        "Data": data,
    }


class FakeSender:
    """`sluicegate.sources.base.Sender` for topics: takes messages while it has room, and ends none of them."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.full = False
        self.congested = False
        self.taken: list[Message] = []
        self.owed: list[Message] = []

    def try_submit(self, messages: Sequence[Message], ended: Callable[[Outcome], None] | None = None) -> int:
        fits = list(messages)[: self.room - len(self.taken)]
        self.taken += fits
        return len(fits)

    def submit_later(self, message: Message) -> None:
        self.owed.append(message)

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        raise NotImplementedError

    async def settle(self, source: int) -> None:
        raise NotImplementedError

    def give_back(self, source: int, message_ids: Iterable[str]) -> None:
        raise NotImplementedError


def envelope(message_id: str, message: object, *, topic: str, **more: object) -> str:
    """An SNS notification as SQS has it."""
    text = message if isinstance(message, str) else json.dumps(message)
    return json.dumps(
        {"Type": "Notification", "MessageId": message_id, "TopicArn": topic, "Message": text, **more}
    )
