"""Writes docs/reference/destinations from the classes of Destinations and the golden files of their payloads."""

import json
from collections.abc import Iterator
from pathlib import Path

from sluicegate import destinations
from sluicegate.destinations.aws import AwsDestination
from sluicegate.destinations.delivery import ATTEMPTS

GOLDEN = Path(__file__).parents[2] / "tests/unit/golden"
_NAMES = {
    "dynamodb": "DynamoDB",
    "events": "EventBridge",
    "execute-api": "API Gateway",
    "firehose": "Firehose",
    "geo": "Location",
    "iot": "IoT Data",
    "kinesis": "Kinesis",
    "lambda": "Lambda",
    "logs": "CloudWatch Logs",
    "s3": "S3",
    "sns": "SNS",
    "sqs": "SQS",
    "states": "Step Functions",
}
_ARNS = {"REGION": "us-east-1", "ACCOUNT": "123456789012", "QUALIFIER": "live"}
_SESSION = """\
A role is assumed under the name `sluicegate-REGION@ACCOUNT-dstn-NAME`, which CloudTrail shows: the gateway's region,
the role's account and the Destination's name, cut to 64 characters."""
_RETRIED = f"""\
What throttling, 5xx, a time-out, a broken connection or expired credentials kept from the service is tried again: up to
{ATTEMPTS} attempts with growing pauses. If a request was taken in part, only the packets that were refused come again.

A denied call, a resource that does not exist and a packet that is too large are not tried again. Each packet that was
given up counts under its reason, and a `DeliveryFailed` event reports it."""


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {f"{service}.md": "\n".join(_page(service)) for service in destinations._AWS}


def _page(service: str) -> Iterator[str]:
    kind = destinations._REGISTRY.load(service)
    if not issubclass(kind, AwsDestination):
        raise TypeError(service)
    first, *rest = kind.usage.split(" or ")
    example = (rest or [first])[-1]
    for word, value in {
        **_ARNS,
        "QUEUE": "orders",
        "GROUP": "orders",
        "TOPIC": "orders",
        "NAME": "orders",
        "BUCKET": "orders",
        "PREFIX": "raw/",
        "API/STAGE/METHOD/PATH": "a1b2c3d4e5/live/POST/orders",
    }.items():
        example = example.replace(word, value)
    yield "<!-- Written by docs/generate.py from the class. Edit the class, not this file. -->"
    yield f"# {_NAMES[service]}"
    yield ""
    yield from _paragraphs(kind.__doc__ or "")
    yield "```yaml"
    yield "listeners:"
    yield "  - name: decoder"
    yield "    destinations:"
    yield "      - name: orders"
    yield f'        destination_arn: "{example}"'
    yield "        role: arn:aws:iam::123456789012:role/deliver    # left out: the gateway's own credentials"
    if kind.example:
        yield "        arguments:"
        yield from (f'          {name}: "{value}"' for name, value in kind.example)
    yield "```"
    yield ""
    yield f"`destination_arn` is {' or '.join(f'`{form}`' for form in kind.usage.split(' or '))}."
    yield ""
    yield "## Permissions"
    yield ""
    yield "The role's policy, for the ARN above:"
    yield ""
    yield "```json"
    yield json.dumps(_policy(kind, example), indent=2)
    yield "```"
    yield ""
    yield _SESSION
    yield ""
    yield "## Arguments"
    yield ""
    if kind.arguments:
        yield "| argument | meaning |"
        yield "|---|---|"
        yield from (f"| `{name}` | {meaning} |" for name, meaning in kind.arguments)
    else:
        yield "None."
    yield ""
    yield "## What the service gets"
    yield ""
    yield from ("```text", (GOLDEN / f"{service}.txt").read_text().rstrip(), "```", "")
    yield f"In one request: {kind.limits}"
    yield ""
    yield "## What is tried again"
    yield ""
    yield _RETRIED
    yield ""
    yield f"Reasons: {', '.join(f'`{reason}`' for reason in kind.reasons)}, or the service's own word."
    yield ""


def _policy(kind: type[AwsDestination], arn: str) -> dict[str, object]:
    arn = arn.removesuffix(":live").removesuffix(":*")
    statements = {resource.replace("ARN", arn): actions for resource, actions in kind.permissions}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": list(actions), "Resource": resource}
            for resource, actions in statements.items()
        ],
    }


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield " ".join(paragraph.split())
        yield ""
