"""What clients of the SNS endpoint can make it keep, and how long one request can hold it up."""

import contextlib
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from starlette.types import Scope

from doubles import FakeSender
from sluicegate.events.log import EventLog
from sluicegate.events.sinks import MemorySink
from sluicegate.http.server import Server
from sluicegate.sources.local import topics as topics_module
from sluicegate.sources.local.access import LocalAccess
from sluicegate.sources.local.endpoint import create_app
from sluicegate.sources.local.kept import KeptTopics
from sluicegate.sources.local.signature import SigV4
from sluicegate.sources.local.topics import Binding, Topics
from sluicegate.sources.local.xml import SnsError, parse_form
from sluicegate.state import State, StateError
from sluicegate.state.keys import AccessKey

ARN = "arn:aws:sns:us-east-1:000000000000:replies"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
KIB = 1024


class Rig:
    def __init__(self, topics: Topics, http: httpx.AsyncClient) -> None:
        self.topics = topics
        self.http = http
        self.sender = FakeSender()
        topics.bind(ARN, Binding("replies", 0, self.sender))

    async def post(self, content: bytes) -> tuple[int, str, str]:
        """`(status, SNS's error code, its message)`."""
        answer = await self.http.post("/", content=content, headers=FORM)
        document = ElementTree.fromstring(answer.content)
        texts = {one.tag.rpartition("}")[2]: one.text or "" for one in document.iter()}
        return answer.status_code, texts.get("Code", ""), texts.get("Message", "")

    async def act(self, action: str, **fields: str) -> tuple[int, str, str]:
        return await self.post(urlencode({"Action": action, **fields}).encode())

    async def create(self, name: str, **attributes: str) -> tuple[int, str, str]:
        fields = {"Action": "CreateTopic", "Name": name}
        for number, (key, value) in enumerate(attributes.items(), 1):
            fields[f"Attributes.entry.{number}.key"] = key
            fields[f"Attributes.entry.{number}.value"] = value
        return await self.post(urlencode(fields).encode())

    async def set(self, name: str, value: str, arn: str = ARN) -> tuple[int, str, str]:
        return await self.act("SetTopicAttributes", TopicArn=arn, AttributeName=name, AttributeValue=value)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    topics = Topics("us-east-1")
    async for made in serve(topics, None):
        yield made


async def serve(topics: Topics, authorize: Any) -> AsyncIterator[Rig]:
    server = Server(create_app(topics, authorize), "127.0.0.1", 0, setting="sns.bind")
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        yield Rig(topics, http)
    await server.stop()


# Attributes and tags

TOO_LONG = [
    ("DisplayName", 100),
    ("Policy", 30 * KIB),
    ("DeliveryPolicy", 30 * KIB),
    ("DataProtectionPolicy", 30 * KIB),
    ("KmsMasterKeyId", 2048),
    ("SQSFailureFeedbackRoleArn", 2048),
]


@pytest.mark.attack
@pytest.mark.parametrize(("name", "most"), TOO_LONG)
async def test_attributes_are_as_long_as_sns_allows(name: str, most: int, rig: Rig) -> None:
    assert (await rig.create("fits", **{name: "x" * most}))[0] == 200
    for refused in (
        await rig.create("long", **{name: "x" * (most + 1)}),
        await rig.create("much", **{name: "x" * 500_000}),
        await rig.set(name, "x" * (most + 1)),
    ):
        assert refused[:2] == (400, "InvalidParameter")
        assert name in refused[2]
    assert [arn.rpartition(":")[2] for arn in rig.topics.page()[0]] == ["fits", "replies"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SignatureVersion", "3"),
        ("TracingConfig", "active"),
        ("SQSSuccessFeedbackSampleRate", "101"),
        ("HTTPSuccessFeedbackSampleRate", "ten"),
        ("Nonsense", "x"),
        ("", "x"),
        ("x" * 400_000, "x"),
        ("ArchivePolicy", "{}"),
        ("ContentBasedDeduplication", "true"),
        ("FifoThroughputScope", "Topic"),
        ("FifoTopic", "TRUE"),
        ("MaximumMessageSize", "1023"),
        ("MaximumMessageSize", "1048577"),
        ("MaximumMessageSize", "-5000"),
        ("MaximumMessageSize", "1e5"),
        ("MaximumMessageSize", "\uff12000"),
        ("MaximumMessageSize", ""),
        ("MaximumMessageSize", "9" * 5000),
    ],
)
async def test_attributes_that_a_standard_topic_does_not_have(name: str, value: str, rig: Rig) -> None:
    status, code, message = await rig.create("mine", **{name: value})
    assert (status, code) == (400, "InvalidParameter")
    assert message.startswith("Invalid parameter: Attributes Reason: ")
    assert len(message) < 300
    status, code, message = await rig.set(name, value)
    assert (status, code) == (400, "InvalidParameter")
    assert message.startswith("Invalid parameter: Attribute")


