"""Dead letters for SQS: what fits into a message, what waits, what is settled; nothing goes without a count."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.deadletters.failures import Failure, Failures
from sluicegate.deadletters.letter import DeadLetter, FailedMessage, NotKept
from sluicegate.deadletters.queue import CHUNK, LETTER_BYTES, SMALLEST_BYTES, DeadLetterQueue
from sluicegate.egress.ledger import Ledger
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import PacketSource
from sluicegate.state.journal import Journal
from waiting import until

ARN = "arn:aws:sqs:eu-west-1:123456789012:dead"


def letter(index: int = 0, entry: object = None) -> DeadLetter:
    return DeadLetter(message(index), Failure(index, "Expired", "too old"), entry or {"Data": "AA=="})


def message(*indices: int, entry: object = None) -> FailedMessage:
    """One of which these entries have failed."""
    body = json.dumps({"Messages": [entry or {"Data": "AA=="}] * (max(indices) + 1)}).encode()
    failures = Failures([(index, "Expired", "too old") for index in indices])
    return FailedMessage("replies", "decoder", "m1", "2026-06-09T10:00:00.123Z", body, failures)


class Sqs:
    """Takes messages as a queue would; `broken` fails every call, `codes` single letters by their index."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.broken: AwsError | None = None
        self.codes: dict[int, str] = {}
        self.largest = LETTER_BYTES
        self.too_large = "InvalidParameterValue"
        self.stuck: set[int] = set()
        self.calls: list[tuple[str, dict[str, object], str | None]] = []

    async def call(
        self, service: str, operation: str, params: dict[str, object], *, region: str | None = None
    ) -> dict[str, object]:
        self.calls.append((f"{service}:{operation}", params, region))
        await self._answer()
        return {"QueueUrl": "https://sqs.test/dead"}

    def queue(self, url: str, *, region: str | None = None) -> "Sqs":
        return self

    async def send(self, bodies: Sequence[str]) -> list[tuple[int, str]]:
        await self._answer()
        failed = []
        for place, body in enumerate(bodies):
            document = json.loads(body)
            if len(body.encode()) > self.largest:
                failed.append((place, self.too_large))
            elif document["Index"] in self.stuck:
                failed.append((place, "InternalError"))
            elif (code := self.codes.pop(document["Index"], None)) is not None:
                failed.append((place, code))
            else:
                self.bodies.append(document)
        return failed

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken

    @property
    def indices(self) -> list[int]:
        return [body["Index"] for body in self.bodies]


class Rig:
    def __init__(self, limit_bytes: int = 1 << 20) -> None:
        self.sqs = Sqs()
        self.sink = MemorySink()
        backoff = Backoff(0.001, 0.001)
        self.queue = DeadLetterQueue(
            ARN,
            self.sqs,  # type: ignore[arg-type]
            EventLog(self.sink),
            limit_bytes=limit_bytes,
            backoff=backoff,
        )
        self.queue.start()

    def append(self, *indices: int, settles: bool = True) -> None:
        """Each of a message of its own."""
        self.queue.append([message(index) for index in indices], settles=settles)

    @property
    def failures(self) -> list[dict[str, object]]:
        return self.sink.named("DeadLetterFailed")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.queue.close(0)


def unreachable() -> AwsError:
    return AwsError("sqs", "SendMessageBatch", "ServiceUnavailable", "come back later", status=503)


async def test_settle_returns_when_the_queue_has_every_letter(rig: Rig) -> None:
    await rig.queue.settle()
    rig.append(*range(3 * CHUNK))
    await rig.queue.settle()
    assert rig.sqs.indices == list(range(3 * CHUNK))
    assert rig.sqs.bodies[0] == {
        "PacketSource": "replies",
        "Listener": "decoder",
        "MessageId": "m1",
        "Index": 0,
        "Reason": "Expired",
        "Detail": "too old",
        "At": "2026-06-09T10:00:00.123Z",
        "Entry": {"Data": "AA=="},
    }
    wanted = {"QueueName": "dead", "QueueOwnerAWSAccountId": "123456789012"}
    assert rig.sqs.calls == [("sqs:GetQueueUrl", wanted, "eu-west-1")]
    assert rig.queue.stats.kept == 3 * CHUNK


