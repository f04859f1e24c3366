"""What of a template leads to AWS, and is left out of a document until the operator says `--use-aws`.

A template may come from the internet, and the gateway has its operator's credentials. A queue of a stranger, a log
group (whose first line asks STS who the gateway is) or a role would be called with them. So a document has none of it:
a Destination has no ARN then, a topic is the gateway's own, and dead letters go to a file. Where the gateway calls an
emulator in place of AWS, ARNs of Destinations stay.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from sluicegate.cfn.placeholders import ACCOUNT_ID
from sluicegate.cfn.resolve import origins
from sluicegate.cfn.template import Declared, Template
from sluicegate.model import DestinationSpec, Resource, SnsTopicSource
from sluicegate.model.names import LogGroupName

USE_AWS = "--use-aws"
NOT_CALLED = f"AWS is not called without {USE_AWS}"

_PLACE = re.compile(r"\barn:[a-z]|\bamazonaws\.[a-z]|\b(?:api|on)\.aws\b", re.IGNORECASE)
"""An ARN of any partition, or a host of a service. An ARN may stand in a path or in a URL too."""
_SERVICES = (
    "dynamodb",
    "events",
    "execute-api",
    "firehose",
    "geo",
    "iot",
    "kinesis",
    "lambda",
    "logs",
    "s3",
    "sns",
    "sqs",
    "states",
)
"""Schemes (`s3://bucket`) that a package could deliver by, beside the ARNs of these services."""
_LOCAL = ("function:", "file:", "console:")
_LOG_GROUP: TypeAdapter[str] = TypeAdapter(LogGroupName)
_SERVICE = re.compile(r"arn:aws[a-z-]*:([a-z0-9-]+):")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):([0-9]{12}):(.+)")


def leads_to_aws(value: Any) -> bool:
    """True if text anywhere in `value` names something at AWS."""
    if isinstance(value, str):
        return _PLACE.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(leads_to_aws, value.keys())) or any(map(leads_to_aws, value.values()))
    return isinstance(value, list) and any(map(leads_to_aws, value))


class Emulator(NamedTuple):
    """What stands for AWS here: a server at `url`, to which the gateway delivers packets for these services."""

    url: str
    services: frozenset[str]

    def has(self, arn: str, arguments: Any = None) -> bool:
        """True if packets for this ARN go there, and nothing beside it leads elsewhere."""
        match = _SERVICE.match(arn)
        return match is not None and match[1] in self.services and not leads_to_aws(arguments)


def is_aws_target(target: str, arguments: Any = None) -> bool:
    """True if packets for `target` would go to AWS, by it or by the `Arguments` beside it."""
    if target.startswith(_LOCAL):
        return False
    return target.partition(":")[0] in _SERVICES or leads_to_aws([target, arguments])


def own_topic(topic_arn: str) -> str | None:
    """The gateway's own topic that stands for a topic of AWS; None for text that is no topic's ARN."""
    match = _TOPIC.fullmatch(topic_arn)
    return f"arn:aws:sns:{match[1]}:{ACCOUNT_ID}:{match[3]}" if match else None


def _may_be_log_group(name: Any) -> bool:
    if not isinstance(name, str):
        return name is not None and not isinstance(name, list | Mapping)
    try:
        _LOG_GROUP.validate_python(name)
    except ValidationError:
        return False
    return True


class AwsParts:
    """Takes what leads to AWS out of the documents of one template.

    `use_aws`: only what this template would have made, and nobody makes here. `topics`: the gateway has topics of its
    own. `emulator`: where packets for AWS go instead. `note` is told of each difference.
    """

    def __init__(
        self,
        template: Template,
        made_dir: Path,
        *,
        use_aws: bool,
        topics: bool,
        emulator: Emulator | None,
        note: Callable[[Declared, str], None],
    ) -> None:
        self._template = template
        self._made_dir = made_dir
        self._topics = topics
        self._note = note
        self.use_aws = use_aws
        self.emulator = emulator

    def spelled(
        self, declared: Declared, model: type[Resource], document: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`document` with each property that `model` knows in PascalCase. The gateway takes several spellings, and one
        that is not seen here would reach it."""
        made: dict[str, Any] = {}
        written: dict[str, str] = {}
        for key, value in document.items():
            field = model.spellings().get(key)
            name = (model.model_fields[field].alias or key) if field else key
            if name in made:
                of = f"Destination {document.get('Name', '')}, " if model is DestinationSpec else ""
                cause = f"{declared.logical_id}: {of}`{written[name]}` and `{key}` mean the same"
                raise self._template.refused(declared.place, cause, "keep one of the two")
            made[name], written[name] = value, key
        return made

    def leave_out(self, declared: Declared, made: dict[str, Any]) -> None:
        """Take log groups, metrics and roles out of a Listener or a Destination. What is no name of a group and no ARN
        stays: the gateway refuses it and says why."""
        name = made.get("Name", declared.logical_id)
        group = made.get("LogGroupName")
        if origins(group) or (not self.use_aws and _may_be_log_group(group)):
            del made["LogGroupName"]
            why = "" if origins(group) else f" {group}, because {NOT_CALLED}"
            self._note(
                declared, f"{name} writes no log group{why}: the gateway's events have its delivery errors"
            )
        metrics = str(made.get("MetricsEnabled", "")).lower() == "true"
        if metrics and (origins(made.get("Role")) or not self.use_aws):
            del made["MetricsEnabled"]
            self._note(
                declared, f"{name} publishes no metrics to CloudWatch: the gateway's /metrics has them"
            )
        self._leave_role(declared, made, name)

    def leave_source(self, declared: Declared, made: dict[str, Any]) -> None:
        """Let a PacketSource take its messages from a topic of the gateway's own, and put dead letters into a file."""
        self._leave_dead_letters(declared, made)
        name = str(made["Name"])
        if leads_to_aws(made.get("MessageSource")) and not self.use_aws:
            made["Enabled"] = False
            self._note(declared, f"{name} takes no messages: its MessageSource is at AWS, and {NOT_CALLED}")
        if isinstance(made.get("SnsTopicSource"), dict):
            source = made["SnsTopicSource"] = self.spelled(declared, SnsTopicSource, made["SnsTopicSource"])
            self._leave_role(declared, source, name)
            if not self.use_aws:
                self._leave_topic(declared, made, source, name)

    def _leave_dead_letters(self, declared: Declared, made: dict[str, Any]) -> None:
        queue = made.get("DeadLetterQueueArn")
        if origins(queue):
            why = "the queue is not made here"
        elif not self.use_aws and leads_to_aws(queue):
            why = f"{queue} is at AWS, and {NOT_CALLED}"
        else:
            return
        file = self._made_dir / f"{declared.logical_id}-dead-letters.ndjson"
        made["DeadLetterQueueArn"] = f"file:{file}"
        self._note(declared, f"its dead letters go to {file}, because {why}")

    def _leave_topic(
        self, declared: Declared, made: dict[str, Any], source: dict[str, Any], name: str
    ) -> None:
        topic = source.get("TopicArn")
        own = own_topic(topic) if isinstance(topic, str) else None
        if not isinstance(topic, str) or own is None:
            return  # the gateway refuses it and says why
        why = f"{topic} is at AWS, and {NOT_CALLED}"
        if not self._topics and self.emulator is not None and self.emulator.has(topic):
            self._note(declared, f"{name} takes the messages of {topic} at the emulator {self.emulator.url}")
            return
        source["TopicArn"] = own
        if not self._topics:
            made["Enabled"] = False
            fix = "with `sns:` in its configuration, the gateway has a topic of its own in its place"
            self._note(declared, f"{name} takes no messages: {why}; {fix}")
        elif own != topic:
            self._note(declared, f"{name} takes the messages of the gateway's own topic {own}: {why}")

    def _leave_role(self, declared: Declared, made: dict[str, Any], name: str) -> None:
        role = made.get("Role")
        nobodys = self.emulator is None and f":{ACCOUNT_ID}:" in str(role)
        if not (origins(role) or (leads_to_aws(role) and (nobodys or not self.use_aws))):
            return
        del made["Role"]
        if not origins(role):
            why = f"the account {ACCOUNT_ID} is nobody's" if nobodys else NOT_CALLED
            self._note(declared, f"{name} assumes no role, because {why}")
