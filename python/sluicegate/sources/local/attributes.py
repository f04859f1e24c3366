"""What SNS demands of a topic's attributes and tags: which there are, and how long they may be.

They mean nothing here but `MaximumMessageSize`; the others are kept to be shown again. SNS's own limits keep a client
from filling the memory with them.
"""

import re
from collections.abc import Iterable, Mapping

from sluicegate.sources.local.xml import SnsError, invalid_parameter, text

MESSAGE_SIZE = "MaximumMessageSize"
DEFAULT_MESSAGE_SIZE = 262_144
"""Bytes of a message with its attributes, and of all messages of a batch together, unless the topic says another."""
SMALLEST_MESSAGE_SIZE, LARGEST_MESSAGE_SIZE = 1_024, 1_048_576
TAG_LIMIT = 50

_POLICY = re.compile(r"(Delivery|DataProtection)?Policy")
_POLICY_BYTES = 30 * 1024
_FEEDBACK = r"(Application|Firehose|HTTP|Lambda|SQS)"
_ROLE = re.compile(_FEEDBACK + "(Failure|Success)FeedbackRoleArn|KmsMasterKeyId")
_ROLE_CHARACTERS = 2048
_RATE = re.compile(_FEEDBACK + "SuccessFeedbackSampleRate")
_CHOICES = {"SignatureVersion": ("1", "2"), "TracingConfig": ("PassThrough", "Active")}
_OF_FIFO = ("ArchivePolicy", "ContentBasedDeduplication", "FifoThroughputScope")


def check_attribute(name: str, value: str, parameter: str = "Attributes") -> None:
    """Raises `SnsError` for an attribute that SNS would not take for a standard topic. `parameter` had the value."""
    reason = _refusal(name, value)
    if reason is not None:
        raise invalid_parameter(f"{parameter} Reason: {reason}")


def message_limit(attributes: Mapping[str, str]) -> int:
    """Bytes of a message that may be published to a topic with these (checked) attributes."""
    return int(attributes.get(MESSAGE_SIZE, DEFAULT_MESSAGE_SIZE))


def check_tags(tags: Iterable[Mapping[str, bytes]]) -> None:
    """Raises `SnsError` for tags that SNS would not take. They are not kept."""
    seen: set[str] = set()
    for tag in tags:
        key, value = text(tag, "Key") or "", text(tag, "Value") or ""
        if not 0 < len(key) <= 128 or len(value) > 256:
            raise invalid_parameter("Tags Reason: a key has 1 to 128 characters, a value up to 256")
        if key in seen:
            raise invalid_parameter("Tags Reason: Duplicated keys are not allowed.")
        seen.add(key)
    if len(seen) > TAG_LIMIT:
        raise SnsError("TagLimitExceeded", "Could not complete request: tag quota of per resource exceeded")


def _refusal(name: str, value: str) -> str | None:
    """Why the attribute is not taken, or None."""
    if name == "FifoTopic" and value.lower() == "true":
        return "FIFO topics are not supported here, use a standard topic"
    if name in _OF_FIFO and value.lower() != "false":
        return f"{name} can only be set for FIFO topics"
    if name == "FifoTopic" or name in _OF_FIFO:
        return None
    if name == MESSAGE_SIZE:
        least, most = SMALLEST_MESSAGE_SIZE, LARGEST_MESSAGE_SIZE
        return None if _is_number(value, least, most) else f"{name} must be an integer from {least} to {most}"
    if name == "DisplayName":
        return None if len(value) <= 100 else f"{name} must be at most 100 characters long"
    if name in _CHOICES:
        return None if value in _CHOICES[name] else f"{name} must be one of {', '.join(_CHOICES[name])}"
    if _POLICY.fullmatch(name):
        return None if len(value.encode()) <= _POLICY_BYTES else f"{name} must be at most 30 KB long"
    if _ROLE.fullmatch(name):
        return None if len(value) <= _ROLE_CHARACTERS else f"{name} must be at most 2048 characters long"
    if _RATE.fullmatch(name):
        return None if _is_number(value, 0, 100) else f"{name} must be an integer from 0 to 100"
    return f"Unknown attribute {name[:100]}"


def _is_number(value: str, least: int, most: int) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 8 and least <= int(value) <= most
