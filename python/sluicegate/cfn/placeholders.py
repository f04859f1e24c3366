"""What `Ref` and `Fn::GetAtt` give for AWS resources that nobody makes here: values of the right form.

They have the account 000000000000, which belongs to nobody, so that no placeholder is ever another's resource. It is
also the account of the gateway's own SNS endpoint: a topic's ARN is its real one on this machine.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

ACCOUNT_ID: Final = "000000000000"


@dataclasses.dataclass(frozen=True)
class _Form:
    """`name`: the property that names the resource. `arn`: its ARN behind the partition. `ref`: what Ref gives.
    `longest`: characters that the service takes in a name. `fifo`: the property by which a name ends with `.fifo`."""

    name: str
    arn: str
    ref: str = "{name}"
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    longest: int = 255
    fifo: str = ""


_REGIONAL = "{region}:{account}"
_BUCKET = "AWS::S3::Bucket"
_FUNCTION = _Form("FunctionName", f"lambda:{_REGIONAL}:function:{{name}}")
_MACHINE = _Form(
    "StateMachineName", f"states:{_REGIONAL}:stateMachine:{{name}}", "{arn}", {"Name": "{name}"}, longest=80
)
_TABLE = _Form("TableName", f"dynamodb:{_REGIONAL}:table/{{name}}")

_FORMS: Mapping[str, _Form] = {
    "AWS::Lambda::Function": _FUNCTION,
    "AWS::Serverless::Function": _FUNCTION,
    "AWS::StepFunctions::StateMachine": _MACHINE,
    "AWS::Serverless::StateMachine": _MACHINE,
    "AWS::DynamoDB::Table": _TABLE,
    "AWS::DynamoDB::GlobalTable": _TABLE,
    "AWS::Serverless::SimpleTable": _TABLE,
    "AWS::SNS::Topic": _Form(
        "TopicName",
        f"sns:{_REGIONAL}:{{name}}",
        "{arn}",
        {"TopicArn": "{arn}", "TopicName": "{name}"},
        fifo="FifoTopic",
    ),
    "AWS::SQS::Queue": _Form(
        "QueueName",
        f"sqs:{_REGIONAL}:{{name}}",
        "https://sqs.{region}.amazonaws.com/{account}/{name}",
        {"QueueName": "{name}", "QueueUrl": "https://sqs.{region}.amazonaws.com/{account}/{name}"},
        longest=80,
        fifo="FifoQueue",
    ),
    "AWS::IAM::Role": _Form("RoleName", "iam::{account}:role/{name}"),
    _BUCKET: _Form("BucketName", "s3:::{name}", longest=63),
    "AWS::Logs::LogGroup": _Form("LogGroupName", f"logs:{_REGIONAL}:log-group:{{name}}:*"),
    "AWS::Kinesis::Stream": _Form("Name", f"kinesis:{_REGIONAL}:stream/{{name}}", longest=128),
    "AWS::KinesisFirehose::DeliveryStream": _Form(
        "DeliveryStreamName", f"firehose:{_REGIONAL}:deliverystream/{{name}}", longest=64
    ),
    "AWS::Location::Tracker": _Form("TrackerName", f"geo:{_REGIONAL}:tracker/{{name}}", longest=100),
    "AWS::Events::EventBus": _Form(
        "Name", f"events:{_REGIONAL}:event-bus/{{name}}", attributes={"Name": "{name}"}
    ),
}


def name_property(resource_type: str) -> str | None:
    """The property by which a template names a resource of this type; None where we know of none."""
    form = _FORMS.get(resource_type)
    return form.name if form else None


def fifo_property(resource_type: str) -> str | None:
    """The property by which a template makes a resource of this type a FIFO one; None where there is none."""
    form = _FORMS.get(resource_type)
    return form.fifo or None if form else None


def made_name(resource_type: str, stack: str, logical_id: str, *, fifo: bool = False) -> str:
    """The name of a resource that the template does not name: `STACK-LOGICALID`, in a form that the service takes."""
    form = _FORMS.get(resource_type)
    end = ".fifo" if fifo else ""
    name = f"{stack}-{logical_id}"
    if resource_type == _BUCKET:
        name = name.lower()
    room = (form.longest if form else len(name)) - len(end)
    return name[-room:].lstrip("-") + end  # the logical id tells resources of one stack apart


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """The values of one resource called `name`."""

    type: str
    name: str
    region: str
    partition: str = "aws"

    @property
    def arn(self) -> str:
        form = _FORMS.get(self.type)
        service = self.type.lower().split("::")[1] if self.type.count("::") == 2 else "custom"
        text = form.arn if form else f"{service}:{_REGIONAL}:{{name}}"
        return f"arn:{self.partition}:" + text.format(region=self.region, account=ACCOUNT_ID, name=self.name)

    @property
    def ref(self) -> str:
        form = _FORMS.get(self.type)
        return self._fill(form.ref if form else "{name}")

    def attribute(self, name: str) -> str:
        """What `Fn::GetAtt` gives; an attribute that we do not know gets a value that says what it stands for."""
        form = _FORMS.get(self.type)
        if name.endswith("Arn") and not (form and name in form.attributes):
            return self.arn
        known = form.attributes.get(name) if form else None
        return self._fill(known) if known else f"{self.name}-{name}"

    def _fill(self, text: str) -> str:
        return text.format(region=self.region, account=ACCOUNT_ID, name=self.name, arn=self.arn)
