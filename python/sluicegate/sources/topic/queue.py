"""The gateway's own queue behind a topic: its name, its attributes, who may send to it (contract section 4.2)."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sluicegate.aws import Aws, AwsError
from sluicegate.model.names import topic_region
from sluicegate.state import SourceQueue

PREFIX = "sluicegate-"
"""How the name of every queue of every gateway begins."""

_GATEWAYS = re.compile(
    rf"arn:[a-z0-9-]+:sqs:[a-z0-9-]+:[0-9]{{12}}:{PREFIX}[A-Za-z0-9_-]{{1,40}}-[0-9a-f]{{12}}-[0-9]{{1,9}}"
)
"""The ARN of a gateway's queue (`name_stem`, generation): by it a home region knows which regions are served."""

VISIBILITY_SECONDS = 30
"""For so long a message is nobody else's. What takes longer is extended; after a crash it comes back so late."""

LONG_POLL_SECONDS = 20
SNS = "sns.amazonaws.com"
GENERATIONS = 5
"""How many names in a row may be refused because their queues were deleted a moment ago."""

_GONE = frozenset(("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"))
_RECENT = frozenset(("QueueDeletedRecently", "AWS.SimpleQueueService.QueueDeletedRecently"))
_EXISTS = frozenset(("QueueNameExists", "QueueAlreadyExists"))

_ENABLED_REGIONS = frozenset(
    (
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ca-central-1",
        "eu-central-1",
        "eu-north-1",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    )
)
"""Those of the partition `aws` that every account has. Whatever AWS opened since March 2019 is opt-in."""


def is_gone(error: AwsError) -> bool:
    """True if the queue does not exist (any more)."""
    return error.code in _GONE


def name_stem(node: int, topic_arn: str, source: str) -> str:
    """The queue's name but for its generation: the same at every start, at most 66 of SQS's 80 characters."""
    told_apart = hashlib.sha256(f"{node}\0{topic_arn}\0{source}".encode()).hexdigest()[:12]
    return f"{PREFIX}{re.sub('[^A-Za-z0-9_-]', '-', source)[:40]}-{told_apart}-"


def queue_arn(topic_arn: str, region: str, account: str, name: str) -> str:
    """The ARN of a queue in the topic's partition."""
    return f"arn:{topic_arn.split(':')[1]}:sqs:{region}:{account}:{name}"


def name_of(arn: str) -> str:
    """The name in a queue's ARN."""
    return arn.rpartition(":")[2]


def family(arn: str) -> tuple[str, str]:
    """`(stem of the name, region)`: what all generations of a PacketSource's queue have in common."""
    return f"{name_of(arn).rpartition('-')[0]}-", arn.split(":")[3]


def region_of(arn: str) -> str:
    """The region in an ARN."""
    return arn.split(":")[3]


def account_of(arn: str) -> str:
    """The number of the account in an ARN."""
    return arn.split(":")[4]


def is_of_a_gateway(arn: str) -> bool:
    """True if some gateway, of whatever account, region and node, has made a queue with this ARN."""
    return _GATEWAYS.fullmatch(arn) is not None


def regional_sender(topic_arn: str, queue_region: str) -> str | None:
    """In whose name SNS delivers across regions when one of them is opt-in: the queue's region if that is the one, else
    the topic's. None where SNS goes by its plain name."""
    partition, region = topic_arn.split(":")[1], topic_region(topic_arn)
    if partition != "aws" or region == queue_region or {region, queue_region} <= _ENABLED_REGIONS:
        return None
    return f"sns.{region if queue_region in _ENABLED_REGIONS else queue_region}.amazonaws.com"


def naming(error: AwsError, arn: str) -> AwsError:
    """A refusal by the queue with its ARN, which is what a policy has to name, for its URL or its bare name. Other
    errors keep these: they say who was asked."""
    if error.service != "sqs" or not error.denied:
        return error
    return AwsError(
        error.service, error.operation, error.code, error.message, status=error.status, resource=arn
    )


def with_generation(queue: SourceQueue, generation: int) -> SourceQueue:
    """The queue that follows `queue`: not made, not subscribed."""
    stem = queue.arn.rpartition("-")[0]
    return replace(queue, arn=f"{stem}-{generation}", generation=generation, url="", attributes="")


