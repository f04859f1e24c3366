"""The requests of Destinations next to botocore's own for the same call at the same moment."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from botocore_requests import KEYS, SESSION, Request, Theirs, assert_same, record, set_botocores_clock

from doubles import described_table
from eventstream import frame
from sluicegate.aws import Aws
from sluicegate.aws.credentials import Keys
from sluicegate.destinations.apigateway import ApiGatewayDestination
from sluicegate.destinations.aws import AwsDestination
from sluicegate.destinations.awslambda import LambdaDestination
from sluicegate.destinations.base import PacketBatch
from sluicegate.destinations.cloudwatchlogs import CloudWatchLogsDestination
from sluicegate.destinations.dynamodb import DynamoDbDestination
from sluicegate.destinations.eventbridge import EventBridgeDestination
from sluicegate.destinations.firehose import FirehoseDestination
from sluicegate.destinations.iot import IotDestination
from sluicegate.destinations.kinesis import KinesisDestination
from sluicegate.destinations.location import LocationDestination
from sluicegate.destinations.s3 import S3Destination
from sluicegate.destinations.sns import SnsDestination
from sluicegate.destinations.sqs import SqsDestination
from sluicegate.destinations.stepfunctions import StepFunctionsDestination
from sluicegate.httpclient import Answer
from sluicegate.testing import destination_context, packet_batch

ACCOUNT = "123456789012"
BATCH = packet_batch("grüße", "b", values={"PartitionKeyExpression": ["A1", "B2"]})
RECORDS = BATCH.records()
ONE = packet_batch(
    "b",
    values={
        "TopicSuffixExpression": ["B=/+"],
        "DeviceIdExpression": ["b"],
        "LatitudeExpression": ["47"],
        "LongitudeExpression": ["8.5"],
        "AccuracyExpression": ["2"],
        "TimestampExpression": ["1780999200.5"],
        "PositionPropertyExpressions.Speed": ["7"],
    },
)


@dataclass
class Case:
    """A Destination, and what botocore is asked for."""

    kind: type[AwsDestination]
    target: str
    arguments: dict[str, Any]
    operation: str
    params: Callable[[Request], dict[str, Any]]
    batch: PacketBatch = BATCH

    def __str__(self) -> str:
        return self.operation


def message(place: int, body: str) -> dict[str, Any]:
    def string(value: str) -> dict[str, str]:
        return {"DataType": "String", "StringValue": value}

    attributes = {"LocalDomain": string("ingress-1"), "RemoteAddress": string("198.51.100.7")}
    attributes["LocalPort"] = {"DataType": "Number", "StringValue": "2101"}
    attributes["RemotePort"] = {"DataType": "Number", "StringValue": "40001"}
    return {"Id": str(place), "MessageBody": body, "MessageAttributes": attributes}


CASES = [
    Case(
        SqsDestination,
        "arn:{partition}:sqs:{region}:123456789012:orders",
        {"UseMessageAttributes": True, "SendRaw": True},
        "SendMessageBatch",
        lambda ours: {
            "QueueUrl": "https://queue/orders",
            "Entries": [message(0, "grüße"), message(1, "b")],
        },
    ),
    Case(
        SnsDestination,
        "arn:{partition}:sns:{region}:123456789012:orders.fifo",
        {},
        "PublishBatch",
        lambda ours: {
            "TopicArn": dict(parse_qsl(ours.body.decode()))["TopicArn"],
            "PublishBatchRequestEntries": [published(0), published(1)],
        },
    ),
    Case(
        KinesisDestination,
        "arn:{partition}:kinesis:{region}:123456789012:stream/orders",
        {"PartitionKeyExpression": "[0]"},
        "PutRecords",
        lambda ours: {
            "StreamARN": json.loads(ours.body)["StreamARN"],
            "Records": [
                {"Data": RECORDS[0], "PartitionKey": "A1"},
                {"Data": RECORDS[1], "PartitionKey": "B2"},
            ],
        },
    ),
    Case(
        FirehoseDestination,
        "arn:{partition}:firehose:{region}:123456789012:deliverystream/orders",
        {},
        "PutRecordBatch",
        lambda ours: {
            "DeliveryStreamName": "orders",
            "Records": [{"Data": RECORDS[0] + b"\n"}, {"Data": RECORDS[1] + b"\n"}],
        },
    ),
    Case(
        CloudWatchLogsDestination,
        "arn:{partition}:logs:{region}:123456789012:log-group:/orders:*",
        {},
        "PutLogEvents",
        lambda ours: {
            "logGroupName": "/orders",
            "logStreamName": "decoder/1/2026-06-09",
            "logEvents": [{"timestamp": 1780999200123, "message": text} for text in ("grüße", "b")],
        },
    ),
    Case(
        EventBridgeDestination,
        "arn:{partition}:events:{region}:123456789012:event-bus/orders",
        {},
        "PutEvents",
        lambda ours: {
            "Entries": [
                {
                    "Source": "proxylity",
                    "DetailType": "udp-gateway-packet-ingress",
                    "Detail": record.decode(),
                    "EventBusName": json.loads(ours.body)["Entries"][0]["EventBusName"],
                }
                for record in RECORDS
            ]
        },
    ),
    Case(
        LambdaDestination,
        "arn:{partition}:lambda:{region}:123456789012:function:orders:live",
        {"TenantId": "acme one", "UseAsyncInvoke": True},
        "Invoke",
        lambda ours: {
            "FunctionName": unquote(ours.url.split("/")[-2]),
            "Payload": BATCH.body(),
            "TenantId": "acme one",
            "InvocationType": "Event",
        },
    ),
    Case(
        LambdaDestination,
        "arn:{partition}:lambda:{region}:123456789012:function:orders",
        {"UseResponseStreaming": True},
        "InvokeWithResponseStream",
        lambda ours: {"FunctionName": unquote(ours.url.split("/")[-2]), "Payload": BATCH.body()},
    ),
    Case(  # at a path of WebSocket APIs: botocore has no other call of an API
        ApiGatewayDestination,
        "arn:{partition}:execute-api:{region}:123456789012:a1b2c3d4e5/$default/POST/@connections/or%3Dders",
        {},
        "PostToConnection",
        lambda ours: {"ConnectionId": "or=ders", "Data": BATCH.body()},
    ),
    Case(
        LocationDestination,
        "arn:{partition}:geo:{region}:123456789012:tracker/orders.1",
        {
            "DeviceIdExpression": "[0]",
            "LatitudeExpression": "[1]",
            "LongitudeExpression": "[2]",
            "AccuracyExpression": "[3]",
            "TimestampExpression": "[4]",
            "PositionPropertyExpressions": {"Speed": "[5]"},
        },
        "BatchUpdateDevicePosition",
        lambda ours: {
            "TrackerName": "orders.1",
            "Updates": [
                {
                    "DeviceId": "b",
                    "SampleTime": 1780999200.5,
                    "Position": [8.5, 47.0],
                    "Accuracy": {"Horizontal": 2.0},
                    "PositionProperties": {"Speed": "7"},
                }
            ],
        },
        ONE,
    ),
    Case(
        IotDestination,
        "arn:{partition}:iot:{region}:123456789012:topic/orders/ünit 1",
        {"DynamicTopicSuffix": True, "TopicSuffixExpression": "[0]"},
        "Publish",
        lambda ours: {"topic": "orders/ünit 1/B=/+", "payload": b"b"},
        ONE,
    ),
    Case(
        DynamoDbDestination,
        "arn:{partition}:dynamodb:{region}:123456789012:table/orders",
        {},
        "BatchWriteItem",
        lambda ours: {"RequestItems": json.loads(ours.body)["RequestItems"]},
    ),
    Case(
        StepFunctionsDestination,
        "arn:{partition}:states:{region}:123456789012:stateMachine:orders:live",
        {},
        "StartSyncExecution",
        lambda ours: {
            "stateMachineArn": json.loads(ours.body)["stateMachineArn"],
            "input": BATCH.body().decode(),
        },
    ),
    Case(
        StepFunctionsDestination,
        "arn:{partition}:states:{region}:123456789012:stateMachine:STANDARD",
        {},
        "StartExecution",
        lambda ours: {
            "stateMachineArn": json.loads(ours.body)["stateMachineArn"],
            "input": BATCH.body().decode(),
            "name": hashlib.blake2b(BATCH.body(), digest_size=16).hexdigest(),
        },
    ),
    Case(
        S3Destination,
        "arn:{partition}:s3:::orders.example/raw+packets of ünit 1/*",
        {},
        "PutObject",
        lambda ours: {
            "Bucket": "orders.example",
            "Key": key_of(ours),
            "Body": BATCH.lines(),
            "ContentType": "application/x-ndjson",
        },
    ),
]


def published(place: int) -> dict[str, str]:
    record = RECORDS[place]
    ids = hashlib.blake2b(record, digest_size=16).hexdigest(), "198.51.100.7:40001"
    return {
        "Id": str(place),
        "Message": record.decode(),
        "MessageDeduplicationId": ids[0],
        "MessageGroupId": ids[1],
    }


def key_of(ours: Request) -> str:
    return "raw+packets of ünit 1/decoder/orders/" + ours.url.partition("/decoder/orders/")[2]


def endpoint_of_api(region: str, emulator: str | None) -> str:
    """It is the API's own: botocore has to be told."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    own = f"https://a1b2c3d4e5.execute-api.{region}.{domain}"
    return f"{emulator}/_aws/execute-api/a1b2c3d4e5" if emulator else own


