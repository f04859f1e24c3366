"""Whether SNS may put into a PacketSource's dead-letter queue what it cannot deliver (contract section 4.2).

The queue is the redrive target of the subscription. It belongs to the user, and so does its policy: the gateway looks
at it where it may (`sqs:GetQueueAttributes`), says what is missing, and changes nothing.
"""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from sluicegate.aws import Aws, AwsError
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.state import SourceQueue

_AWS_KEY = "alias/aws/sqs"
_NAMES = ("Policy", "KmsMasterKeyId")


async def problem(aws: Aws, topic_arn: str, dead_letter_arn: str) -> str | None:
    """What keeps SNS from it, with the next step; None if nothing does. Raises `AwsError` if that cannot be seen."""
    queue = SourceQueue(dead_letter_arn, "", topic_arn, None, 1)
    region = sns_queue.region_of(dead_letter_arn)
    url = await sns_queue.url_of(aws, region, queue)
    if url is None:
        return f"the queue {dead_letter_arn} does not exist: create it, or correct `dead_letter_queue_arn`"
    params = {"QueueUrl": url, "AttributeNames": list(_NAMES)}
    try:
        found = (await aws.call("sqs", "GetQueueAttributes", params, region=region)).get("Attributes", {})
    except AwsError as error:
        raise sns_queue.naming(error, dead_letter_arn) from error
    if not admits(found.get("Policy"), topic_arn, dead_letter_arn):
        added = json.dumps(statement(topic_arn, dead_letter_arn))
        return f"SNS may not send to {dead_letter_arn}: add to the policy of that queue the statement {added}"
    if str(found.get("KmsMasterKeyId", "")).endswith(_AWS_KEY):
        step = "give the queue SQS's own encryption, or a key of yours whose policy allows sns.amazonaws.com"
        return f"SNS cannot use the key {_AWS_KEY} of {dead_letter_arn}: {step} kms:GenerateDataKey and kms:Decrypt"
    return None


def statement(topic_arn: str, dead_letter_arn: str) -> dict[str, Any]:
    """What the queue's policy needs."""
    return {
        "Effect": "Allow",
        "Principal": {"Service": sns_queue.SNS},
        "Action": "sqs:SendMessage",
        "Resource": dead_letter_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }


def admits(policy: str | None, topic_arn: str, dead_letter_arn: str) -> bool:
    """True if a queue's policy lets SNS send for this topic. Conditions other than those on the topic are taken for
    met, and denials are not looked at: it is better to miss one than to complain of what works."""
    try:
        statements = json.loads(policy or "{}").get("Statement", [])
    except (ValueError, AttributeError):
        return False
    return any(
        one.get("Effect") == "Allow"
        and _is_sns(one.get("Principal"))
        and any(fnmatchcase("sqs:sendmessage", str(name).lower()) for name in _list(one.get("Action")))
        and any(fnmatchcase(dead_letter_arn, str(arn)) for arn in _list(one.get("Resource", "*")))
        and _is_of_topic(one.get("Condition") or {}, topic_arn)
        for one in _list(statements)
        if isinstance(one, Mapping)
    )


def _is_sns(principal: Any) -> bool:
    if not isinstance(principal, Mapping):
        return bool(principal == "*")
    return "*" in _list(principal.get("AWS")) or not {sns_queue.SNS, "*"}.isdisjoint(
        map(str, _list(principal.get("Service")))
    )


def _is_of_topic(conditions: Any, topic_arn: str) -> bool:
    values = {"aws:sourcearn": topic_arn, "aws:sourceaccount": sns_queue.account_of(topic_arn)}
    for operator, compared in conditions.items() if isinstance(conditions, Mapping) else ():
        if (
            not isinstance(compared, Mapping)
            or not operator.lower().startswith(("arn", "string"))
            or "not" in operator.lower()
        ):
            continue
        for key, wanted in compared.items():
            value = values.get(key.lower())
            if value is not None and not any(fnmatchcase(value, str(one)) for one in _list(wanted)):
                return False
    return True


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
