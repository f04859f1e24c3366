"""`sluicegate apply` where `aws.endpoint_url` is an emulator: Destinations of the template deliver there."""

import json
from pathlib import Path

from harness import PROGRAM, Client, Gateway, run_program
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
