"""Stacks of a gateway whose topics are on AWS, and stacks that reach it through a topic and a queue (ministack)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from aws_sources import BRISK, SourceQueue, Topic, wait_until_gone
from aws_sources import article as by_ip
from aws_sources import topic as topic
from harness import Client, Gateway, until
from ministack import ACCOUNT, REGION, Ministack, unique
from stack_answers import Bucket
from stack_answers import bucket as bucket
from test_cloudformation import Stacks, article, deploy_provider, failing
from test_cloudformation import stacks as stacks

from sluicegate.cfn.packaged import FORMS
from sluicegate.state.keys import KeyFile

Make = Callable[..., Gateway]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Gateways of a ministack, written and not started. Each stays in a directory of its own."""
    made: list[Gateway] = []

    def one(ministack: Ministack, text: str, **credentials: str) -> Gateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        environment = BRISK | credentials
        made.append(Gateway(directory, text, aws=ministack.url, environment=environment))
        return made[-1]

    yield one
    for gateway in made:
        gateway.close()


# Topics on AWS


def test_a_packet_source_of_a_stack_subscribes_and_leaves_nothing_behind(
    ministack: Ministack, stacks: Stacks, topic: Topic, make: Make
) -> None:
    running = make(ministack, "listeners: []")
    running.open_to_everybody()
    running.start()
    template = article(deploy_provider(stacks, ministack, running.api_url))
    # The topic outlives the stack, else nobody would see what is left there.
    template["Resources"]["ReplySource"]["Properties"]["SnsTopicSource"]["TopicArn"] = topic.arn
    name = stacks.create(template)
    assert stacks.status(name) == "CREATE_COMPLETE", stacks.reasons(name)
    # A create has ended when the topic's messages come, not before.
    (source,) = running.api("GET", "/v1/packet-sources").json()["Items"]
    assert (source["State"], source["Subscription"]) == ("Active", "Subscribed")
    queue, port = topic.queue(), running.port()
    with Client() as client:
        topic.publish(by_ip(client, "AQIDBA=="))
        assert client.receive() == (b"\x01\x02\x03\x04", ("127.0.0.1", port))

    # Nor has a delete while something is left: the role goes next.
    stacks.delete(name)
    assert running.event("SourceDraining")["Queue"] == queue.arn
    assert topic.subscriptions() == []
    assert running.api("GET", "/v1/listeners").json()["Items"] == []
    with Client(port=port) as free:
        assert free.address[1] == port
    wait_until_gone(queue)