async def test_settle_waits_through_an_outage_that_is_told_once(rig: Rig) -> None:
    rig.sqs.broken = unreachable()
    rig.append(0)
    settling = asyncio.create_task(rig.queue.settle())
    await until(lambda: rig.failures)
    await asyncio.sleep(0.02)
    rig.append(1)
    assert not settling.done()
    rig.sqs.broken = None
    await settling
    await rig.queue.settle()
    assert rig.sqs.indices == [0, 1]
    (event,) = rig.failures
    assert event["Reason"] == "Unavailable"
    assert "sqs:SendMessage" in str(event["Detail"])


async def test_a_letter_that_is_tried_again_keeps_others_from_being_settled_before_it(rig: Rig) -> None:
    rig.sqs.codes = {0: "InternalError"}
    rig.append(0)
    first = asyncio.create_task(rig.queue.settle())
    rig.append(1)
    await first
    assert 0 in rig.sqs.indices
    await rig.queue.settle()
    assert sorted(rig.sqs.indices) == [0, 1]


async def test_a_missing_permission_is_named(rig: Rig) -> None:
    message = "User: arn:aws:iam::123456789012:user/gw is not authorized to perform: sqs:sendmessage"
    rig.sqs.broken = AwsError("sqs", "SendMessageBatch", "AccessDenied", message, status=403)
    rig.append(0)
    await until(lambda: rig.failures)
    event = rig.failures[0]
    assert (event["Reason"], event["Listener"], event["PacketSource"]) == (
        "AccessDenied",
        "decoder",
        "replies",
    )
    assert message in str(event["Detail"])
    rig.sqs.broken = None
    await rig.queue.settle()


async def test_a_queue_of_small_messages_gets_the_letter_cut(rig: Rig) -> None:
    rig.sqs.largest = 2_000
    rig.queue.append([message(0, entry={"Data": "x" * 5_000}), message(1)], settles=True)
    await rig.queue.settle()
    cut = next(body for body in rig.sqs.bodies if body["Index"] == 0)
    assert cut["EntryBytes"] == len('{"Data":""}') + 5_000
    assert cut["Entry"].startswith('{"Data":"xxx')
    assert not rig.failures


async def test_a_letter_that_the_queue_never_takes_is_an_event(rig: Rig) -> None:
    rig.sqs.largest = 100
    rig.append(0)
    await rig.queue.settle()
    (event,) = rig.failures
    assert (event["Reason"], event["Letters"]) == ("Refused", 1)
    assert rig.queue.stats.lost == 1


async def test_beyond_the_limit_only_letters_are_dropped_that_nobody_waits_for() -> None:
    rig = Rig(limit_bytes=20_000)
    rig.sqs.broken = unreachable()
    rig.append(*range(100), settles=False)
    room = rig.queue.stats.waiting
    assert 0 < room < 100
    rig.append(*range(100, 200), settles=True)
    assert rig.queue.stats.waiting == room + 100
    await until(lambda: [event for event in rig.failures if event["Reason"] == "QueueFull"])
    event = next(event for event in rig.failures if event["Reason"] == "QueueFull")
    assert event["Letters"] == rig.queue.stats.lost == 100 - room
    assert rig.queue.congested, "who settles is told to stop"
    rig.sqs.broken = None
    await rig.queue.settle()
    assert not rig.queue.congested
    assert rig.sqs.indices == [*range(room), *range(100, 200)]
    await rig.queue.close(0)


async def test_what_waits_is_about_as_large_as_the_messages_and_not_as_their_letters(rig: Rig) -> None:
    rig.sqs.broken = unreachable()
    entries = 50_000
    cause = "an entry has to be an object, and " + "this is none " * 20
    body = json.dumps({"Messages": [1] * entries}).encode()
    at = "2026-06-09T10:00:00.123Z"
    tracemalloc.start()
    try:
        for number in range(20):
            failures = Failures([(index, "MalformedMessage", cause + "") for index in range(entries)])
            rig.queue.append(
                [FailedMessage("replies", "decoder", f"m{number}", at, body + b" ", failures)], settles=True
            )
        await until(lambda: rig.failures)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rig.queue.stats.waiting == 20 * entries
    assert held < 20 * 6 * len(body)  # as letters: 20 * 180 times as much


async def test_one_letter_that_sqs_never_answers_for_keeps_no_others_in_memory(rig: Rig) -> None:
    rig.sqs.stuck = {0}
    rig.append(0)
    settling = asyncio.create_task(rig.queue.settle())
    for index in range(1, 1_000):
        rig.append(index)
    await until(lambda: rig.queue.stats.kept == 999)
    assert rig.queue.stats.waiting == 1
    assert not settling.done()
    rig.sqs.stuck = set()
    await settling
    await rig.queue.settle()


