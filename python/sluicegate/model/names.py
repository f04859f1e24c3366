"""Names, regions and ARNs: the patterns, and the sentences for what does not fit."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from sluicegate.model.base import invalid, role_arn

# Contract 1.1, and what earlier versions took too: dots, and a digit in front.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,254}")
_DESTINATION_NAME = re.compile(r"[A-Za-z0-9-]{1,255}")
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ARN = re.compile(r"arn:[a-z][a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]*:.+")
_LOG_GROUP_NAME = re.compile(r"[A-Za-z0-9._/#-]{1,512}")
_TOPIC_ARN = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise invalid(
            f'"{text}" cannot be a name',
            "use up to 255 letters, digits, spaces, `-`, `_` and `.`, and begin with a letter or digit",
        )
    return text


def is_destination_name(text: str) -> bool:
    """True for what can be a Destination's name."""
    return _DESTINATION_NAME.fullmatch(text) is not None


def destination_name(text: str) -> str:
    """`text` if it can be a Destination's name. Raises an `invalid` error."""
    if not is_destination_name(text):
        raise invalid(f'"{text}" cannot be a Destination\'s name', "use letters, digits and `-` only")
    return text


def _region(text: str) -> str:
    if not _REGION.fullmatch(text):
        raise invalid(f'"{text}" is not a region', "use the form us-east-1")
    return text


def _topic_arn(text: str) -> str:
    if not _TOPIC_ARN.fullmatch(text):
        raise invalid(
            f'"{text}" is not an SNS topic ARN',
            "use the form arn:aws:sns:REGION:ACCOUNT:NAME (ACCOUNT has 12 digits)",
        )
    return text


def _role(text: str) -> str:
    if not _ARN.fullmatch(text) or ":iam:" not in text:
        raise invalid(f'"{text}" is not a role ARN', "use the form arn:aws:iam::ACCOUNT:role/NAME")
    return text


def is_arn(text: str) -> bool:
    """True for the general form `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`."""
    return _ARN.fullmatch(text) is not None


def topic_region(topic_arn: str) -> str:
    """The region in a valid SNS topic ARN."""
    return topic_arn.split(":")[3]


def _log_group_name(text: str) -> str:
    if not _LOG_GROUP_NAME.fullmatch(text) or text.startswith("aws/"):
        raise invalid(
            f'"{text}" cannot be a log group\'s name',
            "use up to 512 letters, digits, `.`, `_`, `/`, `#` and `-`, and do not begin with `aws/`",
        )
    return text


Name = Annotated[str, AfterValidator(_name)]
"""A Listener's or PacketSource's name: it appears in URLs (percent-encoded), log streams and object keys."""

DestinationName = Annotated[str, AfterValidator(destination_name)]
"""`[a-zA-Z0-9-]+` (contract 1.2)."""

LogGroupName = Annotated[str, AfterValidator(_log_group_name)]
"""Of CloudWatch Logs."""

Region = Annotated[str, AfterValidator(_region)]
TopicArn = Annotated[str, AfterValidator(_topic_arn)]

RequiredRoleArn = Annotated[str, AfterValidator(_role)]
"""`arn:aws:iam::ACCOUNT:role/NAME`."""

RoleArn = Annotated[
    str | None,
    BeforeValidator(role_arn, json_schema_input_type=str | dict[str, str] | None),
    AfterValidator(lambda role: role if role is None else _role(role)),
]
"""A role ARN, from the string or from `{Arn}`."""


def region_map_key(key: Any) -> bool:
    """True for a key of a region → ARN map: a region or `*`."""
    return isinstance(key, str) and (key == "*" or _REGION.fullmatch(key) is not None)
