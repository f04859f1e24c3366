"""The Destinations for AWS: for each what its service answers, and what of a request is packets."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

from aws_server import ACCOUNT, answer

from sluicegate.destinations import awslambda, firehose, kinesis, s3, sqs
from sluicegate.destinations.base import Destination

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


def records(key: str, *codes: str) -> Answer:
    """Kinesis and Firehose: one result for each record."""

    def respond(headers: dict[str, str], body: bytes) -> bytes:
        results: list[dict[str, str]] = []
        for place, _ in enumerate(json.loads(body)["Records"]):
            code = codes[place == 1] if codes and place % 2 else None
            results.append({"ErrorCode": code, "ErrorMessage": "no"} if code else {"RecordId": "1"})
        return answer(200, json.dumps({key: results}).encode())

    return respond


CASES = [
    Case(
        sqs,
        sqs.SqsDestination,
        f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders",
        accept_messages,
        refuse_messages,
        lambda body: [one["MessageBody"].encode() for one in json.loads(body).get("Entries", [])],
        10,
    ),
    Case(
        kinesis,
        kinesis.KinesisDestination,
        f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/orders",
        records("Records"),
        records("Records", "InvalidArgumentException", "ProvisionedThroughputExceededException"),
        lambda body: [base64.b64decode(one["Data"]) for one in json.loads(body)["Records"]],
        500,
    ),
    Case(
        firehose,
        firehose.FirehoseDestination,
        f"arn:aws:firehose:us-east-1:{ACCOUNT}:deliverystream/orders",
        records("RequestResponses"),
        records("RequestResponses", "InvalidArgumentException", "ServiceUnavailableException"),
        lambda body: [base64.b64decode(one["Data"]) for one in json.loads(body)["Records"]],
        500,
    ),
    Case(
        awslambda,
        awslambda.LambdaDestination,
        f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:orders:live",
        lambda headers, body: answer(200, b'{"Replies":[]}'),
        None,
        lambda body: [json.dumps(one).encode() for one in json.loads(body)["Messages"]],
    ),
    Case(s3, s3.S3Destination, "arn:aws:s3:::orders/raw*", lambda headers, body: answer(200, b"")),
]
