"""Destination: where a Listener's packets are delivered (contract section 1.2)."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sluicegate import _native
from sluicegate.model.base import Finding, Resource, invalid, invalid_at
from sluicegate.model.names import DestinationName, LogGroupName, is_arn, region_map_key
from sluicegate.model.role import Role
from sluicegate.model.text import without_secrets

Formatter = Literal["base64", "hex", "utf8", "ascii", "coap"]

_OWN_FORM = re.compile(r"(?!arn:)[a-z][a-z0-9+.-]*:.*", re.DOTALL)
_LOG_GROUP = re.compile(r"arn:[^:]*:logs:")
_TOPIC_ARGUMENTS = ("DynamicTopicSuffix", "TopicSuffixExpression", "TopicSuffixFormatter")
_SCHEME_ALONE = re.compile(r"[a-z][a-z0-9+-]*")


def checked_target(text: str) -> str:
    """`text` if it has the form of an ARN or of `SCHEME:…`; else raises an `invalid` error.

    Which schemes and services there are is known to `sluicegate.destinations`. A scheme alone stands for itself with a
    colon, because YAML takes `console:` for a mapping.
    """
    if _SCHEME_ALONE.fullmatch(text):
        return f"{text}:"
    if is_arn(text) or _OWN_FORM.fullmatch(text):
        return text
    raise invalid(
        f'"{without_secrets(text)}" is not a destination',
        "use an AWS ARN, or a scheme in small letters: function:PATH.py:HANDLER, file:PATH.ndjson, console: or another",
    )


class Batching(Resource):
    """When a batch is closed: whichever of the three comes first."""

    synonyms: ClassVar[Mapping[str, str]] = {"SizeInMB": "size_in_mb"}

    count: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Packets in a batch."""
    timeout_in_seconds: Annotated[float, Field(ge=0, le=300)] = 0.1
    """Seconds from the first packet of a batch to its delivery; fractions are allowed. 0 is adaptive: a
    batch leaves as soon as a delivery may start, and what arrives while deliveries run forms the next one."""
    size_in_mb: Annotated[float, Field(gt=0, le=64)] = 1
    """Size of a batch in MB, never above the service's own limit."""


