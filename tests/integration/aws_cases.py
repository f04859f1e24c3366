"""The Destinations for AWS: for each what its service answers, and what of a request is packets."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import orjson
from aws_server import ACCOUNT, answer

from doubles import described_table
from sluicegate.destinations import (
    apigateway,
    awslambda,
    cloudwatchlogs,
    dynamodb,
    eventbridge,
    firehose,
    iot,
    kinesis,
    location,
    s3,
    sns,
    sqs,
    stepfunctions,
)
from sluicegate.destinations.base import Destination, PacketBatch
from sluicegate.testing import packet_batch

Answer = Callable[[dict[str, str], bytes], bytes]
"""The answer to a request with these headers and this body."""


@dataclass
class Case:
    """A Destination, the answers of its service, and what of a request is packets."""

    module: ModuleType
    kind: type[Destination]
    target: str
    accepts: Answer
    refuses_odd: Answer | None = None
    """Takes the first, third, fifth … of a request; it throttles the second and refuses all others."""
    packets: Callable[[bytes], list[bytes]] = field(default=lambda body: body.splitlines())
    most: int = 1_000_000
    """Packets in a request."""
    size: int = 0
    """Bytes in a request; 0 for any."""
    arguments: dict[str, object] = field(default_factory=dict)
    refused: dict[int, bool] = field(default_factory=lambda: {1: True, 3: False})
    """Those of four that `refuses_odd` names, and whether each may be tried again."""

    def batch(self, *packets: str | dict[str, Any]) -> PacketBatch:
        """Of these packets. Trackers get the position of a device that is called as the packet's bytes, in hex."""
        data = [one if isinstance(one, str) else str(one["Data"]) for one in packets]
        values = {location.DEVICE: [one.encode().hex() for one in data]}
        there = dict.fromkeys((location.LATITUDE, location.LONGITUDE), ["1"] * len(packets))
        return packet_batch(*packets, values=values | there)

    def __str__(self) -> str:
        return self.module.__name__.rpartition(".")[2]


def accept_messages(headers: dict[str, str], body: bytes) -> bytes:
    return messages(headers, body, lambda place: None)


def refuse_messages(headers: dict[str, str], body: bytes) -> bytes:
    def failure(place: int) -> dict[str, object] | None:
        code = "RequestThrottled" if place == 1 else "InvalidParameterValue"
        return {"Id": str(place), "SenderFault": place != 1, "Code": code} if place % 2 else None

    return messages(headers, body, failure)


def messages(
    headers: dict[str, str], body: bytes, failure: Callable[[int], dict[str, object] | None]
) -> bytes:
    asked = json.loads(body)
    if headers["x-amz-target"].endswith("GetQueueUrl"):
        assert asked["QueueName"].partition(".")[0] == "orders"
        assert asked["QueueOwnerAWSAccountId"] == ACCOUNT
        return answer(200, b'{"QueueUrl":"https://queue"}')
    failed = [one for place in range(len(asked["Entries"])) if (one := failure(place))]
    done = [{"Id": entry["Id"]} for entry in asked["Entries"]]
    done = [one for one in done if one["Id"] not in [each["Id"] for each in failed]]
    return answer(200, json.dumps({"Successful": done, "Failed": failed}).encode())


def publish(*codes: str) -> Answer:
    """SNS: a form with messages, and XML with a result for each."""

    def respond(headers: dict[str, str], body: bytes) -> bytes:
        assert headers["content-type"] == "application/x-www-form-urlencoded; charset=utf-8"
        told: dict[bool, list[str]] = {False: [], True: []}
        for place, _ in enumerate(published(body)):
            failed = bool(codes) and place % 2 == 1
            why = f"<Code>{codes[place == 1]}</Code><Message>a &lt; b</Message>" if failed else ""
            fault = f"<SenderFault>{'false' if place == 1 else 'true'}</SenderFault>" if failed else ""
            told[failed].append(f"<member><Id>{place}</Id>{why}{fault}</member>")
        xml = f"<Successful>{''.join(told[False])}</Successful>\n<Failed>{''.join(told[True])}</Failed>"
        return answer(
            200,
            f"<PublishBatchResponse><PublishBatchResult>{xml}</PublishBatchResult></PublishBatchResponse>".encode(),
            "Content-Type: text/xml",
        )

    return respond


def published(body: bytes) -> list[bytes]:
    return [one.encode() for name, one in parse_qsl(body.decode()) if name.endswith(".Message")]


def execute(headers: dict[str, str], body: bytes) -> bytes:
    if headers["x-amz-target"] == "AWSStepFunctions.DescribeStateMachine":
        return answer(200, b'{"type":"EXPRESS"}')
    return answer(200, b'{"status":"SUCCEEDED","output":"{}"}')


def input_of(body: bytes) -> Any:
    """The input of an execution; there is none where the type was asked for."""
    return json.loads(json.loads(body).get("input", '{"Messages":[]}'))


def records(key: str, *codes: str) -> Answer:
    """Kinesis, Firehose and EventBridge: one result for each record."""

    def respond(headers: dict[str, str], body: bytes) -> bytes:
        results: list[dict[str, str]] = []
        asked = json.loads(body)
        for place, _ in enumerate(asked.get("Records") or asked["Entries"]):
            code = codes[place == 1] if codes and place % 2 else None
            results.append({"ErrorCode": code, "ErrorMessage": "no"} if code else {"RecordId": "1"})
        return answer(200, json.dumps({key: results}).encode())

    return respond


