"""Role: what the gateway assumes at AWS for a Listener or a Destination (contract section 1.1)."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict

from sluicegate.model.base import Resource, invalid
from sluicegate.model.names import RequiredRoleArn

_DURATION = re.compile(r"(?:(\d{1,3})\.)?(\d{1,2}):([0-5]\d):([0-5]\d)")
_SHORTEST, _LONGEST = 900, 43_200
"""Seconds that a session may last (STS, AssumeRole, `DurationSeconds`)."""


def _seconds(text: str) -> int | None:
    """`[d.]hh:mm:ss` in seconds; None for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _duration(text: str) -> str:
    seconds = _seconds(text)
    if seconds is None:
        raise invalid(
            f'"{text}" is not a duration', "use the form hh:mm:ss, for example 1:00:00 for one hour"
        )
    if not _SHORTEST <= seconds <= _LONGEST:
        raise invalid(
            f'the duration "{text}" is not one that AWS gives the session of a role',
            "use 0:15:00 (15 minutes) to 12:00:00 (12 hours); more than the role's own MaxSessionDuration is refused",
        )
    return text


class AssumedRole(Resource):
    """A role at AWS, and for how long each session with it lasts."""

    model_config = ConfigDict(title="Role", frozen=True)

    arn: RequiredRoleArn
    """`arn:aws:iam::ACCOUNT:role/NAME`."""
    duration: Annotated[str, AfterValidator(_duration)] = "1:00:00"
    """How long a session lasts, as `[d.]hh:mm:ss`: 15 minutes to 12 hours. A new session is opened before the end."""

    @property
    def seconds(self) -> int:
        """The duration in seconds."""
        return _seconds(self.duration) or 0


def _from_text(value: Any) -> Any:
    if isinstance(value, str):
        return {"arn": value}
    if value is None or isinstance(value, Mapping | AssumedRole):
        return value
    raise invalid("this is not a role", "write the role's ARN as text, or `{ arn: …, duration: … }`")


Role = Annotated[
    AssumedRole | None,
    BeforeValidator(_from_text, json_schema_input_type=str | AssumedRole | None),
]
"""A role as `{Arn, Duration}`, or as the string of its ARN."""
