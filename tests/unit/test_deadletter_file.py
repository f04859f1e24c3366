"""Dead letters in a file: what waits for a disk or a lock, what is written, what a rotation takes."""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from test_deadletters import message

from sluicegate.backoff import Backoff
from sluicegate.cli.replay.letters import parse
from sluicegate.deadletters.failures import Failures
from sluicegate.deadletters.file import DeadLetterFile
from sluicegate.deadletters.letter import ALONE_BYTES, FailedMessage, NotKept
from sluicegate.egress.ledger import Ledger
from sluicegate.events import EventLog, MemorySink
from sluicegate.linefile import Rotation
from sluicegate.state.journal import Journal
from waiting import until


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def indices(path: Path) -> list[int]:
    """The entries that the letters are for."""
    return [index for line in lines(path) for index in line.get("Indexes", [line.get("Index")])]


class Rig:
    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.sink = MemorySink()
        self.file = DeadLetterFile(path, EventLog(self.sink), backoff=Backoff(0.001, 0.01), **options)
        self.file.start()

    def append(self, *numbers: int, settles: bool = True) -> list[FailedMessage]:
        """Each of a message of its own."""
        messages = [message(number) for number in numbers]
        self.file.append(messages, settles=settles)
        return messages

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.sink.named("DeadLetterFailed")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "folder" / "dead.ndjson")
    yield made
    await made.file.close(0)


async def test_what_was_appended_is_there_when_settle_returns(rig: Rig) -> None:
    rig.path.parent.mkdir()
    rig.file.append([message(*range(20_000)), message(3)], settles=True)
    assert not rig.file.settled
    await rig.file.settle()
    assert indices(rig.path) == [*range(20_000), 3]
    assert (rig.file.stats.kept, rig.file.stats.waiting) == (20_001, 0)
    assert rig.path.stat().st_mode & 0o777 == 0o600


async def test_letters_wait_until_the_disk_takes_them_and_nobody_is_settled_before(rig: Rig) -> None:
    rig.append(*range(50))
    rig.append(50, settles=False)
    settling = asyncio.create_task(rig.file.settle())
    await until(lambda: rig.events)
    (event,) = rig.events
    assert (event["Reason"], event["Letters"], event["PacketSource"]) == ("WriteFailed", 51, "replies")
    assert f"{rig.path} and wait: {os.strerror(2)}" in event["Detail"]
    assert not settling.done()
    rig.path.parent.mkdir()
    await settling
    assert indices(rig.path) == list(range(51))
    assert len(rig.events) == 1


async def test_a_disk_that_fills_up_in_the_middle_repeats_and_loses_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.path.parent.mkdir()
    write, free = os.write, 30_000

    def limited(fd: int, data: bytes) -> int:
        nonlocal free
        if os.fstat(fd).st_ino != rig.path.stat().st_ino:
            return write(fd, data)
        if not free:
            raise OSError(28, os.strerror(28))
        written = write(fd, data[:free])
        free -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    for number in range(200):
        rig.append(number)
    await until(lambda: rig.events)
    assert os.strerror(28) in rig.events[0]["Detail"]
    free = 10_000_000
    await rig.file.settle()
    assert indices(rig.path) == list(range(200))


async def test_beyond_the_bound_only_letters_are_lost_that_nobody_waits_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "folder" / "dead.ndjson", limit_bytes=20_000)
    kept = rig.append(*range(10), settles=False)
    lost = rig.append(*range(1_000), settles=False)
    assert not any(one.failures.lost for one in kept)
    assert lost[-1].failures.lost
    assert rig.file.stats.lost == sum(one.failures.lost for one in lost)
    rig.append(*range(1_000))
    assert rig.file.congested
    rig.path.parent.mkdir()
    await rig.file.settle()
    assert len(indices(rig.path)) == 10 + 1_000 + sum(not one.failures.lost for one in lost)
    await rig.file.close(0)


async def test_a_stop_tells_what_could_not_be_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "folder" / "dead.ndjson")
    rig.append(0, 1, settles=False)
    rig.append(2)
    settling = asyncio.create_task(rig.file.settle())
    await asyncio.sleep(0)
    await rig.file.close(0)
    with pytest.raises(NotKept):
        await settling
    (event,) = [event for event in rig.events if event["Reason"] == "Shutdown"]
    assert "2 are lost, 1 come again" in event["Detail"]


@pytest.mark.attack
async def test_whoever_holds_the_lock_holds_up_no_loop(rig: Rig) -> None:
    rig.path.parent.mkdir()
    ledger = Ledger(Journal.__new__(Journal), {"replies": rig.file}, EventLog(rig.sink))
    with rig.path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ledger.failed([message(0)], settles=True)
        settling = asyncio.create_task(ledger.settle("replies"))
        await until(lambda: rig.events)  # the loop turns meanwhile
        assert "another program holds its lock" in rig.events[0]["Detail"]
        assert rig.path.read_bytes() == b""
        assert not settling.done()
    await settling
    assert indices(rig.path) == [0]