@pytest.mark.attack
async def test_tags_are_as_many_and_as_long_as_sns_allows(rig: Rig) -> None:
    def tags(count: int, key: str = "k", value: str = "v") -> dict[str, str]:
        named: dict[str, str] = {}
        for number in range(1, count + 1):
            named |= {f"Tags.member.{number}.Key": f"{number}{key}", f"Tags.member.{number}.Value": value}
        return named

    async def create(named: dict[str, str]) -> tuple[int, str, str]:
        return await rig.act("CreateTopic", Name="mine", **named)

    assert (await create(tags(50)))[0] == 200
    assert (await create(tags(51)))[:2] == (400, "TagLimitExceeded")
    assert (await create(tags(1, "k" * 128)))[:2] == (400, "InvalidParameter")
    assert (await create(tags(1, value="v" * 257)))[:2] == (400, "InvalidParameter")
    assert (await create(tags(1) | {"Tags.member.2.Key": "1k"}))[:2] == (400, "InvalidParameter")


@pytest.mark.attack
async def test_all_attributes_together_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics_module, "ATTRIBUTES_LIMIT", 100 * KIB)
    policy = "x" * 30 * KIB
    assert [(await rig.create(f"t{n}", Policy=policy))[0] for n in range(4)] == [200, 200, 200, 403]
    assert (await rig.create("t4"))[0] == 200
    assert (await rig.set("Policy", policy))[:2] == (403, "TopicLimitExceeded")
    arn = ARN.replace("replies", "t0")
    assert [(await rig.set("Policy", policy, arn))[0] for _ in range(5)] == [200] * 5
    await rig.act("DeleteTopic", TopicArn=arn)
    assert (await rig.set("Policy", policy))[0] == 200


# The size of messages


async def test_a_topic_says_how_long_its_messages_may_be(rig: Rig) -> None:
    async def publish(size: int, arn: str = ARN) -> tuple[int, str, str]:
        return await rig.act("Publish", TopicArn=arn, Message="%" * size)

    assert (await publish(256 * KIB))[0] == 200
    refused = (400, "InvalidParameter", "Invalid parameter: Message too long")
    assert await publish(256 * KIB + 1) == refused
    assert (await rig.set("MaximumMessageSize", "1024"))[0] == 200
    assert (await publish(1024))[0] == 200
    assert await publish(1025) == refused
    assert (await rig.set("MaximumMessageSize", "1048576"))[0] == 200
    assert (await publish(1 << 20))[0] == 200
    assert await publish((1 << 20) + 1) == refused
    other = ARN.replace("replies", "other")
    assert (await rig.create("other", MaximumMessageSize="2000"))[0] == 200
    assert (await publish(2000, other))[0] == 200
    assert await publish(2001, other) == refused
    form = urlencode({"Action": "GetTopicAttributes", "TopicArn": other}).encode()
    shown = await rig.http.post("/", content=form, headers=FORM)
    assert "<key>MaximumMessageSize</key><value>2000</value>" in shown.text


