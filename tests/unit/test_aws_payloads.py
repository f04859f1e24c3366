"""What services of AWS get of a packet, to the byte: `golden/SERVICE.txt`, which the reference shows too."""

import json
from pathlib import Path
from typing import Any

import pytest
from botocore_requests import KEYS, Request, record

from doubles import described_table
from sluicegate.aws import Aws
from sluicegate.destinations import create
from sluicegate.destinations.base import delivery_id
from sluicegate.httpclient import Answer
from sluicegate.model import DestinationSpec
from sluicegate.testing import destination_context, packet, packet_batch

GOLDEN = Path(__file__).parent / "golden"
ACCOUNT = "us-east-1:123456789012"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamodb": (f"arn:aws:dynamodb:{ACCOUNT}:table/orders", {}),
    "events": (f"arn:aws:events:{ACCOUNT}:event-bus/orders", {}),
    "execute-api": (f"arn:aws:execute-api:{ACCOUNT}:a1b2c3d4e5/live/POST/orders", {}),
    "firehose": (f"arn:aws:firehose:{ACCOUNT}:deliverystream/orders", {}),
    "geo": (
        f"arn:aws:geo:{ACCOUNT}:tracker/orders",
        {
            "DeviceIdExpression": "[0:2]",
            "LatitudeExpression": "i32le[2:6]",
            "LongitudeExpression": "i32le[6:10]",
            "ScaleFactor": "1e-7",
        },
    ),
    "iot": (f"arn:aws:iot:{ACCOUNT}:topic/orders", {}),
    "kinesis": (f"arn:aws:kinesis:{ACCOUNT}:stream/orders", {"PartitionKeyExpression": "[0:2]"}),
    "lambda": (f"arn:aws:lambda:{ACCOUNT}:function:orders:live", {}),
    "logs": (f"arn:aws:logs:{ACCOUNT}:log-group:orders:*", {}),
    "s3": ("arn:aws:s3:::orders/raw/*", {}),
    "sns": (f"arn:aws:sns:{ACCOUNT}:orders", {}),
    "states": (f"arn:aws:states:{ACCOUNT}:stateMachine:orders", {}),
    "sqs": (f"arn:aws:sqs:{ACCOUNT}:orders.fifo", {"UseMessageAttributes": True}),
}
BATCH = packet_batch(
    packet("hi") | {"Tag": "2A7hQ", "Formatter": "base64", "Data": "aGk="},
    values={
        "PartitionKeyExpression": ["6869"],
        "DeviceIdExpression": ["A20C"],
        "LatitudeExpression": ["473977418"],
        "LongitudeExpression": ["85455938"],
    },
)


def canned(request: Request) -> Answer:
    if b"QueueName" in request.body:
        return Answer(200, b'{"QueueUrl":"https://sqs.us-east-1.amazonaws.com/123456789012/orders.fifo"}')
    if b"TableName" in request.body:
        return Answer(200, json.dumps(described_table("route", "moment")).encode())
    if b"stateMachineArn" in request.body:
        return Answer(200, b'{"type":"EXPRESS","status":"SUCCEEDED","output":"{}"}')
    if request.body.startswith(b"Action="):
        return Answer(200, b"<member><Id>0</Id></member>")
    taken = {"Successful": [{"Id": "0"}], "Records": [{}], "RequestResponses": [{}], "Entries": [{}]}
    return Answer(200, json.dumps(taken | {"Errors": []}).encode())


@pytest.mark.parametrize("service", CASES)
async def test_a_payload(service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    delivery_id.set("00000000-0000-4000-8000-000000000000")
    made = record(monkeypatch, canned)
    target, arguments = CASES[service]
    aws = Aws("us-east-1")
    spec = DestinationSpec(name="archive", destination_arn=target, arguments=arguments)
    destination = create(spec, target, destination_context(tmp_path, aws=aws))
    await destination.deliver(BATCH)
    await aws.close()
    request = made[-1]
    shown = f"{request.method} {request.url}\n\n{request.body.decode()}"
    assert shown == (GOLDEN / f"{service}.txt").read_text()
