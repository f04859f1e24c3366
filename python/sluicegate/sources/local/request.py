"""What SNS demands of a message before it takes it: text, attributes, structure, size. Errors are worded as
SNS words them."""

import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from sluicegate.sources.local.xml import SnsError, group, invalid_parameter, text

_DATA_TYPE = re.compile(r"(String|Number|Binary)(\..+)?")
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_GROUP = re.compile(rb"[!-~]{1,128}")
"""Standard topics take a group too, for queues that share fairly. It means nothing here."""
_PREFIXES = "the set of supported type prefixes is Binary, Number, and String"


@dataclass(slots=True)
class SnsMessage:
    """A message that SNS would take. `body` is what a queue behind the topic would get, `size` what the limit
    counts."""

    body: bytes
    attributes: dict[str, str | bytes]
    size: int


def message_size(fields: Mapping[str, bytes]) -> int:
    """Bytes that count towards the limit: the message and the names, types and values of its attributes.

    A value that is not valid counts as it was sent: reading the message refuses it then.
    """
    size = len(fields.get("Message", b""))
    for parts in group(fields, "MessageAttributes.entry").values():
        binary = parts.get("Value.BinaryValue", b"")
        size += len(parts.get("Name", b"")) + len(parts.get("Value.DataType", b""))
        size += len(parts.get("Value.StringValue", b"")) + (len(binary) * 3 // 4 - binary[-2:].count(b"="))
    return size


def read_message(fields: Mapping[str, bytes], limit: int) -> SnsMessage:
    """The message of a Publish request or of one entry of a PublishBatch, to a topic that takes `limit` bytes;
    `SnsError` when SNS would not take it."""
    raw = fields.get("Message")
    if raw is None:
        raise _null_value("message")
    if not raw:
        raise invalid_parameter("Empty message")
    size = message_size(fields) if len(fields) > 4 else len(raw)
    if size > limit:
        raise invalid_parameter("Message too long")
    text(fields, "Message")  # SNS takes UTF-8 only
    if "Subject" in fields:
        _check_subject(text(fields, "Subject") or "")
    if fields.get("MessageDeduplicationId"):
        raise invalid_parameter(
            "MessageDeduplicationId Reason: The request includes MessageDeduplicationId parameter "
            "that is not valid for this topic type"
        )
    if fields.get("MessageGroupId") and _GROUP.fullmatch(fields["MessageGroupId"]) is None:
        raise invalid_parameter("MessageGroupId")
    body = raw
    structure = text(fields, "MessageStructure")
    if structure == "json":
        body = _structured(raw)
    elif structure:
        raise invalid_parameter("MessageStructure")
    return SnsMessage(body, _attributes(fields), size)


def _structured(raw: bytes) -> bytes:
    """With `MessageStructure=json` each protocol has its text; a PacketSource reads what SNS would deliver to
    its queue."""
    try:
        texts = orjson.loads(raw)
    except orjson.JSONDecodeError:
        texts = None
    if not isinstance(texts, dict):
        raise invalid_parameter("Message Structure - JSON message body failed to parse")
    if not isinstance(texts.get("default"), str):
        raise invalid_parameter("Message Structure - No default entry in JSON message body")
    chosen = texts.get("sqs", texts["default"])
    if not isinstance(chosen, str):
        raise invalid_parameter("Message Structure - the sqs entry of the JSON message body is not a string")
    return chosen.encode()


def _check_subject(subject: str) -> None:
    """SNS: ASCII without line breaks or control characters, at most 100 characters, and not empty."""
    if not 0 < len(subject) <= 100 or not subject.isascii() or not subject.isprintable():
        raise invalid_parameter("Subject")


def _attributes(fields: Mapping[str, bytes]) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for parts in group(fields, "MessageAttributes.entry").values():
        name = text(parts, "Name") or ""
        _check_name(name)
        if name in found:
            raise _bad_value(f"Message attribute '{name}' is given twice.")
        found[name] = _value(name, parts)
    return found


def _value(name: str, parts: Mapping[str, bytes]) -> str | bytes:
    kind = text(parts, "Value.DataType")
    if kind is None:
        raise _null_value(f"messageAttributes.{name}.member.dataType")
    if not kind:
        raise _bad_value(f"The message attribute '{name}' must contain non-empty message attribute type.")
    if len(kind) > 256 or _DATA_TYPE.fullmatch(kind) is None:
        raise _bad_value(
            f"The message attribute '{name}' has an invalid message attribute type, {_PREFIXES}."
        )
    wanted = "Binary" if kind.startswith("Binary") else "String"
    given = parts.get(f"Value.{wanted}Value")
    if given is None and len(parts) > 2:
        raise _bad_value(f"The message attribute '{name}' with type '{kind}' must use field '{wanted}'.")
    if not given:
        raise _bad_value(
            f"The message attribute '{name}' must contain non-empty message attribute value "
            f"for message attribute type '{kind}'."
        )
    if wanted == "Binary":
        try:
            return b64decode(given, validate=True)
        except ValueError:
            raise _bad_value(f"The message attribute '{name}' does not hold valid base64.") from None
    value = text(parts, "Value.StringValue") or ""
    if kind.startswith("Number") and _NUMBER.fullmatch(value) is None:
        raise _bad_value(f"Could not cast message attribute '{name}' value to number.")
    return value


def _check_name(name: str) -> None:
    if not name:
        raise _bad_value("The message attribute name must not be empty.")
    if len(name) > 256:
        raise _bad_value("Length of message attribute name must be less than 256 bytes.")
    if _ATTRIBUTE_NAME.fullmatch(name) is None:
        raise _bad_value(
            f"The message attribute name '{name}' is not valid. "
            "Can only include alphanumeric characters, hyphens, underscores, or dots."
        )
    if name.startswith(".") or name.endswith(".") or ".." in name:
        raise _bad_value(f"The message attribute name '{name}' must not start, end or repeat with a dot.")
    if name.lower().startswith(("aws.", "amazon.")):
        raise _bad_value(f"The message attribute name '{name}' must not start with 'AWS.' or 'Amazon.'.")


def _bad_value(message: str) -> SnsError:
    """`InvalidParameterValueException`: its code on the wire is `ParameterValueInvalid`."""
    return SnsError("ParameterValueInvalid", message)


def _null_value(place: str) -> SnsError:
    return SnsError(
        "ValidationError",
        f"1 validation error detected: Value null at '{place}' failed to satisfy constraint: "
        "Member must not be null",
    )