async def test_a_batch_is_as_long_as_a_message_and_attributes_count(rig: Rig) -> None:
    await rig.set("MaximumMessageSize", "2000")
    entry = "PublishBatchRequestEntries.member"

    async def batch(*sizes: int) -> tuple[int, str, str]:
        fields = {f"{entry}.{n}.Id": f"e{n}" for n in range(len(sizes))}
        fields |= {f"{entry}.{n}.Message": "m" * size for n, size in enumerate(sizes)}
        return await rig.act("PublishBatch", TopicArn=ARN, **fields)

    assert (await batch(1000, 1000))[:2] == (200, "")
    assert (await batch(1000, 1001))[:2] == (400, "BatchRequestTooLong")
    attribute = "MessageAttributes.entry.1"
    fields = {f"{attribute}.Name": "name", f"{attribute}.Value.DataType": "String"}
    for size, status in ((1000, 200), (1001, 400)):
        value = {f"{attribute}.Value.StringValue": "v" * (size - 10), "Message": "m" * 1000}
        assert (await rig.act("Publish", TopicArn=ARN, **fields, **value))[0] == status


async def test_a_topic_with_another_size_is_another_topic(rig: Rig) -> None:
    assert (await rig.create("mine"))[0] == 200
    assert (await rig.create("mine", MaximumMessageSize="262144"))[0] == 200
    status, code, message = await rig.create("mine", MaximumMessageSize="2000")
    assert (status, code) == (400, "InvalidParameter")
    assert "already exists with different attributes" in message


# FIFO


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("CreateTopic", {"Name": "a.fifo"}),
        ("CreateTopic", {"Name": "a.fifo", "Attributes.entry.1.key": "FifoTopic", "Attributes.entry.1.value": "true"}),
        ("Publish", {"TopicArn": ARN + ".fifo", "Message": "m"}),
        ("Publish", {"TargetArn": ARN + ".fifo", "Message": "m", "MessageGroupId": "g"}),
        ("Publish", {"TopicArn": ARN, "Message": "m", "MessageDeduplicationId": "d"}),
        ("Publish", {"TopicArn": ARN, "Message": "m", "MessageGroupId": "g g"}),
        ("Publish", {"TopicArn": ARN, "Message": "m", "MessageGroupId": "g" * 129}),
        ("GetTopicAttributes", {"TopicArn": ARN + ".fifo"}),
        ("SetTopicAttributes", {"TopicArn": ARN + ".fifo", "AttributeName": "DisplayName", "AttributeValue": "x"}),
        ("SetTopicAttributes", {"TopicArn": ARN, "AttributeName": "FifoTopic", "AttributeValue": "false"}),
        ("DeleteTopic", {"TopicArn": ARN + ".fifo"}),
        ("PublishBatch", {"TopicArn": ARN + ".fifo", "PublishBatchRequestEntries.member.1.Id": "a",
                          "PublishBatchRequestEntries.member.1.Message": "m"}),
    ],
)  # fmt: skip
async def test_fifo_topics_are_refused(action: str, fields: dict[str, str], rig: Rig) -> None:
    status, code, message = await rig.act(action, **fields)
    assert (status, code) == (400, "InvalidParameter")
    assert message.startswith("Invalid parameter: ")
    assert rig.sender.taken == []


async def test_a_standard_topic_takes_a_group(rig: Rig) -> None:
    assert (await rig.act("Publish", TopicArn=ARN, Message="m", MessageGroupId="g-1!"))[0] == 200


# What holds the loop up

SLOW = {
    "%": b"%" * (3 << 20),
    "broken": b"%g0" * (1 << 20),
    "line ends": b"\r\n%" * (1 << 20),
    "in a name": b"%" * (3 << 20) + b"=a",
    "in many fields": (b"%" * 600 + b"&") * 4000,
    "good": b"%25" * (1 << 20),
    "plus": b"+" * (3 << 20),
    "escaped equals": b"=%3d" * (3 << 18),
}


@pytest.mark.attack
@pytest.mark.parametrize("name", SLOW)
def test_no_form_takes_long_to_read(name: str) -> None:
    """Processor time, in units of what reading a good form of that size takes."""

    def used(body: bytes) -> float:
        start = time.process_time()
        with contextlib.suppress(SnsError):
            parse_form(b"a=" + body)
        return time.process_time() - start

    usual = min(used(b"%7B%22a" * 450_000) for _ in range(3))
    assert min(used(SLOW[name]) for _ in range(3)) < 3 * usual + 0.05


