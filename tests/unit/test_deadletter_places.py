"""Dead letters while PacketSources come and go: queues are shared, and none is closed under somebody who uses it."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from test_deadletter_file import indices
from test_deadletters import ARN, Sqs, message

from sluicegate.aws import AwsError
from sluicegate.deadletters.letter import DeadLetterPlace
from sluicegate.deadletters.places import DeadLetterPlaces
from sluicegate.deadletters.queue import DeadLetterQueue
from sluicegate.events import EventLog, MemorySink

OTHER = f"{ARN}-other"


class Rig:
    def __init__(self) -> None:
        self.sqs = Sqs()
        self.sink = MemorySink()
        self.places = DeadLetterPlaces(self.sqs, EventLog(self.sink))  # type: ignore[arg-type]

    def change(self, **wanted: str | None) -> None:
        """As a change does it: find everything, then switch."""
        found = {name: self.places.find(arn, Path()) for name, arn in wanted.items()}
        for name, place in found.items():
            self.places.use(name, place)
        self.places.tidy()

    def of(self, source: str) -> DeadLetterPlace:
        return self.places.by_source[source]

    @property
    def names(self) -> list[str]:
        return [place.name for place in self.places.used]


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    yield made
    await made.places.close(0.0)


async def test_a_queue_is_shared_and_goes_after_the_last_one(rig: Rig) -> None:
    rig.change(a=ARN, b=ARN)
    assert rig.of("a") is rig.of("b")
    rig.change(a=OTHER)
    assert rig.names == [ARN, OTHER]
    rig.of("b").append([message(1)], settles=False)
    rig.change(b=None)
    assert rig.names == [OTHER]
    assert "b" not in rig.places.by_source
    await rig.places.close(10)
    assert rig.sqs.indices == [1], "what it had was sent"
    assert rig.sink.named("DeadLetterFailed") == []


async def test_a_change_that_was_refused_begins_nothing(rig: Rig) -> None:
    assert isinstance(rig.places.find(ARN, Path()), DeadLetterQueue)
    await asyncio.sleep(0.01)
    assert rig.names == []
    assert rig.sqs.calls == []


async def test_one_that_is_wanted_again_while_it_ends_is_opened_anew(rig: Rig) -> None:
    rig.sqs.broken = AwsError("sqs", "SendMessageBatch", "NoAnswer", "away")
    rig.change(a=ARN)
    rig.of("a").append([message(1)], settles=False)
    before = rig.of("a")
    again = rig.places.find(ARN, Path())  # a change has begun, and another one ends meanwhile
    rig.change(a=None)
    rig.places.use("b", again)
    rig.places.tidy()
    assert rig.of("b") is not before
    rig.of("b").append([message(2)], settles=False)
    rig.sqs.broken = None
    await rig.of("b").settle()
    await rig.places.close(10)
    assert sorted(rig.sqs.indices) == [1, 2]


async def test_what_is_left_at_a_stop_is_reported_once(rig: Rig) -> None:
    rig.sqs.broken = AwsError("sqs", "SendMessageBatch", "NoAnswer", "away")
    rig.change(a=ARN, b=OTHER)
    rig.of("a").append([message(1)], settles=False)
    rig.of("b").append([message(2)], settles=False)
    rig.change(a=None)
    await rig.places.close(0.0)
    await rig.places.close(0.0)
    told = [event for event in rig.sink.named("DeadLetterFailed") if event["Reason"] == "Shutdown"]
    assert [event["Letters"] for event in told] == [1, 1]
    for arn in (ARN, OTHER):
        assert len([event for event in told if f" in {arn}:" in str(event["Detail"])]) == 1


async def test_a_file_that_cannot_be_written_is_found_before_the_switch(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory") as caught:
        rig.places.find("file:missing/dead.ndjson", tmp_path)
    assert caught.value.filename == str(tmp_path / "missing" / "dead.ndjson")
    rig.change(a=f"file:{tmp_path / 'dead.ndjson'}")
    rig.of("a").append([message(1)], settles=False)
    await rig.of("a").settle()
    assert (tmp_path / "dead.ndjson").read_bytes().count(b"\n") == 1


async def test_a_file_is_shared_and_what_waits_for_it_is_written_at_the_end(rig: Rig, tmp_path: Path) -> None:
    dead = tmp_path / "dead.ndjson"
    rig.change(a=f"file:{dead}", b=f"file:{dead}")
    assert rig.of("a") is rig.of("b")
    rig.of("a").append([message(*range(5_000))], settles=False)
    await rig.places.close(10)
    assert len(indices(dead)) == 5_000


@pytest.mark.attack
@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
async def test_what_is_no_file_is_refused_before_the_switch(rig: Rig, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/full")
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(OSError, match="not a regular file but a"):
        rig.places.find(f"file:{path}", tmp_path)