@pytest.fixture(scope="module")
def strict_ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One that checks who calls, and whether he may."""
    made = Ministack(tmp_path_factory.mktemp("strict"), {"AUTH": "true"})
    yield made
    made.close()


def root(ministack: Ministack, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=ministack.url, region_name=REGION, **keys)


def allowed(*actions: str) -> str:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def user(strict_ministack: Ministack) -> dict[str, str]:
    """Credentials for a gateway that may have queues and assume roles, and nothing else."""
    iam, name = root(strict_ministack, "iam"), unique("gateway")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=allowed("sqs:*", "sts:AssumeRole"))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.fixture
def strict_stacks(strict_ministack: Ministack) -> Iterator[Stacks]:
    made = Stacks(root(strict_ministack, "cloudformation"))
    yield made
    made.close()


def on_topic(topic: str, token: str, *actions: str) -> dict[str, Any]:
    """The article's stack on a topic that is there, with a role that lets the gateway do this with topics.

    Its own would not do: topics that CloudFormation makes let everybody subscribe, on ministack.
    """
    template = article(token)
    template["Resources"]["ReplySource"]["Properties"]["SnsTopicSource"]["TopicArn"] = topic
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ACCOUNT}}
    template["Resources"]["RoleForProxylity"]["Properties"] = {
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
        "Policies": [{"PolicyName": "topics", "PolicyDocument": json.loads(allowed(*actions))}],
    }
    return template


def test_a_role_that_lacks_a_permission_fails_the_stack_and_leaves_nothing_behind(
    strict_ministack: Ministack, strict_stacks: Stacks, user: dict[str, str], make: Make
) -> None:
    running = make(strict_ministack, "listeners: []", **user)
    running.open_to_everybody()
    running.start()
    token = deploy_provider(strict_stacks, strict_ministack, running.api_url)
    topic = root(strict_ministack, "sns").create_topic(Name=unique("replies"))["TopicArn"]
    may = ("sns:ListSubscriptionsByTopic", "sns:Unsubscribe")
    reasons = failing(strict_stacks, on_topic(topic, token, *may))
    assert f"sns:Subscribe on {topic} was refused" in reasons
    assert f"; attach to arn:aws:iam::{ACCOUNT}:role/" in reasons
    assert f"a policy that allows sns:Subscribe on {topic}" in reasons
    assert running.api("GET", "/v1/packet-sources").json()["Items"] == []
    assert running.api("GET", "/v1/listeners").json()["Items"] == []
    sqs = root(strict_ministack, "sqs")
    for url in sqs.list_queues(QueueNamePrefix="sluicegate-").get("QueueUrls", []):
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
        wait_until_gone(SourceQueue(sqs, found["QueueArn"]))

    name = strict_stacks.create(on_topic(topic, token, *may, "sns:Subscribe"))
    assert strict_stacks.status(name) == "CREATE_COMPLETE", strict_stacks.reasons(name)
    strict_stacks.delete(name)


# Requests that come through a topic


class ByTopic:
    """The topic form of the provider, deployed, and its gateway, which nobody can reach."""

    def __init__(self, ministack: Ministack, stacks: Stacks, bucket: Bucket, make: Make) -> None:
        name = stacks.create(FORMS["topic"](), unique("provider"))
        assert stacks.status(name) == "CREATE_COMPLETE", stacks.reasons(name)
        outputs = stacks.outputs(name)
        self.token = outputs["ServiceToken"]
        self.bucket = bucket
        self._sns = ministack.client("sns")
        self.sqs, self.queue = ministack.client("sqs"), outputs["QueueUrl"]
        section = f"{{ queue_url: '{self.queue}', response_hosts: ['{bucket.host}'] }}"
        self.gateway = make(ministack, f"cloudformation: {section}\nlisteners: []")
        text = self.gateway.file.read_text().splitlines()
        self.gateway.file.write_text("\n".join("api: null" if "api:" in line else line for line in text))
        keys = KeyFile(self.gateway.directory / "sluicegate.db.keys")
        self.key = keys.create_api_key("stacks", frozenset({"admin"}))[1]
        self.gateway.spawn()
        self.gateway.event("GatewayStarted")

    def ask(self, kind: str, **others: Any) -> None:
        """A request as CloudFormation publishes it."""
        properties = {"ServiceToken": self.token, "ApiKey": self.key, "Bind": "127.0.0.1"}
        request = {
            "RequestType": kind,
            "RequestId": unique("request"),
            "StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/demo/6b0f0c5e",
            "LogicalResourceId": "Entry",
            "ResourceType": "Custom::ProxylityUdpGatewayListener",
            "ResponseURL": f"http://{self.bucket.host}/answer",
            "ResourceProperties": properties,
            **others,
        }
        self._sns.publish(TopicArn=self.token, Message=json.dumps(request))

    def answer(self, count: int) -> dict[str, Any]:
        until(lambda: len(self.bucket.answers) >= count, f"answer {count} is given")
        return self.bucket.answers[count - 1]

    def is_read_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return set(found.values()) == {"0"}


def test_a_gateway_without_an_api_is_reached_through_a_topic(
    ministack: Ministack, stacks: Stacks, bucket: Bucket, make: Make
) -> None:
    by_topic = ByTopic(ministack, stacks, bucket, make)
    gateway = by_topic.gateway
    by_topic.ask("Create")
    made = by_topic.answer(1)
    assert made["Status"] == "SUCCESS", made
    started = gateway.event("ListenerStarted")
    assert (made["PhysicalResourceId"], made["Data"]["Port"]) == (started["Listener"], started["Port"])

    # Nobody but the listed host is answered, and nothing is done for him.
    with_other_host = f"http://localhost:{bucket.host.partition(':')[2]}/answer"
    by_topic.ask("Create", ResponseURL=with_other_host)
    refused = gateway.event("StackUnanswered")
    assert refused["Reason"] == "NotCloudFormation"
    assert "is not CloudFormation's bucket" in refused["Detail"]

    by_topic.ask("Delete", PhysicalResourceId=made["PhysicalResourceId"])
    assert by_topic.answer(2)["Status"] == "SUCCESS"
    gateway.event("ListenerStopped", Listener=started["Listener"])
    assert len(gateway.named("ListenerStarted")) == 1
    until(by_topic.is_read_empty, "every message is deleted")
    assert len(bucket.answers) == 2
    assert by_topic.key not in gateway.process.stdout.text + gateway.process.stderr.text
    assert gateway.stop() == 0


def test_a_queue_that_is_away_is_told_once_and_read_again(
    ministack: Ministack, stacks: Stacks, bucket: Bucket, make: Make
) -> None:
    by_topic = ByTopic(ministack, stacks, bucket, make)
    gateway = by_topic.gateway
    by_topic.sqs.delete_queue(QueueUrl=by_topic.queue)
    told = gateway.event("StackUnanswered", Reason="QueueUnreadable")
    assert by_topic.queue in told["Detail"]
    assert "correct `cloudformation.queue_url`" in told["Detail"]
    by_topic.sqs.create_queue(QueueName=by_topic.queue.rpartition("/")[2])
    gateway.event("StackQueueRecovered")
    by_topic.ask("Create")
    assert by_topic.answer(1)["Status"] == "SUCCESS"
    assert len(gateway.named("StackUnanswered")) == 1
    assert gateway.stop() == 0