def attributes_of(queue: SourceQueue) -> dict[str, str]:
    """What the queue is to be: polled for long, and open to this topic alone."""
    sender = regional_sender(queue.topic_arn, queue.arn.split(":")[3])
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "topic",
                "Effect": "Allow",
                "Principal": {"Service": [SNS, sender] if sender else SNS},
                "Action": "sqs:SendMessage",
                "Resource": queue.arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": queue.topic_arn}},
            }
        ],
    }
    return {
        "ReceiveMessageWaitTimeSeconds": str(LONG_POLL_SECONDS),
        "VisibilityTimeout": str(VISIBILITY_SECONDS),
        "Policy": json.dumps(policy),
    }


async def ensure(aws: Aws, region: str, queue: SourceQueue) -> SourceQueue:
    """The queue with its URL, found or made; under the next generation's name where its own is refused. `AwsError`."""
    url = await url_of(aws, region, queue)
    for _ in range(GENERATIONS):
        if url is not None:
            break
        try:
            params = {"QueueName": name_of(queue.arn), "Attributes": attributes_of(queue)}
            url = (await _call(aws, region, queue, "CreateQueue", params))["QueueUrl"]
            return replace(queue, url=url)
        except AwsError as error:
            if error.code in _RECENT:
                queue = with_generation(queue, queue.generation + 1)
            elif error.code not in _EXISTS:
                raise
        url = await url_of(aws, region, queue)
    if url is None:
        cause = f"{GENERATIONS} names in a row belong to queues that were deleted in the last 60 s"
        raise AwsError("sqs", "CreateQueue", "QueueDeletedRecently", cause, resource=queue.arn)
    queue = replace(queue, url=url)
    await _correct(aws, region, queue)
    return queue


async def delete(aws: Aws, region: str, queue: SourceQueue) -> None:
    """Delete the queue, if there is one, with all that is in it. Raises `AwsError`."""
    url = await url_of(aws, region, queue)
    if url is None:
        return
    try:
        await _call(aws, region, queue, "DeleteQueue", {"QueueUrl": url})
    except AwsError as error:
        if not is_gone(error):
            raise


async def shut(aws: Aws, queue: SourceQueue) -> None:
    """Let nobody send to the queue any more. `ensure` opens it again. Raises `AwsError`."""
    try:
        params = {"QueueUrl": queue.url, "Attributes": {"Policy": ""}}
        await _call(aws, region_of(queue.arn), queue, "SetQueueAttributes", params)
    except AwsError as error:
        if not is_gone(error):
            raise


async def count(aws: Aws, queue: SourceQueue) -> int:
    """The messages in the queue as far as SQS knows: waiting, held by somebody, delayed. Raises `AwsError`."""
    names = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
    try:
        params = {"QueueUrl": queue.url, "AttributeNames": names}
        answer = await _call(aws, region_of(queue.arn), queue, "GetQueueAttributes", params)
    except AwsError as error:
        if is_gone(error):
            return 0
        raise
    found = answer.get("Attributes", {})
    # A count that is missing is not 0: nothing may be deleted for it.
    return sum(int(found.get(name, 1)) for name in names)


async def url_of(aws: Aws, region: str, queue: SourceQueue) -> str | None:
    """The queue's URL, None if there is no such queue. Raises `AwsError`."""
    try:
        # With its owner: the caller's own account may have another queue of this name.
        params = {"QueueName": name_of(queue.arn), "QueueOwnerAWSAccountId": account_of(queue.arn)}
        return str((await _call(aws, region, queue, "GetQueueUrl", params))["QueueUrl"])
    except AwsError as error:
        if is_gone(error):
            return None
        raise


async def _correct(aws: Aws, region: str, queue: SourceQueue) -> None:
    """Put right what somebody has changed by hand."""
    wanted = attributes_of(queue)
    asked = {"QueueUrl": queue.url, "AttributeNames": list(wanted)}
    found = (await _call(aws, region, queue, "GetQueueAttributes", asked)).get("Attributes", {})
    if any(_parsed(found.get(name)) != _parsed(value) for name, value in wanted.items()):
        params = {"QueueUrl": queue.url, "Attributes": wanted}
        await _call(aws, region, queue, "SetQueueAttributes", params)


async def _call(
    aws: Aws, region: str, queue: SourceQueue, operation: str, params: Mapping[str, object]
) -> dict[str, Any]:
    try:
        return await aws.call("sqs", operation, params, region=region)
    except AwsError as error:
        raise naming(error, queue.arn) from error


def _parsed(value: str | None) -> object:
    try:
        return json.loads(value) if value else None
    except ValueError:
        return value
