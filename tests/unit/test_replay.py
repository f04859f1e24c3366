"""What a replay makes of what it finds: dead letters of the gateway, and what SNS could not deliver."""

import json
from typing import Any

import pytest

from sluicegate.cli.replay.letters import Choice, parse
from sluicegate.cli.replay.queue import read

TOPIC = "arn:aws:sns:us-east-1:123456789012:replies"
SOURCES = [{"Name": "replies", "ListenerName": "decoder", "SnsTopicSource": {"TopicArn": TOPIC}}]
ENTRY = {"Data": "AA==", "Remote": {"Address": "198.51.100.7", "Port": 1}}


def undelivered(message: object, **attribute: Any) -> str:
    attributes = {"MessageAttributes": {"EgressRegion": attribute}} if attribute else {}
    return json.dumps(
        {"Type": "Notification", "TopicArn": TOPIC, "Message": json.dumps(message), **attributes}
    )


@pytest.mark.parametrize(
    ("attribute", "disposition"),
    [
        ({}, "Replayed"),
        ({"Type": "String", "Value": "us-east-1"}, "Replayed"),
        ({"Type": "String", "Value": "eu-west-1"}, "OtherRegion"),
        ({"Type": "String.Array", "Value": '["eu-west-1","us-east-1"]'}, "Replayed"),
        ({"Type": "String.Array", "Value": '["eu-west-1"]'}, "OtherRegion"),
        ({"Type": "Binary", "Value": "us-east-1"}, "OtherRegion"),
    ],
)
def test_a_message_is_for_the_regions_that_the_gateway_would_send_it_in(
    attribute: dict[str, str], disposition: str
) -> None:
    letter = read(undelivered(ENTRY, **attribute), "arn:queue", SOURCES, Choice())
    assert Choice().disposition(letter, "us-east-1") == disposition


def test_an_entry_that_no_request_can_hold_is_left_for_a_person() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    text = json.dumps(ENTRY | {"X": deep})
    letter = {"PacketSource": "replies", "Reason": "MalformedData", "Entry": text}
    assert Choice().disposition(parse(json.dumps(letter).encode())) == "Unusable"
    letter["Entry"] = json.dumps(ENTRY)
    assert parse(json.dumps(letter).encode()).entries == [ENTRY]
