"""examples/aws as it stands: its stack, its configuration, its publisher."""

import json
import subprocess
import sys
from pathlib import Path

from aws_sources import Served
from aws_sources import served as served
from harness import Client, Gateway, until
from ministack import ENVIRONMENT, Ministack, unique

EXAMPLE = Path(__file__).parents[2] / "examples/aws"


def made_stack(ministack: Ministack) -> dict[str, str]:
    """The outputs of the stack, for a gateway whose role has a path."""
    iam, formation = ministack.client("iam"), ministack.client("cloudformation")
    role, stack = unique("gateway"), unique("stack")
    trust = {"Version": "2012-10-17", "Statement": []}
    iam.create_role(RoleName=role, Path="/services/", AssumeRolePolicyDocument=json.dumps(trust))
    parameters = {"GatewayRoleName": role, "GatewayRolePath": "/services/", "TopicName": unique("topic")}
    formation.create_stack(
        StackName=stack,
        TemplateBody=(EXAMPLE / "template.yaml").read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    formation.get_waiter("stack_create_complete").wait(
        StackName=stack, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    (described,) = formation.describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    made = iam.get_role(RoleName=outputs["RoleArn"].rpartition("/")[2])["Role"]
    (statement,) = made["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"]["AWS"].endswith(f":role/services/{role}")
    return outputs


def test_the_example_works(ministack: Ministack, served: Served, tmp_path: Path) -> None:
    outputs = made_stack(ministack)
    text = (EXAMPLE / "sluicegate.yaml").read_text()
    for placeholder, output in (
        ("arn:aws:sns:us-east-1:123456789012:replies", "TopicArn"),
        ("arn:aws:iam::123456789012:role/sluicegate-topics", "RoleArn"),
        ("arn:aws:sqs:us-east-1:123456789012:replies-dead", "DeadLetterQueueArn"),
    ):
        assert text.count(f'"{placeholder}"') == 1
        text = text.replace(f'"{placeholder}"', f'"{outputs[output]}"')
    # Of a test: an assigned port, and what the harness adds itself.
    text = text.replace("0.0.0.0:2048", "127.0.0.1")
    text = text.replace("region: us-east-1\nstate: ./sluicegate.db\n", "")
    one = Gateway(tmp_path, text, aws=ministack.url, environment=ENVIRONMENT)
    served.made.append(one)
    one.start()
    one.event("SourceSubscribed")
    sns = ministack.client("sns")
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=outputs["TopicArn"])["Subscriptions"]
    attributes = sns.get_subscription_attributes(SubscriptionArn=subscription["SubscriptionArn"])[
        "Attributes"
    ]
    assert json.loads(attributes["RedrivePolicy"]) == {"deadLetterTargetArn": outputs["DeadLetterQueueArn"]}
    with Client() as client:
        host, port = client.address
        # The guide has the client speak first: its address is a private one.
        client.send(b"hello", one.address())
        until(lambda: one.metrics().value("received_packets"), "the gateway has heard the client")
        publish = [sys.executable, EXAMPLE / "publish.py", outputs["TopicArn"], host, str(port), "hello"]
        environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": ministack.url}
        subprocess.run(publish, check=True, env=environment, timeout=60)
        assert client.receive() == (b"hello", one.address())
        sns.publish(TopicArn=outputs["TopicArn"], Message="no message")
        assert one.event("SourceFailed")["Reason"] == "MalformedMessage"
    sqs = ministack.client("sqs")
    url = sqs.get_queue_url(QueueName=outputs["DeadLetterQueueArn"].rpartition(":")[2])["QueueUrl"]
    (letter,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    assert json.loads(letter["Body"])["Entry"] == "no message"