@pytest.mark.attack
async def test_a_form_that_no_publish_can_need_is_not_taken(rig: Rig) -> None:
    status, code, _ = await rig.post(b"Action=Publish&Message=" + b"%" * (1 << 20))
    assert (status, code) == (413, "RequestEntityTooLarge")
    assert (await rig.set("MaximumMessageSize", "1048576"))[0] == 200
    status, code, _ = await rig.post(b"Action=Publish&Message=" + b"%" * (3 << 20))
    assert (status, code) == (400, "InvalidParameter")
    await rig.act("DeleteTopic", TopicArn=ARN)
    status, code, _ = await rig.post(b"Action=Publish&Message=" + b"%" * (1 << 20))
    assert (status, code) == (413, "RequestEntityTooLarge")


class NoKeys:
    """No key fits."""

    def api_key(self, key_id: str) -> None:
        return None

    def access_key(self, key_id: str) -> AccessKey | None:
        return None


def locked(access: Any) -> Callable[[Scope], Any]:
    return LocalAccess(access, SigV4(NoKeys()), "gateway.yaml")


@pytest.mark.attack
@pytest.mark.parametrize(
    ("authorize", "code"),
    [(SigV4(NoKeys()), "MissingAuthenticationToken"), (locked("none"), "AuthorizationError")],
    ids=["anywhere", "loopback"],
)
@pytest.mark.parametrize("head", [{}, {"Authorization": "Basic abc"}])
async def test_a_request_without_a_signature_is_refused_before_its_body_is_looked_at(
    authorize: Any, code: str, head: dict[str, str]
) -> None:
    """The body would be refused too: it is no form, and too long."""
    async for rig in serve(Topics("us-east-1"), authorize):
        answer = await rig.http.post("/", content=b"%" * (2 << 20), headers={**FORM, **head})
        assert (answer.status_code, code in answer.text) == (403, True)


async def test_a_reader_may_still_look_without_a_signature() -> None:
    async for rig in serve(Topics("us-east-1"), locked("read")):
        assert (await rig.act("ListTopics"))[0] == 200
        assert (await rig.act("Publish", TopicArn=ARN, Message="m"))[:2] == (403, "AuthorizationError")


# A disk that is full


async def test_a_state_that_cannot_be_written_is_an_internal_error_of_sns(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state.db")
    told = MemorySink()
    kept = KeptTopics(state, EventLog(told))
    topics = Topics("us-east-1", on_change=kept.keep, on_delete=kept.remove)
    async for rig in serve(topics, None):
        mine = ARN.replace("replies", "mine")
        assert (await rig.create("mine"))[0] == 200
        pages = state.read("PRAGMA page_count")[0][0]
        state.read(f"PRAGMA max_page_count = {pages}")
        refused = [await rig.create(f"{'long' * 60}{number}") for number in range(200)][-1]
        assert refused[:2] == (500, "InternalError")
        assert "the disk is full" in refused[2]
        assert [one["Event"] for one in told.events] == ["TopicNotKept"]
        assert (await rig.act("Publish", TopicArn=ARN, Message="m"))[0] == 200
        state.read("PRAGMA max_page_count = 100000")
        assert (await rig.create("more"))[0] == 200
        assert mine in state.topics()
    state.close()


@pytest.mark.parametrize("action", ["CreateTopic", "SetTopicAttributes", "DeleteTopic"])
async def test_what_the_state_does_not_take_has_not_happened(action: str) -> None:
    def full(*_: object) -> None:
        raise StateError("the state cannot be written: the disk is full, free some space")

    topics = Topics("us-east-1", known=[(ARN, {})], on_change=full, on_delete=full)
    async for rig in serve(topics, None):
        fields = {"TopicArn": ARN, "Name": "mine", "AttributeName": "DisplayName", "AttributeValue": "x"}
        assert (await rig.act(action, **fields))[:2] == (500, "InternalError")
        assert topics.page()[0] == [ARN]
        assert "DisplayName" not in topics.get(ARN).attributes