@pytest.mark.attack
async def test_a_file_that_becomes_a_pipe_holds_up_no_loop(rig: Rig) -> None:
    rig.path.parent.mkdir()
    os.mkfifo(rig.path)
    rig.append(0)
    await until(lambda: rig.events)
    assert "not a regular file" in rig.events[0]["Detail"]
    rig.path.unlink()
    await rig.file.settle()
    assert indices(rig.path) == [0]


async def test_rotated_files_hold_everything_until_one_is_deleted_which_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "dead.ndjson", rotation=Rotation(2_000, 2))
    written: list[int] = []

    async def write(count: int) -> None:
        for _ in range(count):
            rig.append(len(written))
            await rig.file.settle()
            written.append(len(written))

    files = [rig.path.with_name(name) for name in ("dead.ndjson.2", "dead.ndjson.1", "dead.ndjson")]
    while not files[0].exists():
        await write(1)
    assert [index for file in files for index in indices(file)] == written
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert not rig.events
    await write(2 * len(indices(files[0])))
    left = [index for file in files for index in indices(file)]
    assert left == written[-len(left) :]
    assert {event["Reason"] for event in rig.events} == {"Rotated"}
    assert sum(event["Letters"] for event in rig.events) == len(written) - len(left) == rig.file.stats.lost
    await rig.file.close(0)


# How much


@pytest.mark.attack
@pytest.mark.parametrize(
    ("entry", "detail"),
    [
        ("1", "the entry is not a JSON object"),
        ('{"Tag":"x"}', "not a Tag of this gateway"),
        ('{"Data":"","Remote":{"IP":"10.0.0.1","Port":1}}', "10.0.0.1 is not in any egress network " * 8),
    ],
)
def test_letters_of_one_message_are_hardly_longer_than_it(entry: str, detail: str) -> None:
    count = 9_000
    body = ('{"Messages":[' + ",".join([entry] * count) + "]}").encode()
    failures = Failures([(index, "RemoteDenied", detail) for index in range(count)])
    failed = FailedMessage("replies", "decoder", "m1", "2026-06-09T10:00:00.123Z", body, failures)
    lines = list(failed.lines())
    letters = [line.data for line in lines]
    assert sum(map(len, letters)) < 10 * len(body) + ALONE_BYTES
    assert sum(line.entries for line in lines) == count
    documents = [json.loads(letter) for letter in letters]
    found = [index for one in documents for index in one.get("Indexes", [one.get("Index")])]
    assert found == list(range(count))
    entries = [each for one in documents for each in one.get("Entries", [one.get("Entry")])]
    assert entries == [json.loads(entry)] * count
    assert {one["Reason"] for one in documents} == {"RemoteDenied"}
    assert all(len(letter) < 100_000 for letter in letters)
    replayed = [parse(letter) for letter in letters]
    if entry != "1":
        assert [each for one in replayed for each in one.entries or ()] == entries


def test_entries_that_fail_for_several_reasons_keep_their_own() -> None:
    body = json.dumps({"Messages": [{"Data": str(index)} for index in range(3_000)]}).encode()
    reasons = ["Expired", "RemoteDenied", "MalformedData"]
    failures = Failures([(index, reasons[index % 3], "why") for index in range(3_000)])
    failed = FailedMessage("replies", "decoder", "m1", "2026-06-09T10:00:00.123Z", body, failures)
    seen = {}
    for line in failed.lines():
        one = json.loads(line.data)
        each = zip(
            one.get("Indexes", [one.get("Index")]), one.get("Entries", [one.get("Entry")]), strict=True
        )
        seen |= {index: (one["Reason"], entry["Data"]) for index, entry in each}
    assert seen == {index: (reasons[index % 3], str(index)) for index in range(3_000)}


def test_letters_of_usual_messages_are_one_for_each_entry() -> None:
    remote = {"Address": "198.51.100.7", "Port": 40001}
    body = json.dumps({"Messages": [{"Data": "AQID", "Remote": remote}] * 1_000}).encode()
    detail = "at the source's RateLimit it would wait longer than its TTL or HoldSeconds"
    failures = Failures([(index, "RateLimited", detail) for index in range(1_000)])
    failed = FailedMessage("replies", "decoder", str(uuid4()), "2026-06-09T10:00:00.123Z", body, failures)
    assert [line.data for line in failed.lines()] == [letter.line() for letter in failed.letters()]


def test_a_shared_letter_goes_back_with_the_entries_that_failed_again() -> None:
    body = json.dumps({"Messages": [{"Data": str(index)} for index in range(3_000)]}).encode()
    failures = Failures([(index, "Expired", "why") for index in range(3_000)])
    failed = FailedMessage("replies", "decoder", "m1", "2026-06-09T10:00:00.123Z", body, failures)
    first, *_, shared = [parse(line.data) for line in failed.lines()]
    assert len(shared.entries or ()) > 7
    back = parse(shared.only([0, 7]))
    assert back.entries == [(shared.entries or [])[0], (shared.entries or [])[7]]
    indexes = json.loads(shared.raw)["Indexes"]
    assert json.loads(back.raw)["Indexes"] == [indexes[0], indexes[7]]
    assert first.only([0]) == first.raw
