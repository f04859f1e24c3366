"""What comes out of a queue, and what is remembered of it (contract sections 4.2, 4.3)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import envelope
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import GatewayConfig
from sluicegate.sources.topic.ended import Ended
from sluicegate.sources.topic.envelope import Confirmation, Notification, read
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.state.journal import Journal

TOPIC = "arn:aws:sns:us-east-1:123456789012:replies"


def notification(body: str) -> Notification:
    found = read(body, "sqs-id", 5.0)
    assert isinstance(found, Notification)
    return found


def test_an_envelope() -> None:
    found = notification(
        envelope(
            "m1",
            '{"Data": "é"}',
            topic=TOPIC,
            Timestamp="2026-06-09T10:00:00.500Z",
            MessageAttributes={"EgressRegion": {"Type": "String", "Value": "eu-west-1"}},
        )
    )
    assert found == Notification("m1", '{"Data": "é"}'.encode(), 1780999200.5, TOPIC, "eu-west-1")


@pytest.mark.parametrize(
    ("attributes", "region"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ({"Other": {"Type": "String", "Value": "x"}}, None),
        ({"EgressRegion": {"Type": "String.Array", "Value": '["a","b"]'}}, '["a","b"]'),
        ({"EgressRegion": {"Type": "Binary", "Value": "ZXUtd2VzdC0x"}}, b""),
        ({"EgressRegion": {"Type": "String", "Value": 1}}, b""),
        ({"EgressRegion": "eu-west-1"}, None),
    ],
)
def test_the_attribute(attributes: object, region: str | bytes | None) -> None:
    assert notification(envelope("m", "x", topic=TOPIC, MessageAttributes=attributes)).egress_region == region


@pytest.mark.parametrize(
    "body",
    [
        '{"Data": "AQID", "Remote": {"IP": "203.0.113.42", "Port": 4567}}',
        '{"Type": "Notification", "Message": "no topic"}',
        '{"Type": "Notification", "TopicArn": "a", "Message": {"not": "text"}}',
        '{"Type": "Other", "TopicArn": "a", "Message": "b"}',
        "not JSON",
        "",
        "[]",
    ],
)
def test_what_is_no_envelope_is_a_body(body: str) -> None:
    assert notification(body) == Notification("sqs-id", body.encode(), 5.0)


@pytest.mark.parametrize("timestamp", ["", "yesterday", 5, None, "9999-12-31T23:59:59Z" * 2])
def test_a_strange_timestamp_is_replaced_by_the_queues(timestamp: object) -> None:
    assert notification(envelope("m", "x", topic=TOPIC, Timestamp=timestamp)).published_at == 5.0


def test_questions_of_sns() -> None:
    asked = {"Type": "SubscriptionConfirmation", "TopicArn": TOPIC, "Message": "m", "Token": "t"}
    assert read(json.dumps(asked), "id", None) == Confirmation(TOPIC, "t")
    asked["Type"] = "UnsubscribeConfirmation"
    assert read(json.dumps(asked), "id", None) == Confirmation(TOPIC, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = ("Type", "TopicArn", "Message", "MessageId", "Timestamp", "MessageAttributes", "Token")


@given(
    st.text() | st.dictionaries(st.sampled_from(keys), json_values | st.just("Notification")).map(json.dumps)
)
def test_nothing_that_is_in_a_queue_raises(body: str) -> None:
    read(body, "id", None)


class Memory:
    def __init__(self, directory: Path, limit: int = 10) -> None:
        self.sink = MemorySink()
        self.journal = Journal(directory / "messages", seconds=1000, limit=1000)
        self.ended = Ended(self.journal, EventLog(self.sink), limit=limit)
        self.ended.recall()


def test_what_has_ended_is_known_also_by_the_next_start(tmp_path: Path) -> None:
    one = Memory(tmp_path)
    one.ended.add([("replies", "m1"), ("replies", "m2")])
    for memory in (one, Memory(tmp_path)):
        assert memory.ended.has("replies", "m1")
        assert not memory.ended.has("other", "m1")
        assert not memory.ended.has("replies", "m3")


def test_what_was_not_confirmed_is_never_forgotten_and_the_rest_is_bounded(tmp_path: Path) -> None:
    ended = Memory(tmp_path).ended
    ended.add([("s", "unconfirmed")])
    for number in range(100):
        ended.add([("s", f"{number}")])
        ended.deleted([("s", f"{number}")])
    assert ended.has("s", "unconfirmed")
    known = [number for number in range(100) if ended.has("s", f"{number}")]
    assert known == list(range(90, 100))


async def test_a_gateway_remembers_what_the_guide_promises(tmp_path: Path) -> None:
    config = GatewayConfig(region="us-east-1", state=str(tmp_path / "state.db"))
    setting = SnsSetting(config, None, None, EventLog(MemorySink()))  # type: ignore[arg-type]
    keys = [("replies", f"m{number}") for number in range(200_000)]
    for start in range(0, len(keys), 1_000):
        setting.ended.add(keys[start : start + 1_000])
        setting.ended.deleted(keys[start : start + 1_000])
    assert all(setting.ended.has(*key) for key in keys)
    await setting.close()


def test_a_disk_that_cannot_be_written_is_an_event_and_stops_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    (tmp_path / "messages").mkdir()
    memory.ended.add([("s", "m1")])
    assert memory.ended.has("s", "m1")
    (event,) = memory.sink.named("JournalFailed")
    assert "messages" in str(event["Detail"])
