"""The requests that are made by hand next to botocore's own for the same call at the same moment."""

import calendar
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import botocore.auth  # type: ignore[import-untyped]
import pytest
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from botocore_requests import KEYS, SESSION, Request, Theirs, assert_same, record, set_botocores_clock
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.aws import Aws
from sluicegate.aws.credentials import Keys
from sluicegate.aws.metrics import Datum, MetricStore
from sluicegate.aws.signing import CLOUDWATCH, LOGS, SQS, Protocol, Signer
from sluicegate.httpclient import Answer

QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/replies"


@dataclass
class Call:
    """One operation: by hand, what answers it, and its parameters for botocore."""

    name: str
    protocol: Protocol
    by_hand: Callable[[Aws], Awaitable[object]]
    answer: bytes
    params: dict[str, Any]


DONE = b'{"Successful":[{"Id":"0"},{"Id":"1"}],"Failed":[]}'
CALLS = [
    Call(
        "ReceiveMessage",
        SQS,
        lambda aws: aws.queue(QUEUE).receive(limit=7, wait_seconds=20, visibility_seconds=90),
        b'{"Messages":[]}',
        {
            "QueueUrl": QUEUE,
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
            "MaxNumberOfMessages": 7,
            "WaitTimeSeconds": 20,
            "VisibilityTimeout": 90,
        },
    ),
    Call(
        "DeleteMessageBatch",
        SQS,
        lambda aws: aws.queue(QUEUE).delete(["AQEB+/=", "AQEBü"]),
        DONE,
        {
            "QueueUrl": QUEUE,
            "Entries": [{"Id": "0", "ReceiptHandle": "AQEB+/="}, {"Id": "1", "ReceiptHandle": "AQEBü"}],
        },
    ),
    Call(
        "ChangeMessageVisibilityBatch",
        SQS,
        lambda aws: aws.queue(QUEUE).extend(["one", "two"], 120),
        DONE,
        {
            "QueueUrl": QUEUE,
            "Entries": [
                {"Id": "0", "ReceiptHandle": "one", "VisibilityTimeout": 120},
                {"Id": "1", "ReceiptHandle": "two", "VisibilityTimeout": 120},
            ],
        },
    ),
    Call(
        "SendMessageBatch",
        SQS,
        lambda aws: aws.queue(QUEUE).send(["plain", '{"Ä": "\U0001f600\\n"}']),
        DONE,
        {
            "QueueUrl": QUEUE,
            "Entries": [
                {"Id": "0", "MessageBody": "plain"},
                {"Id": "1", "MessageBody": '{"Ä": "\U0001f600\\n"}'},
            ],
        },
    ),
    Call(
        "PutLogEvents",
        LOGS,
        lambda aws: aws.log_stream("/sluicegate/decoder", "2026/11/22").put([(1, "one"), (2, "zwei ü")]),
        b"{}",
        {
            "logGroupName": "/sluicegate/decoder",
            "logStreamName": "2026/11/22",
            "logEvents": [{"timestamp": 1, "message": "one"}, {"timestamp": 2, "message": "zwei ü"}],
        },
    ),
    Call(
        "PutMetricData",
        CLOUDWATCH,
        lambda aws: MetricStore(aws.service(CLOUDWATCH), "Sluicegate").put(
            [
                Datum(
                    "BytesIn",
                    (("Listener", "a"), ("Destination", "b")),
                    1_780_999_200,
                    "Bytes",
                    2,
                    70,
                    30,
                    40,
                )
            ]
        ),
        b"",
        {
            "Namespace": "Sluicegate",
            "MetricData": [
                {
                    "MetricName": "BytesIn",
                    "Dimensions": [{"Name": "Listener", "Value": "a"}, {"Name": "Destination", "Value": "b"}],
                    "Timestamp": datetime.fromtimestamp(1_780_999_200, UTC),
                    "StatisticValues": {"SampleCount": 2, "Sum": 70, "Minimum": 30, "Maximum": 40},
                    "Unit": "Bytes",
                }
            ],
        },
    ),
]


def canned(request: Request) -> Answer:
    name = request.headers["x-amz-target"].partition(".")[2]
    return Answer(200, next(call.answer for call in CALLS if call.name == name))


@pytest.mark.parametrize(
    ("region", "endpoint", "keys"),
    [
        ("us-east-1", None, KEYS),
        ("us-east-1", None, SESSION),
        ("cn-north-1", None, KEYS),
        ("us-gov-west-1", None, SESSION),
        ("us-east-1", "http://127.0.0.1:4566", KEYS),
        ("eu-west-1", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com", SESSION),
        ("us-east-1", "http://[::1]:80/prefix/a b/", KEYS),
    ],
)
async def test_requests_are_botocores(
    region: str, endpoint: str | None, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys.token or "")
    made, theirs = record(monkeypatch, canned), Theirs(region, endpoint)
    aws = Aws(region, endpoint)
    for call in CALLS:
        await call.by_hand(aws)
        ours = made.pop()
        set_botocores_clock(monkeypatch, ours.headers["x-amz-date"])
        other = theirs.call(call.protocol.service, call.name, call.params)

        assert_same(ours, other)
        assert json.loads(ours.body) == json.loads(other.body)
        # The bodies are spelled differently, and so the signatures differ: sign botocore's.
        moment = calendar.timegm(time.strptime(ours.headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))
        path = urlsplit(ours.url).path or "/"
        fields = call.protocol.fields(call.name)
        again = Signer(ours.url, region, call.protocol).sign("POST", path, fields, other.body, keys, moment)
        assert again["authorization"] == other.headers["authorization"]
    await aws.close()


@given(
    bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    moments=st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=4),
    keys=st.lists(
        st.sampled_from([KEYS, SESSION, KEYS._replace(secret_key="other")]), min_size=1, max_size=4
    ),
)
def test_one_signer_signs_as_botocore_from_day_to_day(
    bodies: list[bytes], moments: list[int], keys: list[Keys]
) -> None:
    signer = Signer("https://sqs.eu-west-1.amazonaws.com", "eu-west-1", SQS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for number in range(8):
            body, moment = bodies[number % len(bodies)], moments[number % len(moments)]
            one = keys[number % len(keys)]
            headers = signer.sign("POST", "/", SQS.fields("ReceiveMessage"), body, one, moment + 0.7)
            set_botocores_clock(monkeypatch, headers["x-amz-date"])
            assert headers["x-amz-date"] == datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")
            request = AWSRequest(
                "POST",
                "https://sqs.eu-west-1.amazonaws.com/",
                {
                    name: value
                    for name, value in headers.items()
                    if name.startswith(("content", "x-amzn", "x-amz-t"))
                },
                body,
            )
            signing = botocore.auth.SigV4Auth(Credentials(*one), "sqs", "eu-west-1")
            signing.add_auth(request)
            assert headers["authorization"] == request.headers["Authorization"]


def test_keys_do_not_show() -> None:
    shown = f"{SESSION} {SESSION!r}"
    assert SESSION.secret_key not in shown
    assert str(SESSION.token) not in shown
