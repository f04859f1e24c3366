"""Custom resources whose ServiceToken is a topic: requests come from a queue, answers go to the presigned URL."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import free_port
from stack_answers import Bucket
from stack_answers import bucket as bucket

from sluicegate.api.app import create_app
from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.cfn.consumer import StackRequests
from sluicegate.config import load
from sluicegate.events import EventLog
from sluicegate.gateway import Gateway
from sluicegate.http.auth import Authenticator
from sluicegate.state.keys import KeyFile

STACK = "arn:aws:cloudformation:us-east-1:000000000000:stack/demo/6b0f0c5e"


@dataclass
class Message:
    receipt: str
    body: str


class ScriptedQueue:
    """Messages stay until they are deleted; each `receive` hands out what there is, once per round."""

    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        self.failing = 0
        self._round = asyncio.Event()
        self.empty = asyncio.Event()
        self.failed = asyncio.Event()

    def put(self, body: str) -> None:
        receipt = f"receipt-{len(self.messages)}"
        self.messages[receipt] = Message(receipt, body)
        self.empty.clear()
        self.again()

    def again(self) -> None:
        """As when the time of hidden messages has passed."""
        self._round.set()

    async def receive(
        self, *, limit: int = 10, wait_seconds: int = 20, visibility_seconds: int | None = None
    ) -> Sequence[Message]:
        await self._round.wait()
        self._round.clear()
        if self.failing:
            self.failing -= 1
            self.failed.set()
            raise AwsError("sqs", "ReceiveMessage", "AccessDenied", "you may not", resource="the queue")
        return list(self.messages.values())[:limit]

    async def delete(self, receipts: Sequence[str]) -> list[tuple[int, str]]:
        for receipt in receipts:
            self.messages.pop(receipt, None)
        if not self.messages:
            self.empty.set()
        return []


class Kept:
    """Events, kept."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.more = asyncio.Event()

    def write(self, line: bytes, *_: Any) -> None:
        self.lines.append(json.loads(line))
        self.more.set()

    def close(self, seconds: float) -> None: ...