def canned(request: Request) -> Answer:
    asked = json.loads(request.body) if request.body.startswith(b'{"Q') else {}
    if "QueueName" in asked:
        return Answer(200, b'{"QueueUrl":"https://queue/orders"}')
    if "response-streaming" in request.url:
        return Answer(200, frame(b"", message_type="event", event_type="InvokeComplete"))
    if request.headers.get("x-amz-target", "").endswith("DescribeTable"):
        return Answer(200, json.dumps(described_table("route", "moment")).encode())
    if request.body.startswith(b'{"stateMachineArn"'):
        kind = "STANDARD" if b"STANDARD" in request.body else "EXPRESS"
        done = {"type": kind, "status": "SUCCEEDED", "output": "{}", "executionArn": "arn"}
        return Answer(200, json.dumps(done).encode())
    if request.body.startswith(b"Action=PublishBatch"):
        return Answer(200, b"<member><Id>0</Id></member><member><Id>1</Id></member>")
    results = [{"Id": "0"}, {"Id": "1"}]
    keys = ("Successful", "Records", "RequestResponses", "Entries")
    answer = {**dict.fromkeys(keys, results), "Errors": []}
    return Answer(200, json.dumps(answer).encode())


@pytest.mark.shows("request", against="as botocore's")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("region", "partition", "endpoint", "keys"),
    [
        ("eu-west-1", "aws", None, SESSION),
        ("cn-north-1", "aws-cn", None, KEYS),
        ("us-gov-west-1", "aws-us-gov", None, SESSION),
        ("us-east-1", "aws", "http://127.0.0.1:4566", KEYS),
    ],
)
async def test_requests_are_botocores(
    case: Case,
    region: str,
    partition: str,
    endpoint: str | None,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys.token or "")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    made = record(monkeypatch, canned)
    # S3 alone: botocore would leave its body unsigned over TLS, and add a checksum. DynamoDB alone: it has a host for
    # each account, too.
    theirs = Theirs(
        region,
        endpoint_of_api(region, endpoint) if case.kind is ApiGatewayDestination else endpoint,
        request_checksum_calculation="when_required",
        s3={"payload_signing_enabled": True},
        account_id_endpoint_mode="disabled",
        inject_host_prefix=endpoint is None,
    )
    # The gateway is in another region: that of the ARN counts. S3's has none.
    home = region if case.kind is S3Destination else "ap-south-1"
    aws = Aws(home, endpoint)
    target = case.target.format(partition=partition, region=region)
    context = destination_context(tmp_path, region=home, aws=aws)
    destination = case.kind.from_spec("orders", target, case.arguments, context)
    await destination.deliver(case.batch)
    await aws.close()

    ours = made[-1]
    set_botocores_clock(monkeypatch, ours.headers["x-amz-date"])
    other = theirs.call(
        case.kind.protocol.client or case.kind.protocol.service, case.operation, case.params(ours)
    )
    if case.kind in (S3Destination, SnsDestination, ApiGatewayDestination, IotDestination):
        assert ours.body == other.body
        assert ours.headers["authorization"] == other.headers["authorization"]
    else:
        assert json.loads(ours.body) == json.loads(other.body)
    assert_same(ours, other)


