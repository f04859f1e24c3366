"""When a queue counts as empty for good: 60 s with all three counts at 0 (contract section 4.2)."""

from types import SimpleNamespace
from typing import cast

import pytest
from fake_aws import ACCOUNT, FakeAws

from sluicegate.aws import Aws
from sluicegate.sources.topic import quiet
from sluicegate.state import SourceQueue

COUNTS = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
QUEUE = SourceQueue(
    arn=f"arn:aws:sqs:us-east-1:{ACCOUNT}:q",
    source="replies",
    topic_arn=f"arn:aws:sns:us-east-1:{ACCOUNT}:t",
    role=None,
    generation=1,
    url="https://sqs/q",
)


@pytest.mark.parametrize("one", COUNTS)
async def test_each_count_begins_the_sixty_seconds_anew(one: str, monkeypatch: pytest.MonkeyPatch) -> None:
    aws, clock = FakeAws(), SimpleNamespace(now=1000.0)
    monkeypatch.setattr(quiet, "time", SimpleNamespace(monotonic=lambda: clock.now))
    watched = quiet.Quiet(cast(Aws, aws), QUEUE)

    async def lasts(seconds: float, count: str = "0") -> bool:
        clock.now += seconds
        aws.queues["q"] = {one: count}
        return await watched.lasts(since=0.0)

    assert not await lasts(0)
    assert not await lasts(59.9)
    assert not await lasts(0.1, count="1")
    assert not await lasts(0)
    assert not await lasts(59.9)
    assert await lasts(0.1)
