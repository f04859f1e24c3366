"""PacketSource: what may send datagrams out of a Listener (contract section 1.3)."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from sluicegate.model.address import Network
from sluicegate.model.base import Finding, Resource, invalid
from sluicegate.model.names import Name, Region, RoleArn, TopicArn, topic_region

_QUEUE_ARN = re.compile(r"arn:aws[a-z-]*:sqs:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,80}")


def _dead_letters(text: str) -> str:
    if _QUEUE_ARN.fullmatch(text):
        return text
    if text.startswith("file:") and text[5:].strip() and "\0" not in text and not text.endswith("/"):
        return text
    if text.endswith(".fifo"):
        raise invalid(f'"{text}" is a FIFO queue, and dead letters come in no order', "use a standard queue")
    raise invalid(
        f'"{text}" cannot take dead letters',
        "use an SQS queue ARN (arn:aws:sqs:REGION:ACCOUNT:NAME) or file:PATH.ndjson",
    )


class SnsTopicSource(Resource):
    """The SNS topic whose messages become datagrams."""

    topic_arn: TopicArn
    """`arn:aws:sns:REGION:ACCOUNT:NAME`."""
    role: RoleArn = None
    """The role that is assumed to manage the subscription. Ignored with the gateway's own SNS endpoint."""


class RateLimit(Resource):
    """Pacing of a PacketSource, in packets per second."""

    packets_per_second: Annotated[float, Field(gt=0)] | None = None
    burst: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Packets that may leave at once after a pause."""
    per_remote_packets_per_second: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.packets_per_second is None and self.per_remote_packets_per_second is None:
            raise invalid(
                "`rate_limit` limits nothing", "set `packets_per_second` or `per_remote_packets_per_second`"
            )
        return self


def _one_kind(value: Any) -> Any:
    """`{KIND: SETTINGS}`; null settings are none."""
    if not isinstance(value, Mapping):
        return value
    if len(value) != 1:
        raise invalid(
            f"it names {len(value)} source kinds", "name exactly one: `message_source: { KIND: { … } }`"
        )
    ((kind, settings),) = value.items()
    if isinstance(kind, str) and kind.replace("_", "").lower() == "snstopicsource":
        raise invalid("an SNS topic has a key of its own", "write `sns_topic_source: { topic_arn: … }`")
    return {kind: {} if settings is None else settings}


class PacketSource(Resource):
    """Binds a source of messages to a Listener: their packets leave from the Listener's own address and port."""

    name: Name = ""
    """Unique in the gateway; generated when absent."""
    listener_name: str
    """The Listener that the datagrams leave from."""
    sns_topic_source: SnsTopicSource | None = None
    """Messages come from an SNS topic. Exactly one source is required: this one, or `message_source`."""
    message_source: Annotated[dict[str, dict[str, Any]], BeforeValidator(_one_kind)] | None = None
    """Messages come from a source of another package: `{ KIND: { … } }`, the source kind and its settings."""
    home_region: Region | None = None
    """The region whose gateway takes messages without `EgressRegion`; the topic's own by default."""
    enabled: bool = True
    """false: nothing is consumed."""
    description: str | None = None
    dead_letter_queue_arn: Annotated[str, AfterValidator(_dead_letters)] | None = None
    """An SQS ARN or `file:PATH`: gets every entry that could not be sent, with the reason."""
    default_ttl_seconds: Annotated[float, Field(gt=0)] | None = None
    """Entries older than this are not sent; an entry may set its own."""
    hold_seconds: Annotated[float, Field(ge=0, le=3600)] = 60
    """The longest that an entry waits for pacing or a handshake, in seconds."""
    egress_networks: list[Network] | None = None
    """Where this source may send; the Listener's `client_restrictions.networks` by default."""
    rate_limit: RateLimit | None = None
    require_session: bool = False
    """Send only to remotes that have a session."""

    _bounds: Any = PrivateAttr(default=None)

    def within(self, bounds: Any) -> None:
        """Note that it came by the API, and what its paths must observe (`localcode.LocalCode`)."""
        self._bounds = bounds

    @property
    def bounds(self) -> Any:
        """What its paths must observe; None for the operator's word, which has no bounds."""
        return self._bounds

    @classmethod
    def respell(cls, data: Any, context: Any = None) -> tuple[Any, list[Finding]]:
        """As for every resource; and exactly one source is required."""
        data, found = super().respell(data, context)
        if isinstance(data, Mapping):
            given = [name for name in ("sns_topic_source", "message_source") if data.get(name) is not None]
            if not given:
                fix = "add `sns_topic_source: …`, or `message_source: …` for a source of another package"
                found.append(Finding(("sns_topic_source",), "`sns_topic_source` is missing", fix))
            elif len(given) > 1:
                cause = "`sns_topic_source` and `message_source` are both given"
                found.append(Finding(("message_source",), cause, "keep one of the two"))
        return data, found

    @property
    def source(self) -> tuple[str, Any]:
        """`(source kind, settings)`: an `SnsTopicSource`, or a package's as they were written."""
        if self.sns_topic_source is not None:
            return "SnsTopicSource", self.sns_topic_source
        ((kind, settings),) = (self.message_source or {}).items()
        return kind, settings

    @property
    def topic(self) -> SnsTopicSource:
        """The SNS topic of a PacketSource that has one."""
        assert self.sns_topic_source is not None  # noqa: S101  (whoever asks serves SNS topics)
        return self.sns_topic_source

    @property
    def effective_home_region(self) -> str:
        """`home_region`, else the region of the topic."""
        return self.home_region or topic_region(self.topic.topic_arn)
