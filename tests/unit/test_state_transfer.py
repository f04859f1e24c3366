"""A state as JSON, and back."""

import json
from pathlib import Path

import pytest

from sluicegate.state import SourceQueue, State, StateError
from sluicegate.state.transfer import export, restore

QUEUE = SourceQueue(
    "arn:aws:sqs:us-east-1:123456789012:sluicegate-replies-0123456789ab-2",
    "replies",
    "arn:aws:sns:us-east-1:123456789012:replies",
    None,
    2,
    "https://sqs.us-east-1.amazonaws.com/123456789012/sluicegate-replies-0123456789ab-2",
    "{}",
)


def test_what_was_made_on_aws_moves_along(tmp_path: Path) -> None:
    """Otherwise the queue of a PacketSource that goes would stay on AWS for good."""
    with State.open(tmp_path / "old.db") as old:
        old.keep_source_queue(QUEUE)
        old.keep_source_documents({"replies": '{"Document": {"Name": "replies"}}'})
        old.assign_port("decoder", 2048)
    document = json.loads(json.dumps(export(tmp_path / "old.db", secrets=False)))
    with State.open(tmp_path / "new.db") as new:
        lines = restore(new, document)
        assert new.source_queues() == [QUEUE]
        assert new.source_documents() == {"replies": '{"Document": {"Name": "replies"}}'}
        assert new.assigned_port("decoder") == 2048
    assert f"queue {QUEUE.arn}" in lines


def test_a_damaged_queue_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with State.open(tmp_path / "state.db") as state:
        state.assign_port("decoder", 2048)
    document = export(tmp_path / "state.db", secrets=False) | {"SourceQueues": [{"arn": "x"}]}
    with State.open(tmp_path / "new.db") as new:
        with pytest.raises(StateError, match="the export is damaged"):
            restore(new, document)
        assert new.assigned_port("decoder") is None