async def test_an_endpoint_of_the_environment_is_that_services_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    for name in ("FIREHOSE", "DYNAMODB", "IOT_DATA_PLANE", "LOCATION", "APIGATEWAYMANAGEMENTAPI", "SFN"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", f"http://{name.lower().replace('_', '-')}.test:4567")
    made = record(monkeypatch, canned)
    aws = Aws("us-east-1")
    hosts: dict[str, list[str]] = {}
    for case in CASES:
        made.clear()
        target = case.target.format(partition="aws", region="us-east-1")
        context = destination_context(tmp_path, aws=aws)
        destination = case.kind.from_spec("orders", target, case.arguments, context)
        await destination.deliver(case.batch)
        hosts[case.operation] = [request.headers["host"] for request in made]
    await aws.close()
    assert hosts["PutRecords"] == [f"{ACCOUNT}.data-kinesis.us-east-1.amazonaws.com"]
    elsewhere = {operation: hosts[operation] for operation in hosts if ".test:4567" in str(hosts[operation])}
    assert elsewhere == {
        "PutRecordBatch": ["firehose.test:4567"],
        "PostToConnection": ["apigatewaymanagementapi.test:4567"],
        "BatchUpdateDevicePosition": ["location.test:4567"],
        "Publish": ["iot-data-plane.test:4567"],
        "BatchWriteItem": ["dynamodb.test:4567"] * 2,  # the table's keys, and the items
        "StartSyncExecution": ["sfn.test:4567"] * 2,  # the type, and the execution without a host of its own
        "StartExecution": ["sfn.test:4567"] * 2,
    }
