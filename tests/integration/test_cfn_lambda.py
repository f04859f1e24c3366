"""The provider as Lambda runs it: an answer in time, whatever the gateway does."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import free_port
from stack_answers import Bucket
from stack_answers import bucket as bucket

from sluicegate.cfn import provider


class Context:
    """Lambda's."""

    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:provider"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


@pytest.fixture(autouse=True)
def environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEGATE_RESPONSE_HOSTS", bucket.host)
    monkeypatch.setattr(provider, "TRY_SECONDS", 0.3)
    monkeypatch.setattr(provider, "API_SECONDS", 0.5)


Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A gateway that does with every connection what a test says: its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(act: Callable[[socket.socket], None]) -> str:
        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                open_ones.append(connection)
                connection.recv(65_536)
                act(connection)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join()
    for one in open_ones:
        one.close()


def request(bucket: Bucket, **others: Any) -> dict[str, Any]:
    return {
        "RequestType": "Create",
        "RequestId": "request-1",
        "StackId": "arn:aws:cloudformation:us-east-1:000000000000:stack/demo/1",
        "LogicalResourceId": "Entry",
        "ResourceType": "Custom::SluicegateListener",
        "ResponseURL": f"http://{bucket.host}/answer",
        "ResourceProperties": {"ApiKey": "sg_1_marked"},
        **others,
    }


def reason(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """Why it fails with a gateway at `url`."""
    monkeypatch.setenv("SLUICEGATE_API", url)
    provider.lambda_handler(request(bucket), Context())
    (answer,) = bucket.answers
    assert answer["Status"] == "FAILED"
    assert answer["RequestId"] == "request-1"
    assert "marked" not in json.dumps(answer)
    return str(answer["Reason"])


def answering(*parts: bytes) -> Callable[[socket.socket], None]:
    def act(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
        connection.close()

    return act


def test_nothing_listens(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    said = reason(bucket, monkeypatch, f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in said
    assert "SLUICEGATE_API" in said


def test_it_is_not_said_where_the_gateway_is(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SLUICEGATE_API must be the URL" in reason(bucket, monkeypatch, "")


def test_a_gateway_that_never_answers(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    assert "did not answer in time" in reason(bucket, monkeypatch, serve(lambda connection: None))


def test_a_gateway_whose_answer_never_ends(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    """Each read is in time, the whole is not."""

    def trickle(connection: socket.socket) -> None:
        def drip() -> None:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stopped.wait(0.05):
                    connection.sendall(b"X-A: b\r\n")
            except OSError:
                return

        threading.Thread(target=drip, daemon=True).start()

    stopped = threading.Event()
    said = reason(bucket, monkeypatch, serve(trickle))
    stopped.set()
    assert "did not answer within" in said or "cannot be reached" in said


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "answers, but not as a gateway"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "could not do it now: HTTP 502"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
def test_something_else_is_there(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, serve: Serve, answer: bytes, sentence: str
) -> None:
    assert sentence in reason(bucket, monkeypatch, serve(answering(answer)))


def test_an_answer_that_is_not_taken_fails_the_invocation(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda then invokes it again."""
    monkeypatch.setenv("SLUICEGATE_API", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(provider, "ANSWER_SECONDS", 0.5)
    bucket.down = True
    with pytest.raises(RuntimeError, match="needs a way to S3"):
        provider.lambda_handler(request(bucket), Context())


def test_nobody_but_cloudformation_is_answered(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEGATE_API", f"http://127.0.0.1:{free_port()}")
    provider.lambda_handler(request(bucket, ResponseURL="http://169.254.169.254/"), Context())
    assert bucket.answers == []
