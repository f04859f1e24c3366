"""Which messages of the queue are requests of CloudFormation."""

import json

import pytest

from sluicegate.cfn.consumer import parse_request
from sluicegate.cfn.provider import ANSWER_LIMIT, encoded, failed

REQUEST = {
    "RequestType": "Create",
    "RequestId": "f8b1",
    "StackId": "arn:aws:cloudformation:eu-west-1:111122223333:stack/demo/6b0f",
    "LogicalResourceId": "Entry",
    "ResourceType": "Custom::SluicegateListener",
}


def test_a_request_by_itself_and_in_an_envelope_of_sns() -> None:
    assert parse_request(json.dumps(REQUEST)) == REQUEST
    assert parse_request(json.dumps({"Type": "Notification", "Message": json.dumps(REQUEST)})) == REQUEST
    for other in ("", "[]", "{}", "[" * 10_000, json.dumps({**REQUEST, "StackId": 1})):
        assert parse_request(other) is None


@pytest.mark.attack
@pytest.mark.parametrize("key", ["RequestId", "StackId", "LogicalResourceId", "PhysicalResourceId"])
@pytest.mark.parametrize("character", ["x", "é", "\U0001f6b0"])
def test_ids_that_no_answer_could_repeat_are_no_request(key: str, character: str) -> None:
    """Of CloudFormation's own, the longest are answered."""
    assert parse_request(json.dumps({**REQUEST, key: character * 4000})) is None
    longest = {**REQUEST, "PhysicalResourceId": "p" * 1024, "LogicalResourceId": "L" * 255}
    event = parse_request(json.dumps(longest))
    assert event is not None
    answer = failed({name: event[name] for name in longest}, character * 5000)
    assert len(encoded(answer)) < ANSWER_LIMIT
    assert len(answer["Reason"]) > 100
