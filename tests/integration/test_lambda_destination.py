"""`arn:aws:lambda:…` against an independent implementation of Lambda, which runs the function on this machine."""

import io
import json
import socket
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aws_destinations import AwsContract, Scripted, data_of
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import Server, answer, refusal
from harness import HANG_SECONDS, Client, Gateway, until
from ministack import ACCOUNT, ENVIRONMENT, Ministack, unique

from eventstream import frame
from sluicegate.destinations.awslambda import LambdaDestination
from sluicegate.destinations.base import DeliveryError, Destination, early_answers
from sluicegate.testing import packet_batch

HANDLER = """
import json, os
FOLDER = os.environ["FOLDER"]
def handler(event, context):
    if os.path.exists(f"{FOLDER}/refuse"):
        raise ValueError("no")
    with open(f"{FOLDER}/seen.ndjson", "a") as out:
        for message in event["Messages"]:
            out.write(json.dumps(message) + "\\n")
    return {"Replies": [{"Tag": m["Tag"], "Data": m["Data"]} for m in event["Messages"]]}
"""


def make_function(ministack: Ministack, folder: Path, handler: str = HANDLER, *, name: str = "") -> str:
    """The ARN of a function whose code notes packets in `folder`, and answers each."""
    code, name = io.BytesIO(), name or unique("function")
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("code.py", handler)
    made = ministack.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.11",
        Handler="code.handler",
        Role=f"arn:aws:iam::{ACCOUNT}:role/function",
        Code={"ZipFile": code.getvalue()},
        Environment={"Variables": {"FOLDER": str(folder)}},
    )
    arn: str = made["FunctionArn"]
    return arn


class TestLambda(AwsContract):
    kind = LambdaDestination
    arguments = {"UseAsyncInvoke": False}
    bad_targets = (
        "arn:aws:lambda:us-east-1:123456789012:decoder",
        "arn:aws:lambda:us-east-1:123456789012:function:two words",
        "arn:aws:lambda:us-east-1:123456789012:function:name:alias:more",
    )
    bad_arguments = (
        {"UseAsyncInvoke": 7},
        {"UseAsyncInvoke": True, "UseResponseStreaming": "true"},
        {"TenantId": "a,b"},
        {"TenantIdExpression": "[0:"},
        {"TenantIdFormatter": "coap"},
    )

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.folder = tmp_path_factory.mktemp("function")

    @pytest.fixture(autouse=True)
    def _made(self, _folder: None, ministack: Ministack) -> None:
        self.ministack = ministack
        self.target = make_function(ministack, self.folder)

    def delivered(self, destination: Destination) -> Sequence[str]:
        lines = (self.folder / "seen.ndjson").read_text().splitlines()
        return data_of(lines)

    def refuse(self, destination: Destination) -> None:
        (self.folder / "refuse").touch()


FUNCTION = f"arn:aws:lambda:us-east-1:{SERVED}:function:decoder"


def told(status: int, body: bytes, *fields: str) -> bytes:
    return answer(status, body, "Content-Type: application/json", *fields)


@pytest.mark.shows("replies", service="lambda")
async def test_what_a_function_says_is_the_answer(scripted: Scripted) -> None:
    """As it came, and an alias or a version is a part of the ARN."""
    scripted.server.answers = [told(200, b' {"Replies": null}')]
    for target in (FUNCTION, f"{FUNCTION}:live", f"{FUNCTION}:7", f"{FUNCTION}:$LATEST"):
        async with scripted.destination(LambdaDestination, target) as made:
            assert await made.deliver(packet_batch("a")) == b' {"Replies": null}'
            line = scripted.server.requests[-1][0]
            assert line == f"POST /2015-03-31/functions/{quote(target, safe='')}/invocations HTTP/1.1"


@pytest.mark.parametrize(
    ("refused", "reason", "retryable", "detail"),
    [
        (
            told(
                200,
                b'{"errorMessage":"no\\nway","errorType":"ValueError"}',
                "X-Amz-Function-Error: Unhandled",
            ),
            "FunctionError",
            False,
            "the function failed with ValueError: no way",
        ),
        (
            told(200, b'{"errorType":"Sandbox.Timedout"}', "X-Amz-Function-Error: Unhandled"),
            "FunctionTimeout",
            False,
            "the function failed with Sandbox.Timedout",
        ),
        (
            told(200, b"[]", "X-Amz-Function-Error: Handled"),
            "FunctionError",
            False,
            "the function failed with an error",
        ),
        (
            told(
                429,
                b'{"Message":"Rate Exceeded.","Type":"User"}',
                "x-amzn-ErrorType: TooManyRequestsException",
            ),
            "Throttled",
            True,
            f"lambda:InvokeFunction on {FUNCTION} was throttled by AWS: Rate Exceeded. (TooManyRequestsException)",
        ),
        (
            told(
                502, b'{"Message":"starting","Type":"User"}', "x-amzn-ErrorType: EC2ThrottledException:http"
            ),
            "EC2ThrottledException",
            True,
            f"lambda:InvokeFunction on {FUNCTION} failed: starting (EC2ThrottledException)",
        ),
        (
            told(
                404,
                b'{"Message":"Function not found","Type":"User"}',
                "x-amzn-ErrorType: ResourceNotFoundException",
            ),
            "ResourceNotFoundException",
            False,
            f"lambda:InvokeFunction on {FUNCTION} failed: Function not found (ResourceNotFoundException)",
        ),
    ],
    ids=["raised", "timed-out", "failed", "throttled", "starting", "missing"],
)
async def test_a_function_that_fails(
    refused: bytes, reason: str, retryable: bool, detail: str, scripted: Scripted
) -> None:
    scripted.server.answers = [refused]
    async with scripted.destination(LambdaDestination, FUNCTION) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a", "b"))
    assert (raised.value.reason, raised.value.retryable, raised.value.detail) == (reason, retryable, detail)
    assert raised.value.packets is None