class DestinationSpec(Resource):
    """Gets every packet of its Listener, independently of the other Destinations."""

    model_config = ConfigDict(title="Destination")

    name: DestinationName = ""
    """Unique within its Listener; generated from the Listener's name when absent."""
    description: str | None = None
    role: Role = None
    """The role that is assumed for the delivery, `log_group_name` and metrics: its ARN, or `{Arn, Duration}`."""
    batching: Batching = Field(default_factory=Batching)
    destination_arn: str | dict[str, str] | None = None
    """An ARN, a URL, `function:PATH.py:HANDLER`, `function:PATH.js:HANDLER`, `function:FOLDER:MODULE.NAME`,
    `function:PATH`, `file:PATH.ndjson` or `console:`;
    or a map of regions (and `*`) to these. Packets are dropped and counted while absent."""
    formatter: Formatter = "base64"
    """How the payload appears in `Data`, in packets and in replies. The last one shows CoAP messages as JSON
    (`docs/reference/coap.md`). Left out, it is `utf8` where the ARN is that of a log group."""
    filter_expression: str | None = None
    """A BREX expression (`docs/reference/brex.md`): only packets for which it is true are delivered here."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Options of the service behind the ARN."""
    metrics_enabled: bool = False
    """Publish packets and bytes in and out, and failures, to CloudWatch once a minute, in the name of `role`."""
    log_group_name: LogGroupName | None = None
    """The CloudWatch log group for this Destination's delivery errors, written with its `role`."""
    enable_logging: bool | None = None
    """false: nothing is written to `log_group_name`."""

    _bounds: dict[str, Any] = PrivateAttr(default_factory=dict)
    _bound_arguments: dict[str, dict[str, Any]] = PrivateAttr(default_factory=dict)

    @classmethod
    def respell(cls, data: Any, context: Any = None) -> tuple[Any, list[Finding]]:
        """As for every resource. In templates the arguments of AWS IoT may stand beside `Arguments`: the reference
        service documents them so."""
        if isinstance(data, Mapping) and isinstance(context, dict) and context.get("unknown") == "ignore":
            beside = {name: data[name] for name in _TOPIC_ARGUMENTS if name in data}
            inside = cls.peek(data, "arguments") or {}
            if beside and isinstance(inside, Mapping):
                left = {**data, "Arguments": {**beside, **inside}}
                data = {key: value for key, value in left.items() if key not in beside and key != "arguments"}
        return super().respell(data, context)

    def within(self, bounds: Any, *arns: str) -> None:
        """Note that these ARNs (without any: all of them) came by the API, and what their paths must observe
        (`localcode.LocalCode`)."""
        self._bounds = {**self._bounds, **dict.fromkeys(arns or self.targets().values(), bounds)}

    def bounds_of(self, arn: str) -> Any:
        """What the path in this ARN must observe; None for the operator's word, which has no bounds."""
        return self._bounds.get(arn)

    def take_arguments(self, region: str, arguments: dict[str, Any]) -> None:
        """Note the arguments for the ARN of this region (or `*`): those of the DestinationArn that binds it."""
        self._bound_arguments = {**self._bound_arguments, region: arguments}

    def arguments_of(self, region: str) -> dict[str, Any]:
        """The arguments for the ARN that `targets` has under this region (or `*`)."""
        return self._bound_arguments.get(region, self.arguments)

    @field_validator("filter_expression")
    @classmethod
    def _filter(cls, text: str | None) -> str | None:
        if text is not None and (wrong := _native.brex_error(text)) is not None:
            column, cause, fix = wrong
            raise invalid(f"character {column} of the expression: {cause}", fix)
        return text

    @field_validator("destination_arn", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        # A union would report one error per branch; taken apart here, the user reads one sentence at the
        # right place.
        if isinstance(value, str):
            return checked_target(value)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise invalid(
                "`destination_arn` must be text or a map of regions", "write one ARN, or `REGION: ARN` lines"
            )
        targets: dict[str, str] = {}
        wrong: list[Finding] = []
        for region, target in value.items():
            if not region_map_key(region):
                wrong.append(
                    Finding((str(region),), f'"{region}" is not a region', "use the form us-east-1, or `*`")
                )
            elif not isinstance(target, str):
                wrong.append(Finding((region,), "an ARN must be text", "put it in quotes"))
            else:
                try:
                    targets[region] = checked_target(target)
                except PydanticCustomError as error:
                    wrong.append(Finding((region,), **(error.context or {})))
        if wrong:
            raise invalid_at("DestinationArn", wrong)
        return targets

    @model_validator(mode="after")
    def _default_formatter(self) -> Self:
        self._choose_formatter()
        return self

    def bound_to(self, targets: Mapping[str, str]) -> Self:
        """This Destination with these ARNs by region, in place of its own."""
        bound = self.model_copy(update={"destination_arn": dict(targets)})
        bound._choose_formatter()
        return bound

    def _choose_formatter(self) -> None:
        """Lines of a log are text; what the user says counts."""
        if "formatter" not in self.model_fields_set:
            targets = self.targets().values()
            is_log = bool(targets) and all(_LOG_GROUP.match(target) for target in targets)
            self.formatter = "utf8" if is_log else "base64"
            self.model_fields_set.discard("formatter")

    def targets(self) -> dict[str, str]:
        """Every ARN of this Destination by region; a single one stands under `*`. Empty while unbound."""
        if isinstance(self.destination_arn, str):
            return {"*": self.destination_arn}
        return dict(self.destination_arn or {})

    def arn_for(self, region: str) -> str | None:
        """The ARN for packets that arrived in `region`: its own, then `*`, then the nearest; None while
        unbound.

        Nearest (contract 1.2) is the region whose name shares most leading parts (`us-west-1` for `us-west-2`
        before `us-east-1`), then the first by name: the same choice on every node, without a table of
        distances.
        """
        chosen = self._chosen(region)
        return None if chosen is None else self.targets()[chosen]

    def arguments_for(self, region: str) -> dict[str, Any]:
        """The arguments for `arn_for(region)`."""
        return self.arguments_of(self._chosen(region) or "*")

    def _chosen(self, region: str) -> str | None:
        targets = self.targets()
        if not targets:
            return None
        if region in targets or "*" in targets:
            return region if region in targets else "*"
        return min(targets, key=lambda other: (-_shared_parts(region, other), other))


def _shared_parts(one: str, other: str) -> int:
    shared = 0
    for mine, theirs in zip(one.split("-"), other.split("-"), strict=False):
        if mine != theirs:
            break
        shared += 1
    return shared
