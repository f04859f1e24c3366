"""The gateway's own way to SQS and Logs, against servers that misbehave in the ways that networks and services do."""

import asyncio
import json

import pytest
from aws_server import EMPTY, Server, answer, failure, hang_up, refusal, say_nothing

from sluicegate import httpclient
from sluicegate.aws import Aws, access
from sluicegate.aws import queue as aws_queue

pytestmark = pytest.mark.usefixtures("aws_keys")


@pytest.fixture(autouse=True, params=["direct", "aiohttp"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clients behave alike."""
    if request.param == "aiohttp":
        monkeypatch.setattr(access, "DIRECT", frozenset())


async def test_messages_and_their_attributes(aws_server: Server) -> None:
    message = {
        "MessageId": "m-1",
        "ReceiptHandle": "AQEB",
        "Body": 'ü "quoted"',
        "Attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1795342272345"},
    }
    bare = {"MessageId": "m-2", "ReceiptHandle": "AQEC", "Body": ""}
    aws_server.answers = [answer(200, json.dumps({"Messages": [message, bare]}).encode())]
    one, two = await aws_server.queue().receive()
    assert (one.message_id, one.receipt, one.body) == ("m-1", "AQEB", 'ü "quoted"')
    assert (one.receive_count, one.sent_at) == (3, 1795342272.345)
    assert (two.body, two.receive_count, two.sent_at) == ("", 1, None)


@pytest.mark.parametrize("empty", [b"{}", EMPTY, b'{"Messages":null}'])
async def test_no_messages(aws_server: Server, empty: bytes) -> None:
    aws_server.answers = [answer(200, empty)]
    assert await aws_server.queue().receive() == []


async def test_answers_in_pieces_and_in_chunks_on_one_connection(aws_server: Server) -> None:
    async def chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in (
            b"HTTP/1.1 200 OK\r\nTransfer-Enc",
            b'oding: chunked\r\n\r\n4\r\n{"Me',
            b'\r\nb\r\nssages":[]}\r\n0\r\n\r\n',
        ):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)

    aws_server.answers = [chunks, answer(200, EMPTY)]
    queue = aws_server.queue()
    assert await queue.receive() == []
    assert await queue.receive() == []
    assert aws_server.connections == 1


async def test_a_connection_that_the_server_ends_is_not_used_again(aws_server: Server) -> None:
    aws_server.answers = [answer(200, EMPTY, "Connection: close"), answer(200, EMPTY)]
    queue = aws_server.queue()
    await queue.receive()
    await queue.receive()
    assert aws_server.connections == 2


@pytest.mark.parametrize(
    ("refused", "code", "throttled", "denied", "retryable"),
    [
        (refusal("ThrottlingException", "Rate exceeded"), "ThrottlingException", True, False, True),
        (refusal("RequestThrottled", "slow", 403), "RequestThrottled", True, False, True),
        (answer(429, b""), "BadAnswer", True, False, True),
        (answer(503, b"<html>down</html>"), "BadAnswer", False, False, True),
        (refusal("InternalFailure", "we", 500), "InternalFailure", False, False, True),
        (refusal("AccessDeniedException", "not yours", 403), "AccessDeniedException", False, True, False),
        (refusal("QueueDoesNotExist", "gone"), "QueueDoesNotExist", False, False, False),
        (answer(302, b"", "Location: http://127.0.0.1/login"), "BadAnswer", False, False, True),
    ],
)
async def test_refusals(
    aws_server: Server, refused: bytes, code: str, throttled: bool, denied: bool, retryable: bool
) -> None:
    aws_server.answers = [refused]
    queue = aws_server.queue()
    error = await failure(queue.receive())
    assert error.code == code
    assert (error.throttled, error.denied, error.retryable) == (throttled, denied, retryable)
    assert f"sqs:ReceiveMessage on {queue.url}" in str(error)
    assert len(aws_server.requests) == 1  # when to try again is for the caller to say


@pytest.mark.parametrize(
    "garbage", [b"not HTTP at all\r\n\r\n", answer(200, b"{not JSON"), answer(200, b"[1]")]
)
async def test_garbage(aws_server: Server, garbage: bytes) -> None:
    aws_server.answers = [garbage, answer(200, EMPTY)]
    queue = aws_server.queue()
    error = await failure(queue.receive())
    assert error.retryable
    assert "127.0.0.1 answers with something that is not" in str(error)
    assert await queue.receive() == []


async def test_an_answer_that_is_no_answer_of_sqs(aws_server: Server) -> None:
    queue = aws_server.queue()
    for body in (b'{"Messages":[{}]}', b'{"Messages":[null]}', b'{"Messages":7}'):
        aws_server.answers = [answer(200, body)]
        assert (await failure(queue.receive())).code == "BadAnswer"
    for body in (b"{}", b'{"Failed":[{"Id":"x"}]}', b'{"Successful":[{"Id":"0"},{"Id":"1"}]}'):
        aws_server.answers = [answer(200, body)]
        assert (await failure(queue.delete(["AQEB"]))).code == "BadAnswer"


async def test_an_answer_without_end_is_cut_off(aws_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpclient, "ANSWER_LIMIT", 1 << 20)
    aws_server.answers = [answer(200, b"x" * (2 << 20))]
    assert "more than 1 MiB" in str(await failure(aws_server.queue().receive()))


async def test_hanging_up(aws_server: Server) -> None:
    aws_server.answers = [hang_up]
    queue = aws_server.queue()
    error = await failure(queue.receive())
    assert error.code == "NoAnswer"
    assert error.retryable
    assert len(aws_server.requests) == 1

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        writer.close()

    aws_server.answers = [half]
    assert (await failure(queue.receive())).code == "NoAnswer"


async def test_a_connection_that_was_closed_meanwhile_costs_nothing(aws_server: Server) -> None:
    """Servers close idle connections whenever they like, also while the next request is on its way."""
    aws_server.answers = [answer(200, EMPTY), hang_up, answer(200, EMPTY)]
    queue = aws_server.queue()
    assert await queue.receive() == []
    assert await queue.receive() == []
    assert aws_server.connections == 2
    assert len(aws_server.requests) == 3


async def test_nobody_listens(aws_server: Server) -> None:
    queue = aws_server.queue()
    await aws_server.stop()
    error = await failure(queue.receive())
    assert error.retryable
    assert "no connection to 127.0.0.1: Connection refused" in str(error)
    nowhere = Aws("us-east-1", "http://sqs.nowhere.invalid").queue("http://sqs.nowhere.invalid/1/q")
    assert "its name is not known" in str(await failure(nowhere.receive()))


async def test_no_answer_in_time(aws_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_queue, "SECONDS", 0.2)
    aws_server.answers = [say_nothing, answer(200, EMPTY)]
    queue = aws_server.queue()
    error = await failure(queue.receive(wait_seconds=0))
    assert (error.code, error.retryable, error.status) == ("TimedOut", True, None)
    assert await queue.receive(wait_seconds=0) == []
    assert (
        aws_server.connections == 2
    )  # what the first might still bring does not count as an answer to the second


async def test_a_cancelled_poll_leaves_nothing_behind(aws_server: Server) -> None:
    came, gone = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        gone.set()

    aws_server.answers = [wait, answer(200, EMPTY)]
    queue = aws_server.queue()
    poll = asyncio.create_task(queue.receive())
    await came.wait()
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    await asyncio.wait_for(gone.wait(), 30)
    assert await queue.receive() == []


async def test_closing_ends_what_is_under_way(aws_server: Server) -> None:
    came = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()

    aws_server.answers = [wait]
    aws = Aws("us-east-1", aws_server.url)
    poll = asyncio.create_task(aws.queue(f"{aws_server.url}/1/q").receive())
    await came.wait()
    await aws.close()
    assert (await failure(poll)).code == "NoAnswer"


# Many at once


async def test_batches(aws_server: Server) -> None:
    """Ten a batch; a failure is told by the index of the caller."""

    async def some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entries = json.loads(aws_server.requests[-1][2])["Entries"]
        bad = [entry for entry in entries if entry["ReceiptHandle"] in ("r3", "r22")]
        good = [{"Id": entry["Id"]} for entry in entries if entry not in bad]
        failed = [{"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid", "SenderFault": True} for entry in bad]
        writer.write(answer(200, json.dumps({"Successful": good, "Failed": failed}).encode()))

    aws_server.answers = [some]
    found = await aws_server.queue().delete([f"r{number}" for number in range(25)])
    assert sorted(found) == [(3, "ReceiptHandleIsInvalid"), (22, "ReceiptHandleIsInvalid")]
    assert sorted(len(json.loads(body)["Entries"]) for _, _, body in aws_server.requests) == [5, 10, 10]
    assert await aws_server.queue().delete([]) == []


async def test_a_batch_that_fails_as_a_whole(aws_server: Server) -> None:
    async def first_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entries = json.loads(aws_server.requests[-1][2])["Entries"]
        if entries[0]["ReceiptHandle"] == "r0":
            done = {"Successful": [{"Id": entry["Id"]} for entry in entries]}
            writer.write(answer(200, json.dumps(done).encode()))
        else:
            writer.write(refusal("ThrottlingException", "Rate exceeded"))

    aws_server.answers = [first_only]
    receipts = [f"r{number}" for number in range(12)]
    found = await aws_server.queue().extend(receipts, 30)
    assert found == [(10, "ThrottlingException"), (11, "ThrottlingException")]
    assert (await failure(aws_server.queue().extend(receipts[1:], 30))).throttled


async def test_a_batch_to_send_stays_within_sqs_limit(aws_server: Server) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entries = json.loads(aws_server.requests[-1][2])["Entries"]
        writer.write(
            answer(200, json.dumps({"Successful": [{"Id": entry["Id"]} for entry in entries]}).encode())
        )

    aws_server.answers = [take]
    bodies = ["ü" * 200_000, "x" * 700_000, "y" * 200_000, *"abcdefghijkl"]
    assert await aws_server.queue().send(bodies) == []
    sent = [
        [entry["MessageBody"] for entry in json.loads(body)["Entries"]] for _, _, body in aws_server.requests
    ]
    assert all(sum(len(body.encode()) for body in batch) <= 1 << 20 and len(batch) <= 10 for batch in sent)
    assert sorted(body for batch in sent for body in batch) == sorted(bodies)
    assert len(sent) == 3


async def test_log_events_that_the_service_leaves_out(aws_server: Server) -> None:
    stream = Aws("us-east-1", aws_server.url).log_stream("group", "stream")
    events = [(time, f"line {time}") for time in range(10)]
    both = {"expiredLogEventEndIndex": 2, "tooNewLogEventStartIndex": 9}
    cases: list[tuple[dict[str, object], dict[int, str]]] = [
        ({}, {}),
        ({"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 3}}, dict.fromkeys(range(3), "EventTooOld")),
        ({"rejectedLogEventsInfo": both}, {0: "EventExpired", 1: "EventExpired", 9: "EventTooNew"}),
    ]
    for info, left_out in cases:
        aws_server.answers = [answer(200, json.dumps(info).encode())]
        assert await stream.put(events) == left_out
    _, headers, body = aws_server.requests[0]
    assert headers["x-amz-target"] == "Logs_20140328.PutLogEvents"
    assert json.loads(body)["logEvents"][1] == {"timestamp": 1, "message": "line 1"}
    aws_server.answers = [refusal("ResourceNotFoundException", "The specified log group does not exist.")]
    assert "logs:PutLogEvents on group:stream failed" in str(await failure(stream.put(events)))