async def test_lambda_keeps_the_batch_with_use_async_invoke(scripted: Scripted) -> None:
    scripted.server.answers = [answer(202, b"")]
    async with scripted.destination(LambdaDestination, FUNCTION, UseAsyncInvoke="true") as made:
        assert not await made.deliver(packet_batch("a"))
        assert made.batch_bytes_limit == 1 << 20
        await made.deliver(packet_batch("b" * 300_000, "c" * 300_000))  # more than 1 MiB: two invocations
    invoked = [headers["x-amz-invocation-type"] for _, headers, _ in scripted.server.requests]
    assert invoked == ["Event"] * 3


async def test_a_tenant_is_in_the_request(scripted: Scripted) -> None:
    scripted.server.answers = [answer(200, b"null")]
    async with scripted.destination(LambdaDestination, FUNCTION, TenantId="acme one") as made:
        assert await made.deliver(packet_batch("a", "b")) == b"null"
    ((_, headers, body),) = scripted.server.requests
    assert headers["x-amz-tenant-id"] == "acme one"
    assert "x-amz-tenant-id" in headers["authorization"]
    assert len(json.loads(body)["Messages"]) == 2


class Answers:
    """`EarlyAnswers` that keeps them."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    async def send(self, body: bytes, /) -> None:
        self.found.extend([json.loads(body)] if body not in (b"", b"null") else [])

    def malformed(self, detail: str, /) -> None:
        raise AssertionError(detail)


@pytest.fixture
def replies() -> list[Any]:
    """What is handed on before a delivery ends."""
    answers = Answers()
    early_answers.set(answers)
    return answers.found


def tenants(server: Server) -> dict[str, list[str]]:
    """`Data` of the packets that each tenant's invocations have."""
    return {
        headers["x-amz-tenant-id"]: [one["Data"] for one in json.loads(body)["Messages"]]
        for _, headers, body in server.requests
    }


@pytest.mark.shows("partial failure", service="lambda")
async def test_a_batch_is_split_by_tenant(scripted: Scripted, replies: list[Any]) -> None:
    """Each tenant's answer is sent, also where another tenant's invocation fails."""

    def respond(headers: dict[str, str], body: bytes) -> bytes:
        match headers["x-amz-tenant-id"]:
            case "A1":
                replies = [{"Tag": one["Tag"], "Data": one["Data"]} for one in json.loads(body)["Messages"]]
                return answer(200, json.dumps({"Replies": replies}).encode())
            case "B2":
                return answer(200, b"null")
        return refusal("ThrottlingException", "Rate exceeded")

    scripted.server.answers = [scripted.peer(respond)]
    expression = {"TenantIdExpression": "[0]", "TenantIdFormatter": "ascii"}
    batch = packet_batch(*"abcdef", values={"TenantIdExpression": ["A1", "B2", "A1", None, "x,y", "B2"]})
    async with scripted.destination(LambdaDestination, FUNCTION, **expression) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(batch)
        assert raised.value.packets is not None
        assert {index: one.reason for index, one in raised.value.packets.items()} == {
            3: "BadTenantId",
            4: "BadTenantId",
        }
    assert [[one["Data"] for one in answer["Replies"]] for answer in replies] == [["a", "c"]]
    assert tenants(scripted.server) == {"A1": ["a", "c"], "B2": ["b", "f"]}
    scripted.server.requests.clear()
    async with scripted.destination(LambdaDestination, FUNCTION, TenantId="C3", **expression) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(batch)
        assert raised.value.packets is not None
        assert {index: one.reason for index, one in raised.value.packets.items()} == {
            3: "Throttled",
            4: "BadTenantId",
        }


# Streamed


def chunk(payload: bytes) -> bytes:
    return frame(payload, message_type="event", event_type="PayloadChunk")


