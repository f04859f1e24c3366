"""`arn:aws:events:…` against an independent implementation of EventBridge, whose rule hands events on to a queue."""

import json
from typing import Any

from aws_destinations import AwsContract, data_of
from aws_destinations import ministack_keys as ministack_keys
from ministack import ACCOUNT, REGION, Ministack, unique

from sluicegate.destinations.base import Destination
from sluicegate.destinations.eventbridge import EventBridgeDestination

PATTERN = {
    "source": ["proxylity"],
    "detail-type": ["udp-gateway-packet-ingress"],
    "detail": {"Local": {"Port": [2101]}},
}


class TestEventBridge(AwsContract):
    """No `refuse`: it takes events for a bus that is gone. `test_aws_destinations.py` has a service that refuses."""

    kind = EventBridgeDestination
    bad_targets = (
        "arn:aws:events:us-east-1:123456789012:orders",
        "arn:aws:events:us-east-1:123456789012:rule/orders",
        "arn:aws:events:us-east-1:123456789012:event-bus/",
    )

    def make(self, ministack: Ministack) -> None:
        self.events, self.sqs = ministack.client("events"), ministack.client("sqs")
        self.name = unique("destination")
        self.url = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.target = self.events.create_event_bus(Name=self.name)["EventBusArn"]
        self.events.put_rule(Name="packets", EventBusName=self.name, EventPattern=json.dumps(PATTERN))
        queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}"
        self.events.put_targets(
            Rule="packets", EventBusName=self.name, Targets=[{"Id": "queue", "Arn": queue}]
        )

    def delivered(self, destination: Destination) -> list[str]:
        found = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        events: list[dict[str, Any]] = [json.loads(message["Body"]) for message in found]
        return data_of([json.dumps(event["detail"]) for event in events])