def accept_items(headers: dict[str, str], body: bytes) -> bytes:
    return items(headers, body, {})


def leave_items(headers: dict[str, str], body: bytes) -> bytes:
    """Without the second, fourth, sixth … of them."""
    written = json.loads(body).get("RequestItems", {})
    return items(headers, body, {table: requests[1::2] for table, requests in written.items()})


def items(headers: dict[str, str], body: bytes, left: object) -> bytes:
    if headers["x-amz-target"].endswith("DescribeTable"):
        return answer(200, json.dumps(described_table("route", "moment")).encode())
    return answer(200, json.dumps({"UnprocessedItems": left}).encode())


def packets_of_items(body: bytes) -> list[bytes]:
    written = json.loads(body).get("RequestItems", {})
    put = [one["PutRequest"]["Item"] for requests in written.values() for one in requests]
    return [json.dumps({"Data": item["Data"]["S"]}).encode() for item in put]


def positions(*codes: str) -> Answer:
    def respond(headers: dict[str, str], body: bytes) -> bytes:
        errors = [
            {**one, "Error": {"Code": codes[place == 1], "Message": "no"}}
            for place, one in enumerate(json.loads(body)["Updates"])
            if codes and place % 2
        ]
        return answer(200, json.dumps({"Errors": errors}).encode())

    return respond


def packets_of_positions(body: bytes) -> list[bytes]:
    called = [bytes.fromhex(one["DeviceId"]).decode() for one in json.loads(body)["Updates"]]
    return [json.dumps({"Data": one}).encode() for one in called]


CASES = [
    Case(
        sqs,
        sqs.SqsDestination,
        f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders",
        accept_messages,
        refuse_messages,
        lambda body: [one["MessageBody"].encode() for one in json.loads(body).get("Entries", [])],
        10,
        1 << 20,
    ),
    Case(
        sns,
        sns.SnsDestination,
        f"arn:aws:sns:us-east-1:{ACCOUNT}:orders",
        publish(),
        publish("InvalidParameter", "InternalError"),
        published,
        10,
        256 << 10,
    ),
    Case(
        kinesis,
        kinesis.KinesisDestination,
        f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/orders",
        records("Records"),
        records("Records", "InvalidArgumentException", "ProvisionedThroughputExceededException"),
        lambda body: [base64.b64decode(one["Data"]) for one in json.loads(body)["Records"]],
        500,
        5 << 20,
    ),
    Case(
        firehose,
        firehose.FirehoseDestination,
        f"arn:aws:firehose:us-east-1:{ACCOUNT}:deliverystream/orders",
        records("RequestResponses"),
        records("RequestResponses", "InvalidArgumentException", "ServiceUnavailableException"),
        lambda body: [base64.b64decode(one["Data"]) for one in json.loads(body)["Records"]],
        500,
        4 << 20,
    ),
    Case(
        dynamodb,
        dynamodb.DynamoDbDestination,
        f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/orders",
        accept_items,
        leave_items,
        packets_of_items,
        25,
        16 << 20,
        refused={1: True, 3: True},
    ),
    Case(
        awslambda,
        awslambda.LambdaDestination,
        f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:orders:live",
        lambda headers, body: answer(200, b'{"Replies":[]}'),
        None,
        lambda body: [json.dumps(one).encode() for one in json.loads(body)["Messages"]],
        size=6 << 20,
    ),
    Case(
        apigateway,
        apigateway.ApiGatewayDestination,
        f"arn:aws:execute-api:us-east-1:{ACCOUNT}:a1b2c3d4e5/live/POST/orders",
        lambda headers, body: answer(200, b'{"Replies":[]}'),
        None,
        lambda body: [json.dumps(one).encode() for one in json.loads(body)["Messages"]],
    ),
    Case(
        iot,
        iot.IotDestination,
        f"arn:aws:iot:us-east-1:{ACCOUNT}:topic/orders",
        lambda headers, body: answer(200, b""),
        most=1,
        size=128 << 10,
    ),
    Case(
        location,
        location.LocationDestination,
        f"arn:aws:geo:us-east-1:{ACCOUNT}:tracker/orders",
        positions(),
        positions("ValidationError", "ThrottlingError"),
        packets_of_positions,
        most=10,
        arguments={location.DEVICE: "[:]", location.LATITUDE: "u8[0]", location.LONGITUDE: "u8[0]"},
    ),
    Case(
        cloudwatchlogs,
        cloudwatchlogs.CloudWatchLogsDestination,
        f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:orders:*",
        lambda headers, body: answer(200, b"{}"),
        None,
        lambda body: [orjson.dumps({"Data": one["message"]}) for one in json.loads(body)["logEvents"]],
        size=1 << 20,
    ),
    Case(
        eventbridge,
        eventbridge.EventBridgeDestination,
        f"arn:aws:events:us-east-1:{ACCOUNT}:event-bus/orders",
        records("Entries"),
        records("Entries", "MalformedDetail", "InternalException"),
        lambda body: [one["Detail"].encode() for one in json.loads(body)["Entries"]],
        10,
        1 << 20,
    ),
    Case(
        stepfunctions,
        stepfunctions.StepFunctionsDestination,
        f"arn:aws:states:us-east-1:{ACCOUNT}:stateMachine:orders",
        execute,
        None,
        lambda body: [orjson.dumps(one) for one in input_of(body)["Messages"]],
        size=256 << 10,
    ),
    Case(s3, s3.S3Destination, "arn:aws:s3:::orders/raw*", lambda headers, body: answer(200, b"")),
]
