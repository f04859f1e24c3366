"""A server that answers as AWS's, or as nobody should, and what a gateway needs to call it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sluicegate.aws import Aws, AwsError, Queue

SECRET, TOKEN = "wJalrXUtnFEMI-very-secret", "IQoJb3JpZ2luX2Vj-session-token"
ACCOUNT = "123456789012"
EMPTY = b'{"Messages":[]}'

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers the requests that come in with what `answers` has in store, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        """Request line, headers in lower case, body."""
        self.answers: list[bytes | Peer] = []
        self.connections = 0
        self.url = ""
        self.tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self.tls)
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        return self

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def queue(self) -> Queue:
        return Aws("us-east-1", self.url).queue(f"{self.url}/{ACCOUNT}/replies")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and not writer.is_closing():
                line, *fields = head.decode().strip().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (field.partition(": ") for field in fields)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((line, headers, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the test is at its end
        finally:
            self._tasks.discard(task)
            writer.close()


def answer(status: int, body: bytes, *fields: str) -> bytes:
    head = "".join(
        f"{field}\r\n" for field in (f"HTTP/1.1 {status} X", *fields, f"Content-Length: {len(body)}")
    )
    return f"{head}\r\n".encode() + body


def refusal(code: str, message: str, status: int = 400) -> bytes:
    return answer(status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": message}).encode())


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client gives up


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Static keys, and nothing of whoever runs the tests."""
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "")


@pytest.fixture
async def aws_server() -> AsyncIterator[Server]:
    made = await Server().start()
    yield made
    await made.stop()


async def failure(call: Awaitable[object]) -> AwsError:
    """The error of a call; no secret is in it."""
    with pytest.raises(AwsError) as raised:
        await call
    shown = f"{raised.value} {raised.value!r} {raised.value.message} {raised.value.args}"
    assert SECRET not in shown
    assert TOKEN not in shown
    return raised.value