@dataclass
class Running:
    gateway: Gateway
    queue: ScriptedQueue
    bucket: Bucket
    events: Kept
    key: str

    def request(self, kind: str, properties: dict[str, Any], **others: Any) -> dict[str, Any]:
        number = len(self.queue.messages)
        return {
            "RequestType": kind,
            "RequestId": f"request-{kind}-{number}",
            "StackId": STACK,
            "LogicalResourceId": "Entry",
            "ResourceType": "Custom::ProxylityUdpGatewayListener",
            "ResponseURL": f"http://{self.bucket.host}/answer?X-Amz-Signature=abc",
            "ResourceProperties": {
                "ServiceToken": "arn:aws:sns:…",
                "ApiKey": self.key,
                "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
                **properties,
            },
            **others,
        }

    async def answer(self, request: dict[str, Any], *, raw: bool = False) -> dict[str, Any]:
        """What CloudFormation is told, once its message is gone from the queue."""
        text = json.dumps(request)
        self.queue.put(
            text if raw else json.dumps({"Type": "Notification", "MessageId": "m", "Message": text})
        )
        await asyncio.wait_for(self.queue.empty.wait(), 60)
        return self.bucket.answers[-1]

    async def happens(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while not (found := [line for line in self.events.lines if line["Event"] == event]):
                self.events.more.clear()
                await self.events.more.wait()
        return found[-1]

    def listeners(self) -> list[str]:
        return [str(item["Name"]) for item in self.gateway.listeners()]


@pytest.fixture
async def running(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr("sluicegate.cfn.consumer.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("sluicegate.cfn.consumer.PAUSES", Backoff(0.01, 0.01))
    file = tmp_path / "gateway.yaml"
    file.write_text(f"api: {{ bind: 127.0.0.1:{free_port()} }}\nsns: {{ bind: 127.0.0.1:{free_port()} }}\n")
    kept = Kept()
    events = EventLog(kept, node=1, region="us-east-1")  # type: ignore[arg-type]
    gateway = Gateway(load(file), events)
    await gateway.start()
    keys = KeyFile(tmp_path / "keys")
    queue = ScriptedQueue()
    app = create_app(gateway, Authenticator(keys))
    requests = StackRequests(queue, app, events, hosts=(bucket.host,))
    task = asyncio.create_task(requests.run())
    key = keys.create_api_key("stacks", frozenset({"admin"}))[1]
    yield Running(gateway, queue, bucket, kept, key)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await gateway.stop(1.0)
    events.close()


async def test_create_update_and_delete(running: Running) -> None:
    made = await running.answer(running.request("Create", {"Destinations": [{"Name": "a"}]}))
    assert made["Status"] == "SUCCESS", made
    assert made["path"] == "/answer?X-Amz-Signature=abc"
    assert (made["StackId"], made["LogicalResourceId"]) == (STACK, "Entry")
    assert made["Data"]["DestinationNames"] == ["a"]
    assert running.listeners() == [made["PhysicalResourceId"]]
    physical = {"PhysicalResourceId": made["PhysicalResourceId"]}
    new = {"Destinations": [{"Name": "a"}, {"Name": "b"}]}
    old = {"OldResourceProperties": {"Destinations": [{"Name": "a"}]}}
    changed = await running.answer(running.request("Update", new, **physical, **old), raw=True)
    assert changed["Data"]["DestinationNames"] == ["a", "b"]
    assert changed["Data"]["Port"] == made["Data"]["Port"]
    gone = await running.answer(running.request("Delete", new, **physical))
    assert gone["Status"] == "SUCCESS"
    assert running.listeners() == []
    told = [line for line in running.events.lines if line["Event"] == "StackAnswered"]
    assert [line["Action"] for line in told] == ["Create", "Update", "Delete"]
    assert running.key not in json.dumps(running.events.lines)


async def test_a_key_is_asked_for(running: Running) -> None:
    request = running.request("Create", {})
    request["ResourceProperties"]["ApiKey"] = "k-123"
    refused = await running.answer(request)
    assert refused["Status"] == "FAILED"
    assert "the property ApiKey must be a key of this gateway" in refused["Reason"]
    assert running.listeners() == []


async def test_an_answer_that_is_not_taken_is_given_again(running: Running) -> None:
    """The message stays; when it comes again the same resource is the answer, not a second one."""
    running.bucket.down = True
    running.queue.put(json.dumps(running.request("Create", {"Name": "decoder"})))
    problem = await running.happens("StackUnanswered")
    assert problem["Reason"] == "AnswerNotTaken"
    assert running.listeners() == ["decoder"]
    assert running.queue.messages
    running.bucket.down = False
    running.queue.again()
    await asyncio.wait_for(running.queue.empty.wait(), 60)
    (answer,) = running.bucket.answers
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("SUCCESS", "decoder")
    assert running.listeners() == ["decoder"]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://bucket.s3.amazonaws.com/x",
        "file:///etc/passwd",
        "https://[x",
    ],
)
async def test_nobody_else_is_answered(running: Running, url: str) -> None:
    running.queue.put(json.dumps(running.request("Create", {}, ResponseURL=url)))
    await asyncio.wait_for(running.queue.empty.wait(), 60)
    told = await running.happens("StackUnanswered")
    assert (told["Reason"], told["Detail"][:15]) == ("NotCloudFormation", "its ResponseURL")
    assert running.bucket.answers == []
    assert running.listeners() == [], "a request that cannot be answered is not done either"


async def test_what_is_no_request_is_dropped_and_a_queue_that_fails_is_read_again(running: Running) -> None:
    for body in ("", "[]", '{"Message": "{"}', '{"Message": {}}', '{"RequestType": "Create"}', "[" * 100_000):
        running.queue.put(body)
    await asyncio.wait_for(running.queue.empty.wait(), 60)
    assert (await running.happens("StackUnanswered"))["Reason"] == "NotARequest"
    running.queue.failing = 3
    running.queue.again()
    while running.queue.failing:
        running.queue.failed.clear()
        running.queue.again()
        await asyncio.wait_for(running.queue.failed.wait(), 60)
    made = await running.answer(running.request("Create", {}))
    assert made["Status"] == "SUCCESS"
    (outage,) = [line for line in running.events.lines if line.get("Reason") == "QueueUnreadable"]
    assert "sqs:ReceiveMessage on the queue was refused" in outage["Detail"]
    assert "allow the gateway sqs:ReceiveMessage on it: the parameter GatewayRole" in outage["Detail"]
    assert await running.happens("StackQueueRecovered")


async def test_a_whole_stack_at_once(running: Running) -> None:
    """As many as the queue gives: none waits for another one, and none holds what the API needs."""
    for number in range(10):
        running.queue.put(json.dumps(running.request("Create", {"Name": f"listener-{number}"})))
    await asyncio.wait_for(running.queue.empty.wait(), 60)
    assert {(one["Status"], one.get("Reason")) for one in running.bucket.answers} == {("SUCCESS", None)}
    assert sorted(running.listeners()) == [f"listener-{number}" for number in range(10)]
