"""What SNS puts around a message in a queue, without raw delivery: MessageId, Timestamp, attributes (contract 4.2)."""

from dataclasses import dataclass
from datetime import datetime

import orjson

from sluicegate.sources.egress_region import attribute_of


@dataclass(slots=True)
class Notification:
    """A published message. `topic_arn` None: it came without an envelope, and everything but `body` is the queue's.

    `egress_region` is the attribute as text, bytes when it is binary, None when absent. `published_at` in Unix seconds.
    """

    message_id: str
    body: bytes
    published_at: float | None
    topic_arn: str | None = None
    egress_region: str | bytes | None = None


@dataclass(slots=True)
class Confirmation:
    """SNS asks whether this queue wants a subscription (`SubscriptionConfirmation`), or tells that one has ended
    (`UnsubscribeConfirmation`, without a `token` that we would use)."""

    topic_arn: str
    token: str | None


def read(body: str, message_id: str, sent_at: float | None) -> Notification | Confirmation:
    """One queue message. `message_id` and `sent_at` are the queue's, for a body without an envelope.

    Whatever is no envelope is a body: whether it is a message is for the egress to say. Never raises.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        topic, text = document.get("TopicArn"), document.get("Message")
        if isinstance(topic, str) and isinstance(text, str):
            match document.get("Type"):
                case "Notification":
                    return _notification(document, topic, text, message_id, sent_at)
                case "SubscriptionConfirmation":
                    token = document.get("Token")
                    return Confirmation(topic, token if isinstance(token, str) else None)
                case "UnsubscribeConfirmation":
                    return Confirmation(topic, None)
    return Notification(message_id, body.encode("utf-8", "replace"), sent_at)


def _notification(
    document: dict[str, object], topic: str, text: str, message_id: str, sent_at: float | None
) -> Notification:
    named = document.get("MessageId")
    attributes = document.get("MessageAttributes")
    return Notification(
        named if isinstance(named, str) and named else message_id,
        text.encode("utf-8", "replace"),
        _seconds(document.get("Timestamp"), sent_at),
        topic,
        attribute_of(attributes) if attributes else None,
    )


def _seconds(timestamp: object, otherwise: float | None) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp() if isinstance(timestamp, str) else otherwise
    except (ValueError, OverflowError):
        return otherwise