async def test_a_missing_permission_names_the_queue_by_its_arn() -> None:
    rig = Rig()
    rig.sqs.broken = AwsError("sqs", "GetQueueUrl", "AccessDenied", "no", status=403, resource="dead")
    await until(lambda: rig.failures)
    assert f"sqs:GetQueueUrl on {ARN} was refused" in str(rig.failures[0]["Detail"])
    await rig.queue.close(0)


@pytest.mark.parametrize("code", ["InvalidParameterValue", "InvalidParameterValueException"])
async def test_a_letter_that_can_never_be_taken_does_not_wait_for_ever(rig: Rig, code: str) -> None:
    rig.sqs.largest, rig.sqs.too_large = 100, code
    rig.append(0)
    async with asyncio.timeout(10):
        await rig.queue.settle()
    assert rig.queue.stats.lost == 1


async def test_close_sends_what_waits_and_tells_what_is_left() -> None:
    rig = Rig()
    rig.append(0, settles=False)
    await rig.queue.close(10)
    assert rig.sqs.indices == [0]

    rig = Rig()
    rig.sqs.broken = unreachable()
    rig.append(0, 1, settles=False)
    rig.append(2, settles=True)
    settling = asyncio.create_task(rig.queue.settle())
    await asyncio.sleep(0)
    await rig.queue.close(0.01)
    await rig.queue.close(0.01)
    with pytest.raises(NotKept):
        await settling
    with pytest.raises(NotKept):
        await rig.queue.settle()
    (event,) = [event for event in rig.failures if event["Reason"] == "Shutdown"]
    assert event["Letters"] == 3
    assert "2 are lost, 1 come again" in str(event["Detail"])
    assert rig.queue.stats.lost == 2


@pytest.mark.parametrize(
    ("arn", "fix"),
    [(ARN + ".fifo", "a standard queue"), ("arn:aws:sqs:eu-west-1:1:dead", "arn:aws:sqs:REGION")],
)
def test_only_a_standard_queue_takes_dead_letters(arn: str, fix: str) -> None:
    source = {
        "listener_name": "decoder",
        "sns_topic_source": {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:replies"},
        "dead_letter_queue_arn": arn,
    }
    with pytest.raises(ValidationError) as refused:
        PacketSource.model_validate(source)
    assert fix in refused.value.errors()[0]["ctx"]["fix"]


# What SQS takes: #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF
def accepted(body: str) -> bool:
    return all(
        c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" for c in body
    )


@given(
    st.one_of(st.text(), st.dictionaries(st.text(), st.text())),
    st.integers(0, 3_000),
    st.sampled_from([SMALLEST_BYTES, 3_000, LETTER_BYTES]),
)
def test_a_letter_s_text_is_always_taken_and_says_what_it_can(entry: Any, repeat: int, limit: int) -> None:
    grown = entry * repeat if isinstance(entry, str) else entry
    text = letter(0, grown).text(limit)
    assert len(text.encode()) <= limit
    assert accepted(text)
    document = json.loads(text)
    assert document["Reason"] == "Expired"
    if "EntryBytes" in document:
        whole = (
            grown if isinstance(grown, str) else json.dumps(grown, ensure_ascii=False, separators=(",", ":"))
        )
        assert document["EntryBytes"] > len(document["Entry"].encode())
        if isinstance(grown, str):
            assert whole.startswith(document["Entry"])
    else:
        assert document["Entry"] == (grown or {"Data": "AA=="})


async def test_a_fault_of_a_place_is_counted_and_stops_nobody() -> None:
    class Broken(DeadLetterQueue):
        def append(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
            raise RuntimeError("token=secret")

    sink = MemorySink()
    broken = Broken(ARN, Sqs(), EventLog(sink))  # type: ignore[arg-type]
    ledger = Ledger(Journal.__new__(Journal), {"replies": broken}, EventLog(sink))
    ledger.failed([message(0, 1, 2)], settles=True)
    (event,) = sink.named("DeadLetterFailed")
    assert (event["PacketSource"], event["Letters"]) == ("replies", 3)
    assert "secret" not in str(event)
    assert not ledger.congested(["replies"])
