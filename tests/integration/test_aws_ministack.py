"""Calls of AWS as an independent implementation understands them: what boto3 sees of ours and we of boto3's, and, with
its checks of signatures and policies switched on, who may do what."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

from sluicegate.aws import Aws, AwsError, Queue, QueueMessage, Role


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def aws(ministack: Ministack) -> AsyncIterator[Aws]:
    made = Aws(REGION, ministack.url)
    yield made
    await made.close()


async def all_of(queue: Queue, count: int) -> list[QueueMessage]:
    """The next `count` messages; there must be no more."""
    found: list[QueueMessage] = []
    while len(found) < count:
        found += await queue.receive(wait_seconds=5)
    assert len(found) == count
    return found


async def new_queue(aws: Aws, name: str) -> Queue:
    answer = await aws.call("sqs", "CreateQueue", {"QueueName": unique(name)})
    return aws.queue(answer["QueueUrl"])


async def failure(call: Awaitable[object]) -> AwsError:
    with pytest.raises(AwsError) as raised:
        await call
    return raised.value


async def test_messages_of_boto3(ministack: Ministack, aws: Aws) -> None:
    queue = await new_queue(aws, "in")
    sqs = ministack.client("sqs")
    bodies = [f'{{"Größe": "{number}\\n"}}' for number in range(12)]
    before = time.time()
    for body in bodies:
        sqs.send_message(QueueUrl=queue.url, MessageBody=body)
    found = await all_of(queue, 12)
    assert sorted(message.body for message in found) == sorted(bodies)
    assert len({message.message_id for message in found}) == 12
    assert all(message.receive_count == 1 for message in found)
    assert all(message.sent_at and before - 5 < message.sent_at < time.time() + 5 for message in found)


async def test_messages_for_boto3(ministack: Ministack, aws: Aws) -> None:
    queue = await new_queue(aws, "out")
    bodies = ["ü" * 100_000, "x" * 500_000, *(f"message {number}" for number in range(20))]
    assert await queue.send(bodies) == []
    sqs, found = ministack.client("sqs"), []
    while len(found) < len(bodies):
        found += sqs.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=5)[
            "Messages"
        ]
    assert sorted(message["Body"] for message in found) == sorted(bodies)


async def test_extended_is_kept_from_others_and_deleted_is_gone(aws: Aws) -> None:
    queue = await new_queue(aws, "life")
    await queue.send([f"message {number}" for number in range(15)])
    found = await all_of(queue, 15)
    receipts = [message.receipt for message in found]
    assert await queue.extend(receipts[:1], 0) == []
    again = (await all_of(queue, 1))[0]
    assert (again.body, again.receive_count) == (found[0].body, 2)
    assert await queue.extend(receipts[1:], 120) == []
    assert await queue.receive(wait_seconds=0) == []
    failed = await queue.delete([*receipts[1:], again.receipt, "no such receipt"])
    assert [index for index, _ in failed] == [15]


async def test_a_queue_that_does_not_exist(ministack: Ministack, aws: Aws) -> None:
    """The same code whichever way it is asked for."""
    name = unique("none")
    by_hand = await failure(aws.queue(f"{ministack.url}/{ACCOUNT}/{name}").receive())
    by_botocore = await failure(aws.call("sqs", "GetQueueUrl", {"QueueName": name}))
    assert by_hand.code == by_botocore.code == "QueueDoesNotExist"
    assert not by_hand.retryable
    assert f"sqs:GetQueueUrl on {name} failed" in str(by_botocore)


async def test_topics_and_the_account(ministack: Ministack, aws: Aws) -> None:
    assert await aws.account() == ACCOUNT
    queue = await new_queue(aws, "topic")
    topic = (await aws.call("sns", "CreateTopic", {"Name": unique("topic")}))["TopicArn"]
    asked = {"QueueUrl": queue.url, "AttributeNames": ["QueueArn"]}
    arn = (await aws.call("sqs", "GetQueueAttributes", asked))["Attributes"]["QueueArn"]
    await aws.call("sns", "Subscribe", {"TopicArn": topic, "Protocol": "sqs", "Endpoint": arn})
    ministack.client("sns").publish(TopicArn=topic, Message="hello")
    envelope = json.loads((await all_of(queue, 1))[0].body)
    assert (envelope["TopicArn"], envelope["Message"]) == (topic, "hello")


async def test_log_events(ministack: Ministack, aws: Aws) -> None:
    group = unique("group")
    names = {"logGroupName": group, "logStreamName": "2026/11/22"}
    stream = aws.log_stream(group, "2026/11/22")
    now = int(time.time() * 1000)
    events = [(now + number, f'{{"Event":"SourceFailed","Detail":"ü{number}"}}') for number in range(3)]
    assert (await failure(stream.put(events))).code == "ResourceNotFoundException"
    await aws.call("logs", "CreateLogGroup", {"logGroupName": group})
    await aws.call("logs", "CreateLogStream", names)
    assert await stream.put(events) == {}
    found = ministack.client("logs").get_log_events(**names, startFromHead=True)["events"]
    assert [(event["timestamp"], event["message"]) for event in found] == events


async def test_another_region(ministack: Ministack, aws: Aws) -> None:
    name = unique("elsewhere")
    await aws.call("sqs", "CreateQueue", {"QueueName": name}, region="eu-west-1")
    url = (await aws.call("sqs", "GetQueueUrl", {"QueueName": name}, region="eu-west-1"))["QueueUrl"]
    await aws.queue(url, region="eu-west-1").send(["over there"])
    sqs = ministack.client("sqs", "eu-west-1")
    assert sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"][0]["Body"] == "over there"
    assert (await failure(aws.call("sqs", "GetQueueUrl", {"QueueName": name}))).code == "QueueDoesNotExist"


# With checks of signatures and policies


class Guarded:
    """A ministack that asks who calls, and an IAM user for the gateway that may do nothing yet."""

    def __init__(self, ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ministack = ministack
        self.iam = self.root("iam")
        self.user = unique("gateway")
        self.iam.create_user(UserName=self.user)
        key = self.iam.create_access_key(UserName=self.user)["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        self.url = self.root("sqs").create_queue(QueueName=unique("guarded"))["QueueUrl"]

    def root(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.ministack.url, region_name=REGION, **keys)

    def allow(self, *actions: str) -> None:
        self.iam.put_user_policy(
            UserName=self.user, PolicyName="p", PolicyDocument=_policy(Action=actions, Resource="*")
        )

    def role(self, *actions: str) -> Role:
        name = unique("role")
        trust = _policy(
            Action="sts:AssumeRole", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/{self.user}"}
        )
        arn = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        document = _policy(Action=actions, Resource="*")
        self.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document)
        return Role(arn, f"sluicegate-{REGION}@{ACCOUNT}-src-replies")


def _policy(**statement: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


@pytest.fixture(scope="module")
def strict_ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    made = Ministack(tmp_path_factory.mktemp("strict"), {"AUTH": "true"})
    yield made
    made.close()


@pytest.fixture
def guarded(strict_ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    return Guarded(strict_ministack, monkeypatch)


async def test_signatures_are_good_and_permissions_are_named(guarded: Guarded) -> None:
    aws = Aws(REGION, guarded.ministack.url)
    queue = aws.queue(guarded.url)
    error = await failure(queue.receive(wait_seconds=0))
    assert error.denied
    assert not error.retryable
    assert (
        f"sqs:ReceiveMessage on {queue.url} was refused: User: arn:aws:iam::{ACCOUNT}:user/{guarded.user}"
        in str(error)
    )
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:replies"
    error = await failure(aws.call("sns", "ListSubscriptionsByTopic", {"TopicArn": topic}))
    assert error.denied
    assert f"sns:ListSubscriptionsByTopic on {topic} was refused" in str(error)
    error = await failure(aws.log_stream("group", "stream").put([(1, "line")]))
    assert error.denied
    assert "logs:PutLogEvents on group:stream was refused" in str(error)

    guarded.allow("sqs:*", "logs:*")
    guarded.root("sqs").send_message(QueueUrl=queue.url, MessageBody="ü")
    message = (await all_of(queue, 1))[0]
    assert await queue.extend([message.receipt], 60) == []
    assert await queue.delete([message.receipt]) == []
    assert await queue.send(["one", "two"]) == []
    names = {"logGroupName": "group", "logStreamName": "stream"}
    await aws.call("logs", "CreateLogGroup", {"logGroupName": "group"})
    await aws.call("logs", "CreateLogStream", names)
    assert await aws.log_stream("group", "stream").put([(int(time.time() * 1000), "ü")]) == {}
    await aws.close()


async def test_a_wrong_secret(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.allow("sqs:*")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something-else")
    aws = Aws(REGION, guarded.ministack.url)
    error = await failure(aws.queue(guarded.url).receive(wait_seconds=0))
    assert "the signature is wrong: check the secret access key" in str(error)
    error = await failure(aws.call("sqs", "ListQueues"))
    assert "the signature is wrong: check the secret access key" in str(error)
    await aws.close()


async def test_a_role_has_its_own_permissions(guarded: Guarded) -> None:
    aws = Aws(REGION, guarded.ministack.url)
    reader, nobody = guarded.role("sqs:ReceiveMessage"), guarded.role("sns:Subscribe")
    stranger = Role(f"arn:aws:iam::{ACCOUNT}:role/{unique('stranger')}", "session")
    guarded.allow("sts:AssumeRole")

    identity = await aws.call("sts", "GetCallerIdentity", role=reader)
    assert identity["Arn"].endswith(f":assumed-role/{reader.arn.rpartition('/')[2]}/{reader.session_name}")
    assert await aws.queue(guarded.url, role=reader).receive(wait_seconds=0) == []
    assert (await failure(aws.queue(guarded.url).receive(wait_seconds=0))).denied
    assert (
        await failure(aws.queue(guarded.url, role=nobody).receive(wait_seconds=0))
    ).action == "sqs:ReceiveMessage"
    for call in (
        aws.queue(guarded.url, role=stranger).receive(),
        aws.call("sns", "ListTopics", role=stranger),
    ):
        error = await failure(call)
        assert error.denied
        assert f"sts:AssumeRole on {stranger.arn} was refused" in str(error)
    await aws.close()
