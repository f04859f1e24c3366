"""CloudFormation requests that come through an SNS topic and a queue: no stack needs a way into this gateway.

CloudFormation publishes a request to the topic that is the resources' ServiceToken; the topic's queue is read here, the
request is done by the gateway's own API, inside this process, and the answer goes to the request's ResponseURL. The
message is deleted after that: a crash in between repeats the request, which is harmless (`provider.py`).
"""

import asyncio
import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp

from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.cfn.provider import (
    API_SECONDS,
    IDS_LIMIT,
    Unreachable,
    refusal,
    refused_url,
    respond,
    within,
)
from sluicegate.events import EventLog
from sluicegate.sources.topic.queue import is_gone
from sluicegate.threads import Threads

if TYPE_CHECKING:
    import httpx

WAIT_SECONDS = 20
HIDDEN_SECONDS = 60  # more than one request takes with its answer
ANSWER_SECONDS = 20.0
AT_ONCE = 10
PAUSES = Backoff(1.0, 30.0)
"""While the queue cannot be read."""


class QueueMessage(Protocol):
    """One message of the queue."""

    @property
    def receipt(self) -> str: ...
    @property
    def body(self) -> str: ...


class Queue(Protocol):
    """The part of `sluicegate.aws.Queue` that is needed here."""

    async def receive(
        self, *, limit: int = 10, wait_seconds: int = 20, visibility_seconds: int | None = None
    ) -> Sequence[QueueMessage]: ...

    async def delete(self, receipts: Sequence[str]) -> list[tuple[int, str]]: ...


class StackRequests:
    """Reads `queue` until `run` is cancelled. `app` is the API, asking for keys: a request's ApiKey is its key.

    `partition` and `hosts`: see `provider.refused_url`.
    """

    def __init__(
        self,
        queue: Queue,
        app: ASGIApp,
        events: EventLog,
        *,
        partition: str = "aws",
        hosts: Collection[str] = (),
    ) -> None:
        self._queue = queue
        self._app = app
        self._events = events
        self._partition = partition
        self._hosts = hosts
        # Not asyncio's own threads: the API needs those, and requests that wait for it would have taken them all.
        self._threads = Threads("stack request", AT_ONCE)
        self._down: str | None = None

    async def run(self) -> None:
        """Serve requests, several at a time. Problems are events; nothing ends this but being cancelled."""
        serving: set[asyncio.Task[None]] = set()
        try:
            while True:
                if len(serving) == AT_ONCE:
                    await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
                serving = {task for task in serving if not task.done()}
                for message in await self._receive(AT_ONCE - len(serving)):
                    serving.add(asyncio.create_task(self._serve(message), name="stack request"))
        finally:
            # What is not answered comes again, to the next start.
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            self._threads.close()

    async def _receive(self, limit: int) -> Sequence[QueueMessage]:
        failures = 0
        while True:
            try:
                messages = await self._queue.receive(
                    limit=limit, wait_seconds=WAIT_SECONDS, visibility_seconds=HIDDEN_SECONDS
                )
            except AwsError as error:
                failures += 1
                self._failed(error)
                await asyncio.sleep(PAUSES.pause(failures))
            else:
                if self._down is not None:
                    self._down = None
                    self._events.emit("StackQueueRecovered")
                return messages

    async def _serve(self, message: QueueMessage) -> None:
        if not await self._do(message.body):
            return
        try:
            await self._queue.delete([message.receipt])
        except AwsError as error:
            self._failed(error)  # it comes again, and changes nothing then

    async def _do(self, body: str) -> bool:
        """Do one request; True when its message is done with."""
        event = parse_request(body)
        if event is None:
            self._events.emit(
                "StackUnanswered", Reason="NotARequest", Detail="a message that is no request was dropped"
            )
            return True
        url = str(event.get("ResponseURL", ""))
        wrong = refused_url(url, self._hosts, self._partition)
        if wrong is not None:
            # Not done either: whoever sent it is not CloudFormation.
            self._events.emit("StackUnanswered", Reason="NotCloudFormation", Detail=wrong)
            return True
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + API_SECONDS

        def answered() -> tuple[dict[str, Any], str | None]:
            answer = within(API_SECONDS + 1, event, lambda: InProcess(self._app, loop, deadline))
            return answer, respond(url, answer, ANSWER_SECONDS, self._hosts, self._partition)

        answer, problem = await self._threads.call(answered)
        if problem is None:
            self._events.emit(
                "StackAnswered",
                Detail=answer.get("Reason", ""),
                Action=event.get("RequestType"),
                Kind=event.get("ResourceType"),
                Name=answer["PhysicalResourceId"],
                Result=answer["Status"],
            )
            return True
        # The message stays and comes again, until it is answered or too old for the queue.
        self._events.emit("StackUnanswered", Reason="AnswerNotTaken", Detail=problem)
        return False

    def _failed(self, error: AwsError) -> None:
        """Tell of it once, until it is another error or the queue can be read again."""
        if self._down != error.code:
            self._down = error.code
            detail = f"{error}; {_next_step(error)}"
            self._events.emit("StackUnanswered", Reason="QueueUnreadable", Detail=detail)


def _next_step(error: AwsError) -> str:
    if error.denied:
        return f"allow the gateway {error.action} on it: the parameter GatewayRole of the provider's template does"
    if is_gone(error):
        return "correct `cloudformation.queue_url`, which is the output QueueUrl of the provider's stack"
    return "it is tried again"


class InProcess:
    """The gateway's own API, called from another thread (`provider.Caller`)."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._app = app
        self._loop = loop
        self._deadline = deadline

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """One request. Raises `provider.RequestRefused`, or `Unreachable` when it did not end in time."""
        left = max(0.1, self._deadline - time.monotonic())
        future = asyncio.run_coroutine_threadsafe(self._send(method, path, body, headers), self._loop)
        try:
            response = future.result(left)
        except TimeoutError:
            future.cancel()
            raise Unreachable("the gateway did not do it in time: its events say why") from None
        if response.is_error:
            raise refusal(response.status_code, response.content, body)
        return response.json() if response.content else None

    async def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None
    ) -> "httpx.Response":
        import httpx  # only where stacks come by a topic: it takes its time and memory

        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://stack-requests") as client:
            return await client.request(method, path, json=body, headers=dict(headers or {}))


def parse_request(body: str) -> dict[str, Any] | None:
    """The request in a message: SNS wraps it in an envelope, raw delivery does not. None for anything else."""
    document = _object(body)
    if document is not None and "RequestType" not in document and isinstance(document.get("Message"), str):
        document = _object(document["Message"])
    needed = ("RequestType", "RequestId", "StackId", "LogicalResourceId", "ResourceType")
    if document is None or not all(isinstance(document.get(key), str) for key in needed):
        return None
    repeated = [document.get(key) for key in (*needed[1:4], "PhysicalResourceId")]
    # No answer to longer ones would be short enough.
    return document if len(json.dumps(repeated)) <= IDS_LIMIT else None


def _object(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
