"""The gateway's own queue behind a topic: its name, its attributes, who may send to it (contract section 4.2)."""

import hashlib
import json
import re
from dataclasses import replace

from sluicegate.aws import Aws, AwsError
from sluicegate.state import SourceQueue

PREFIX = "sluicegate-"
"""How the name of every queue of every gateway begins: by it a home region knows which regions are served."""

VISIBILITY_SECONDS = 30
"""For so long a message is nobody else's. What takes longer is extended; after a crash it comes back so late."""

LONG_POLL_SECONDS = 20
GENERATIONS = 5
"""How many names in a row may be refused because their queues were deleted a moment ago."""

_GONE = frozenset(("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"))
_RECENT = frozenset(("QueueDeletedRecently", "AWS.SimpleQueueService.QueueDeletedRecently"))
_EXISTS = frozenset(("QueueNameExists", "QueueAlreadyExists"))


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


def with_generation(queue: SourceQueue, generation: int) -> SourceQueue:
    """The queue that follows `queue`: not made, not subscribed."""
    stem = queue.arn.rpartition("-")[0]
    return replace(queue, arn=f"{stem}-{generation}", generation=generation, url="", attributes="")


def attributes_of(queue: SourceQueue) -> dict[str, str]:
    """What the queue is to be: polled for long, and open to this topic alone."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "topic",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
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
    url = await _url(aws, region, queue)
    for _ in range(GENERATIONS):
        if url is not None:
            break
        try:
            params = {"QueueName": name_of(queue.arn), "Attributes": attributes_of(queue)}
            url = (await aws.call("sqs", "CreateQueue", params, region=region))["QueueUrl"]
            return replace(queue, url=url)
        except AwsError as error:
            if error.code in _RECENT:
                queue = with_generation(queue, queue.generation + 1)
            elif error.code not in _EXISTS:
                raise
        url = await _url(aws, region, queue)
    if url is None:
        cause = f"{GENERATIONS} names in a row belong to queues that were deleted in the last 60 s"
        raise AwsError("sqs", "CreateQueue", "QueueDeletedRecently", cause, resource=queue.arn)
    queue = replace(queue, url=url)
    await _correct(aws, region, queue)
    return queue


async def delete(aws: Aws, region: str, queue: SourceQueue) -> None:
    """Delete the queue, if there is one, with all that is in it. Raises `AwsError`."""
    url = await _url(aws, region, queue)
    if url is None:
        return
    try:
        await aws.call("sqs", "DeleteQueue", {"QueueUrl": url}, region=region)
    except AwsError as error:
        if not is_gone(error):
            raise


async def is_empty(aws: Aws, region: str, queue: SourceQueue) -> bool:
    """True if nothing waits in the queue and nobody holds a message of it, as far as SQS knows. Raises `AwsError`."""
    names = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
    try:
        params = {"QueueUrl": queue.url, "AttributeNames": names}
        found = (await aws.call("sqs", "GetQueueAttributes", params, region=region)).get("Attributes", {})
    except AwsError as error:
        if is_gone(error):
            return True
        raise
    return all(found.get(name) == "0" for name in names)


async def _url(aws: Aws, region: str, queue: SourceQueue) -> str | None:
    try:
        params = {"QueueName": name_of(queue.arn)}
        return str((await aws.call("sqs", "GetQueueUrl", params, region=region))["QueueUrl"])
    except AwsError as error:
        if is_gone(error):
            return None
        raise


async def _correct(aws: Aws, region: str, queue: SourceQueue) -> None:
    """Put right what somebody has changed by hand."""
    wanted = attributes_of(queue)
    asked = {"QueueUrl": queue.url, "AttributeNames": list(wanted)}
    found = (await aws.call("sqs", "GetQueueAttributes", asked, region=region)).get("Attributes", {})
    if any(_parsed(found.get(name)) != _parsed(value) for name, value in wanted.items()):
        params = {"QueueUrl": queue.url, "Attributes": wanted}
        await aws.call("sqs", "SetQueueAttributes", params, region=region)


def _parsed(value: str | None) -> object:
    try:
        return json.loads(value) if value else None
    except ValueError:
        return value
