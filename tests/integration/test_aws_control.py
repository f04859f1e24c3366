"""Any operation, through botocore: few attempts, and errors that say what happened."""

import asyncio
import sys

import pytest
from aws_server import Server, answer, failure, hang_up, refusal, say_nothing

from sluicegate.aws import Aws
from sluicegate.aws import client as aws_client

pytestmark = pytest.mark.usefixtures("aws_keys")


async def test_another_attempt_mends_what_is_transient(aws_server: Server) -> None:
    created = answer(200, b'{"QueueUrl":"http://q"}')
    aws_server.answers = [refusal("ThrottlingException", "Rate exceeded"), answer(503, b"<html>"), created]
    aws = Aws("us-east-1", aws_server.url)
    assert (await aws.call("sqs", "CreateQueue", {"QueueName": "q"}))["QueueUrl"] == "http://q"
    aws_server.requests.clear()
    aws_server.answers = [refusal("AccessDenied", "not yours", 403)]
    error = await failure(aws.call("sqs", "CreateQueue", {"QueueName": "q"}))
    assert error.denied
    assert len(aws_server.requests) == 1
    aws_server.answers = [refusal("Throttling", "Rate exceeded")]
    assert (await failure(aws.call("sqs", "CreateQueue", {"QueueName": "q"}))).throttled
    assert len(aws_server.requests) == 4
    await aws.close()


async def test_any_operation_without_an_answer(aws_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_client, "ATTEMPTS", 1)
    topic = "arn:aws:sns:us-east-1:123456789012:replies"
    aws = Aws("us-east-1", aws_server.url)
    for bad, code in (
        (hang_up, "NoAnswer"),
        (b"not HTTP at all\r\n\r\n", "NoAnswer"),
        (answer(200, b"<unfinished", "Content-Type: text/xml"), "BadAnswer"),
        (answer(404, b"<html>nothing here</html>"), "BadAnswer"),
    ):
        aws_server.answers = [bad]
        error = await failure(aws.call("sns", "ListSubscriptionsByTopic", {"TopicArn": topic}))
        assert (error.code, error.retryable) == (code, True)
        assert f"sns:ListSubscriptionsByTopic on {topic}" in str(error)
    monkeypatch.setattr(aws_client, "CALL_SECONDS", 0.3)
    aws_server.answers = [say_nothing]
    assert (await failure(aws.call("sns", "ListTopics"))).code == "TimedOut"
    await aws_server.stop()
    assert "no connection to 127.0.0.1" in str(await failure(aws.call("sns", "ListTopics")))
    await aws.close()


async def test_a_call_that_cannot_be_made(aws_server: Server) -> None:
    error = await failure(Aws("us-east-1", aws_server.url).call("sqs", "CreateQueue", {"QueueName": 7}))
    assert error.code == "NotSent"
    assert not error.retryable
    assert "Invalid type for parameter QueueName" in str(error)


async def test_nothing_is_loaded_before_the_first_call() -> None:
    program = "import sys; from sluicegate.aws import Aws; Aws('us-east-1'); print('botocore' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"False\n"
