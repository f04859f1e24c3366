"""What SNS cannot deliver goes into the dead-letter queue, if that admits SNS; the operator is told what is missing."""

import json
from typing import Any

import pytest
from test_sns_source_parts import DEAD, TOPIC, Rig
from test_sns_source_parts import rig as rig

from sluicegate.aws import AwsError
from sluicegate.sources.topic.redrive import admits, statement
from sluicegate.sources.topic.subscription import next_step
from waiting import until

ACCOUNT = TOPIC.split(":")[4]


def policy(*statements: Any) -> str:
    return json.dumps(
        {"Version": "2012-10-17", "Statement": statements[0] if len(statements) == 1 else statements}
    )


RIGHT = statement(TOPIC, DEAD)


@pytest.mark.parametrize(
    "found",
    [
        policy(RIGHT),
        policy([RIGHT]),
        policy({"Effect": "Deny"}, RIGHT),
        policy({**RIGHT, "Principal": "*"}),
        policy({**RIGHT, "Principal": {"AWS": "*"}}),
        policy({**RIGHT, "Principal": {"Service": ["events.amazonaws.com", "sns.amazonaws.com"]}}),
        policy({**RIGHT, "Action": ["SQS:Send*"], "Resource": "*"}),
        policy({**RIGHT, "Condition": {"ArnLike": {"AWS:SourceArn": [f"arn:aws:sns:*:{ACCOUNT}:*"]}}}),
        policy({**RIGHT, "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}}}),
        policy({**RIGHT, "Condition": {"Bool": {"aws:SecureTransport": "true"}}}),
        policy({**RIGHT, "Condition": {"ArnEquals": "no mapping"}}),
        policy({**RIGHT, "Condition": ["no mapping"]}),
        policy({name: value for name, value in RIGHT.items() if name != "Condition"}),
    ],
)
def test_a_policy_that_admits_sns(found: str) -> None:
    assert admits(found, TOPIC, DEAD)


@pytest.mark.parametrize(
    "found",
    [
        None,
        "",
        "no JSON",
        "[]",
        policy([]),
        policy({**RIGHT, "Effect": "Deny"}),
        policy({**RIGHT, "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}),
        policy({**RIGHT, "Principal": {"Service": "events.amazonaws.com"}}),
        policy({**RIGHT, "Action": "sqs:ReceiveMessage"}),
        policy({**RIGHT, "Resource": f"{DEAD}2"}),
        policy({**RIGHT, "Condition": {"ArnEquals": {"aws:SourceArn": f"{TOPIC}-other"}}}),
        policy({**RIGHT, "Condition": {"StringEquals": {"aws:SourceAccount": "999999999999"}}}),
    ],
)
def test_a_policy_that_does_not(found: str | None) -> None:
    assert not admits(found, TOPIC, DEAD)


async def test_the_missing_statement_is_told_until_it_is_there(rig: Rig) -> None:
    rig.aws.queues["dead"] = {}
    await rig.start(dead_letter_queue_arn=DEAD)
    await until(lambda: rig.named("SourceSubscribed"))
    assert json.loads(rig.subscriptions[0]["Attributes"]["RedrivePolicy"]) == {"deadLetterTargetArn": DEAD}
    (told,) = rig.named("SourceProvisionFailed")
    assert told["Reason"] == "RedriveDenied"
    missing = json.loads(told["Detail"].partition("the statement ")[2])
    rig.aws.queues["dead"]["Policy"] = policy(missing)
    await until(lambda: rig.named("SourceRecovered"))
    assert len(rig.named("SourceProvisionFailed")) == 1


async def test_a_queue_that_is_not_there_or_has_a_key_of_aws(rig: Rig) -> None:
    await rig.start(dead_letter_queue_arn=DEAD)
    await until(lambda: rig.named("SourceProvisionFailed"))
    assert "does not exist" in rig.named("SourceProvisionFailed")[0]["Detail"]
    rig.aws.queues["dead"] = {"Policy": policy(RIGHT), "KmsMasterKeyId": "alias/aws/sqs"}
    await until(lambda: len(rig.named("SourceProvisionFailed")) == 2)
    assert "kms:GenerateDataKey" in rig.named("SourceProvisionFailed")[1]["Detail"]


async def test_where_the_queue_may_not_be_looked_at_it_is_said_what_it_needs(rig: Rig) -> None:
    rig.aws.refuse["GetQueueAttributes"] = AwsError(
        "sqs", "GetQueueAttributes", "AccessDenied", "no", status=403
    )
    rig.aws.queues["dead"] = {}
    await rig.start(dead_letter_queue_arn=DEAD)
    await until(lambda: rig.named("SourceSubscribed"))
    detail = rig.named("SourceSubscribed")[0]["Detail"]
    assert json.dumps(RIGHT) in detail
    assert "sqs:GetQueueAttributes" in detail


@pytest.mark.parametrize(
    "arn", [DEAD.replace("us-east-1", "eu-west-1"), DEAD.replace(ACCOUNT, "999999999999")]
)
async def test_one_elsewhere_is_no_redrive_target_and_that_is_said(rig: Rig, arn: str) -> None:
    await rig.start(dead_letter_queue_arn=arn)
    await until(lambda: rig.named("SourceSubscribed"))
    assert "RedrivePolicy" not in rig.subscriptions[0]["Attributes"]
    assert "own region and account, so name a queue there" in rig.named("SourceSubscribed")[0]["Detail"]
    assert rig.named("SourceProvisionFailed") == []


def test_what_sns_says_of_the_redrive_target_has_a_next_step() -> None:
    cause = "Invalid parameter: RedrivePolicy: must be a standard queue"
    error = AwsError("sns", "Subscribe", "InvalidParameter", cause, status=400, resource=TOPIC)
    assert "correct `dead_letter_queue_arn`" in next_step(error, None, own=False)
