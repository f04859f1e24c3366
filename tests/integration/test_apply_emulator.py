"""`sluicegate apply` where `aws.endpoint_url` is an emulator: Destinations of the template deliver there."""

import json
from pathlib import Path

from aws_sources import BRISK
from harness import PROGRAM, Client, Gateway, free_port, in_process, run_program, until
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

TEMPLATE = """
Resources:
  Orders:
    Type: AWS::SQS::Queue
    Properties: {{ QueueName: {queue} }}
  Entry:
    Type: Custom::SluicegateListener
    Properties:
      Name: entry
      Bind: 127.0.0.1
      ClientRestrictions: {{ Networks: [127.0.0.0/8] }}
      Destinations:
        - {{ Name: made, DestinationArn: !GetAtt Orders.Arn, Arguments: {{ SendRaw: true }}, Formatter: utf8 }}
        - {{ Name: literal, DestinationArn: "{literal}", Arguments: {{ SendRaw: true }}, Formatter: utf8 }}
"""

TOPIC = """
Resources:
  Commands:
    Type: AWS::SNS::Topic
    Properties: {{ TopicName: {topic} }}
  Entry:
    Type: Custom::SluicegateListener
    Properties:
      Name: entry
      Bind: 127.0.0.1
      ClientRestrictions: {{ Networks: [127.0.0.0/8] }}
      Destinations:
        - {{ Name: log, DestinationArn: !Ref Commands, Batching: {{ Count: 1 }} }}
  Source:
    Type: Custom::SluicegatePacketSource
    Properties:
      Name: commands
      ListenerName: !Ref Entry
      SnsTopicSource: {{ TopicArn: !Ref Commands, Role: !GetAtt Role.Arn }}
  Role: {{ Type: AWS::IAM::Role }}
"""


def test_a_topic_of_a_template_is_that_of_the_emulator(ministack: Ministack, tmp_path: Path) -> None:
    """Where the gateway has no SNS endpoint, or no longer: packets go there, and its messages become packets."""
    sns, topic = ministack.client("sns"), unique("commands")
    template = tmp_path / "t.yaml"
    template.write_text(TOPIC.format(topic=topic))
    own = f"sns: {{ bind: 127.0.0.1:{free_port()} }}"
    gateway = Gateway(tmp_path, f"listeners: []\n{own}", aws=ministack.url, environment=ENVIRONMENT | BRISK)

    def applied() -> str:
        done = in_process("apply", template, "--api", gateway.api_url, "--egress-network", "127.0.0.0/8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        gateway.start()
        assert "Commands is the gateway's own topic, which takes no packets" in applied()
        gateway.stop()
        gateway.edit(own, "")
        gateway.start()
        arn = sns.create_topic(Name=topic)["TopicArn"]
        told = applied()
        assert f"commands takes the messages of {arn} at the emulator {ministack.url}" in told
        assert f"packets for log go to {arn} at the emulator {ministack.url}: Commands is not made" in told
        until(
            lambda: (
                gateway.api("GET", "/v1/packet-sources").json()["Items"][0]["Subscription"] == "Subscribed"
            ),
            "the gateway has subscribed",
        )
        with Client() as client:
            message = {"Messages": [{"Remote": client.remote, "Data": "AQID"}]}
            sns.publish(TopicArn=arn, Message=json.dumps(message))
            assert client.receive() == (b"\x01\x02\x03", gateway.address("entry"))
            client.send(b"hello", gateway.address("entry"))
            until(lambda: gateway.metrics().value("delivery_packets") == 1, "the packet is in the topic")
    finally:
        gateway.close()


def test_queues_of_a_template_are_those_of_the_emulator(ministack: Ministack, tmp_path: Path) -> None:
    sqs, queue, other = ministack.client("sqs"), unique("orders"), unique("orders")
    urls = [sqs.create_queue(QueueName=name)["QueueUrl"] for name in (queue, other)]
    literal = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{other}"
    template = tmp_path / "t.yaml"
    template.write_text(TEMPLATE.format(queue=queue, literal=literal))
    gateway = Gateway(tmp_path, "listeners: []", aws=ministack.url, environment=ENVIRONMENT)
    try:
        gateway.start()
        command = [PROGRAM, "apply", template, "--api", gateway.api_url, "--output", "json"]
        made = run_program(command)
        assert made.returncode == 0, made.stderr
        notes = [note for note in json.loads(made.stdout)["Notes"] if "emulator" in str(note)]
        assert len(notes) == 2, made.stdout
        with Client() as client:
            client.send(b"hello", gateway.address("entry"))
            for url in urls:
                (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
                assert message["Body"] == "hello"
    finally:
        gateway.close()