def reply(tag: str) -> bytes:
    return json.dumps({"Tag": tag, "Data": "x"}).encode()


COMPLETE = frame(b"{}", message_type="event", event_type="InvokeComplete")
ONE, TWO = chunk(reply("a") + b"\n" + reply("b")[:9]), chunk(reply("b")[9:] + b'{"Replies":[]}')
ALTERED = chunk(reply("c")).replace(b"Data", b"data")
BROKEN = "the function's answer broke off: "


async def test_replies_of_a_stream(scripted: Scripted, replies: list[Any]) -> None:
    whole = ONE + TWO + COMPLETE
    scripted.server.answers = [answer(200, whole, "Content-Type: application/vnd.amazon.eventstream")]
    async with scripted.destination(LambdaDestination, FUNCTION, UseResponseStreaming=True) as made:
        assert await made.deliver(packet_batch("a")) is None
    assert [one["Tag"] for answer in replies for one in answer["Replies"]] == ["a", "b"]
    line, _, _ = scripted.server.requests[-1]
    assert line.split()[1].startswith("/2021-11-15/functions/arn%3Aaws%3Alambda")
    assert line.split()[1].endswith("/response-streaming-invocations")


@pytest.mark.parametrize(
    ("end", "reason", "detail"),
    [
        (b"", "StreamBroken", BROKEN + "its last message is missing"),
        (COMPLETE[:-1], "StreamBroken", BROKEN + "its last message is missing"),
        (ALTERED + COMPLETE, "StreamBroken", BROKEN + "Checksum mismatch"),
        (b"this is no frame at all", "StreamBroken", BROKEN + "Checksum mismatch"),
        (
            frame(b"{}", message_type="exception", exception_type="TooManyRequestsException") + COMPLETE,
            "StreamBroken",
            BROKEN + "TooManyRequestsException",
        ),
        (
            frame(b"", message_type="error", error_code="InternalError") + COMPLETE,
            "StreamBroken",
            BROKEN + "InternalError",
        ),
        (
            frame(
                b'{"ErrorCode":"Unhandled","ErrorDetails":"no\\nway"}',
                message_type="event",
                event_type="InvokeComplete",
            ),
            "FunctionError",
            "the function failed with Unhandled: no way",
        ),
    ],
    ids=["no-end", "cut", "altered", "garbage", "exception", "error", "failed"],
)
async def test_a_stream_that_fails_ends_its_batch_alone(
    end: bytes, reason: str, detail: str, scripted: Scripted, replies: list[Any]
) -> None:
    """The replies before it are sent, and no packet is tried again: the function has begun."""
    scripted.server.answers = [answer(200, ONE + end), answer(200, TWO[:5] + TWO[5:] + COMPLETE)]
    async with scripted.destination(LambdaDestination, FUNCTION, UseResponseStreaming=True) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a", "b"))
        assert (raised.value.reason, raised.value.retryable) == (reason, False)
        assert raised.value.detail.startswith(detail)
        assert [one["Tag"] for answer in replies for one in answer["Replies"]] == ["a"]
        scripted.server.answers = [answer(200, ONE + TWO + COMPLETE)]
        await made.deliver(packet_batch("c"))


async def test_a_stream_that_does_not_begin_is_tried_again(scripted: Scripted) -> None:
    scripted.server.answers = [refusal("TooManyRequestsException", "Rate Exceeded.", 429)]
    async with scripted.destination(LambdaDestination, FUNCTION, UseResponseStreaming=True) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a"))
    assert (raised.value.reason, raised.value.retryable) == ("Throttled", True)


STREAMING = f"""
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - name: stream
        destination_arn: {FUNCTION}
        formatter: utf8
        batching: {{ count: 1 }}
        arguments: {{ UseResponseStreaming: true }}
"""


@pytest.mark.shows("replies", service="lambda", against="scripted")
def test_a_client_sees_each_reply_before_the_next_one_is_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service, Client() as client:
        service.settimeout(HANG_SECONDS)
        url = f"http://127.0.0.1:{service.getsockname()[1]}"
        gateway = Gateway(tmp_path, STREAMING, aws=url, environment=ENVIRONMENT)
        try:
            gateway.start()
            client.send(b"go", gateway.address())
            connection, _ = service.accept()
            with connection, connection.makefile("rb") as request:
                length = 0
                while line := request.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split()[1])
                tag = json.loads(request.read(length))["Messages"][0]["Tag"]
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for number in range(5):
                    written = chunk(json.dumps({"Tag": tag, "Data": f"{number}"}).encode())
                    connection.sendall(b"%x\r\n%b\r\n" % (len(written), written))
                    assert client.receive() == (f"{number}".encode(), gateway.address())
                connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(COMPLETE), COMPLETE))
            until(
                lambda: gateway.metrics().value("delivery_batches", destination="stream"),
                "the batch counts as delivered",
            )
        finally:
            gateway.close()
