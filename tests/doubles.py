"""Stand-ins that unit and integration tests share."""

import json
from collections.abc import Callable, Iterable, Sequence

from sluicegate.egress.message import Message, Outcome


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


def described_table(hash_key: str, range_key: str | None = None, kind: str = "S") -> dict[str, object]:
    """What DynamoDB's DescribeTable says of a table with these keys, as far as it matters."""
    names = [name for name in (hash_key, range_key) if name]
    return {
        "Table": {
            "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name in names],
            "KeySchema": [
                {"AttributeName": name, "KeyType": use}
                for name, use in zip(names, ("HASH", "RANGE"), strict=False)
            ],
        }
    }
