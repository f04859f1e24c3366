"""What waits in the state: kept before anybody is told, sent when due, forgotten when it has ended."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson
import pytest
from fake_port import FakeCompletion, FakePort

from sluicegate.deadletters.failures import Failure
from sluicegate.egress.egress import Egress
from sluicegate.egress.message import EgressFull, Message, Outcome
from sluicegate.egress.waiting import UNDER_WAY, Waiting
from sluicegate.events import EventLog, MemorySink
from sluicegate.sources.local.topics import Binding, Throttled, Topics
from sluicegate.state import State, StateError
from sluicegate.state.waiting import WaitingRow, WaitingTable
from sluicegate.testing import MemorySender
from waiting import until

NOW = 1_780_000_000.0


class Sender:
    """Takes what is due, until it is told that it has ended."""

    def __init__(self) -> None:
        self.taken: list[tuple[Message, Callable[[Outcome], None] | None, Callable[[], object] | None]] = []
        self.later: list[Message] = []
        self.room = 10_000
        self.congested = False
        self.is_settled = True
        self.written = asyncio.Event()

    def try_submit(
        self,
        messages: Sequence[Message],
        ended: Callable[[Outcome], None] | None = None,
        gone: Callable[[], object] | None = None,
    ) -> int:
        if len(self.taken) >= self.room:
            return 0
        self.taken += [(message, ended, gone) for message in messages]
        return len(messages)

    def submit_later(self, message: Message) -> None:
        self.later.append(message)

    def settled(self, source: int) -> bool:
        return self.is_settled

    async def settle(self, source: int) -> None:
        await self.written.wait()

    def end(self, *failures: Failure) -> None:
        message, ended, _ = self.taken.pop(0)
        assert ended is not None
        ended(Outcome(message.message_id, 1, 1 - len(failures), 0, list(failures)))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[WaitingTable]:
    with State.open(tmp_path / "state.db") as state:
        yield WaitingTable(state)


def row(number: int = 0, source: str = "replies", at: float = NOW - 1) -> WaitingRow:
    body = orjson.dumps({"Data": "", "Id": str(number)})
    return WaitingRow(source, f"m{number}", body, int(at * 1e3), number, 1, [str(number)])


class Rig:
    def __init__(self, table: WaitingTable) -> None:
        self.sink = MemorySink()
        self.now = NOW
        self.table = table
        self.left = 0
        events = EventLog(self.sink, node=1, region="us-east-1")
        self.waiting = Waiting(table, events, self._leave, clock=lambda: self.now)
        self.senders: dict[str, Sender] = {}

    def _leave(self, count: int) -> None:
        self.left += count

    def start(self, *names: str) -> Sender:
        self.senders |= {name: Sender() for name in names}
        found = lambda name: (self.senders[name], 0, "Active") if name in self.senders else None  # noqa: E731
        self.waiting.start(found, lambda: list(self.senders))
        return self.senders[names[0]]


async def test_nobody_is_told_before_it_is_on_the_disk_and_one_write_is_for_all(table: WaitingTable) -> None:
    rig, told, writes = Rig(table), list[Sequence[int]](), 0
    write = table.write

    def counted(add: Sequence[WaitingRow], remove: Sequence[int]) -> list[int]:
        nonlocal writes
        writes += 1
        assert len(told) == (0 if writes == 1 else 1)
        return write(add, remove)

    table.write = counted  # type: ignore[method-assign, assignment]
    rig.waiting.keep([row(0)], told.append)
    await until(lambda: writes == 1)
    for number in range(1, 50):
        rig.waiting.keep([row(number), row(number)], told.append)
    await until(lambda: len(told) == 50)
    assert writes <= 3
    assert [len(numbers) for numbers in told] == [1] + [2] * 49
    assert len({number for numbers in told for number in numbers}) == 99
    assert table.count() == 99
    await rig.waiting.close()


async def test_a_state_that_cannot_be_written_is_told_and_tried_again(table: WaitingTable) -> None:
    rig, told, attempts = Rig(table), list[Sequence[int]](), 0
    write = table.write

    def failing(add: Sequence[WaitingRow], remove: Sequence[int]) -> list[int]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise StateError("the disk is full")
        return write(add, remove)

    table.write = failing  # type: ignore[method-assign, assignment]
    rig.waiting.keep([row()], told.append)
    await until(lambda: told != [])
    (event,) = [orjson.loads(line) for line in rig.sink.lines]
    assert (event["Event"], event["Reason"]) == ("ScheduleFailed", "WriteFailed")
    assert event["Detail"] == "the disk is full; 1 are not acknowledged until it can be written"
    attempts = 0
    rig.waiting.keep([], told.append, [told[0][0]])
    await until(lambda: len(told) == 2)
    event = orjson.loads(rig.sink.lines[-1])
    assert "1 that were sent or are cancelled are not forgotten until" in event["Detail"]
    await rig.waiting.close()


async def test_what_is_due_is_sent_once_and_forgotten_when_it_has_ended(table: WaitingTable) -> None:
    table.write([row(0), row(1, at=NOW + 60)], [])
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 1)
    message = sender.taken[0][0]
    assert message.due is not None
    assert (message.message_id, message.due.index, message.due.ids) == ("m0", 0, ("0",))
    assert message.published_at == NOW - 1
    sender.end()
    await until(lambda: table.count() == 1)
    rig.now += 61
    await until(lambda: len(sender.taken) == 1)
    assert sender.taken[0][0].message_id == "m1"
    await rig.waiting.close()
    assert table.count() == 1, "it has not ended: it comes again"


async def test_what_failed_is_kept_until_its_letters_are_written(table: WaitingTable) -> None:
    table.write([row()], [])
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 1)
    sender.is_settled = False
    sender.end(Failure(0, "Expired", "late"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert table.count() == 1
    sender.written.set()
    await until(lambda: table.count() == 0)
    await rig.waiting.close()


async def test_one_that_is_full_holds_up_no_other(table: WaitingTable) -> None:
    table.write(
        [row(number, "slow") for number in range(700)] + [row(number, "quick") for number in range(5)], []
    )
    rig = Rig(table)
    slow = rig.start("slow", "quick")
    slow.room = 3
    quick = rig.senders["quick"]
    await until(lambda: len(quick.taken) == 5)
    assert len(slow.taken) == 3
    slow.congested = True
    slow.end()
    await rig.waiting.close()


async def test_not_all_of_a_source_is_under_way_at_once(table: WaitingTable) -> None:
    table.write([row(number) for number in range(UNDER_WAY + 10)], [])
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == UNDER_WAY)
    first = sender.taken[0][0].message_id
    for _ in range(10):
        sender.end()
    await until(lambda: len(sender.taken) == UNDER_WAY)
    assert first not in {message.message_id for message, _, _ in sender.taken}
    await rig.waiting.close()


async def test_a_closed_listener_gives_back_what_was_under_way(table: WaitingTable) -> None:
    table.write([row()], [])
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 1)
    _, _, gone = sender.taken.pop()
    assert gone is not None
    gone()
    await until(lambda: len(sender.taken) == 1)
    await rig.waiting.close()


async def test_cancelled_entries_are_not_sent_and_those_under_way_are(table: WaitingTable) -> None:
    numbers = table.write([row(0), row(1, at=NOW + 60), row(2, "gone", at=NOW + 60)], [])
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 1)
    assert not await rig.waiting.cancel(numbers[0]), "it is being sent"
    assert await rig.waiting.cancel(numbers[1])
    assert not await rig.waiting.cancel(numbers[1])
    (message,) = sender.later
    assert message.refusal is not None
    assert message.refusal[0] == "Cancelled"
    assert message.due is not None
    assert message.due.ids == ("1",)
    assert await rig.waiting.cancel_all("gone", None) == 1
    (event,) = [orjson.loads(line) for line in rig.sink.lines]
    assert (event["Event"], event["Reason"], event["PacketSource"]) == ("SourceFailed", "Cancelled", "gone")
    assert rig.left == 1
    rig.now += 120
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(sender.taken) == 1
    await rig.waiting.close()


async def test_messages_of_before_the_start_are_sent_again_and_later_ones_as_they_are_kept(
    table: WaitingTable,
) -> None:
    (old,) = table.write(
        [WaitingRow("replies", "old", b"{}", published_at=NOW - 9, refusal=("WrongRegion", "x"))], []
    )
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 1)
    message = sender.taken[0][0]
    assert (message.message_id, message.published_at, message.refusal, message.due) == (
        "old",
        NOW - 9,
        ("WrongRegion", "x"),
        None,
    )
    (number,) = await rig.waiting.accept([WaitingRow("replies", "new", b"{}", published_at=NOW)])
    assert number > old
    assert [message.message_id for message, _, _ in sender.taken] == ["old", "new"], "at once"
    sender.end()
    sender.end()
    await until(lambda: table.last() == 0)
    assert sender.taken == []
    await rig.waiting.close()


def message_row(name: str) -> WaitingRow:
    return WaitingRow("replies", name, b"{}", published_at=NOW)


async def test_a_message_that_its_listener_left_unfinished_is_sent_by_the_next_one(
    table: WaitingTable,
) -> None:
    table.write([message_row("old")], [])
    rig = Rig(table)
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 1)
    await rig.waiting.accept([message_row("new"), message_row("newer")])
    for _ in range(2):
        taken, sender.taken = sender.taken, []
        assert [message.message_id for message, _, _ in taken] == ["old", "new", "newer"]
        for _, _, gone in taken:
            assert gone is not None
            gone()
        await until(lambda: len(sender.taken) == 3)
    for _ in range(3):
        sender.end()
    await until(lambda: table.last() == 0)
    await rig.waiting.close()


async def test_a_message_for_which_there_is_no_room_is_acknowledged_and_sent_once_there_is(
    table: WaitingTable,
) -> None:
    rig = Rig(table)
    sender = rig.start("replies")
    sender.room = 0
    await rig.waiting.accept([message_row("m1"), WaitingRow("elsewhere", "m2", b"{}")])
    await asyncio.sleep(0)
    assert sender.taken == []
    sender.room = 10
    await until(lambda: len(sender.taken) == 1)
    sender.end()
    await until(lambda: table.messages(["replies"], 0, 9, [], 9) == [])
    assert [row.message_id for row in table.messages(["elsewhere"], 0, 9, [], 9)] == ["m2"]
    later = rig.start("elsewhere", "replies")
    await until(lambda: len(later.taken) == 1)
    await rig.waiting.close()


async def test_while_much_waits_for_the_disk_no_more_is_taken(
    table: WaitingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluicegate.egress.waiting.UNWRITTEN_BYTES", 100)
    rig, told, full = Rig(table), list[Sequence[int]](), True
    write = table.write

    def failing(add: Sequence[WaitingRow], remove: Sequence[int]) -> list[int]:
        if full:
            raise StateError("the disk is full")
        return write(add, remove)

    table.write = failing  # type: ignore[method-assign, assignment]
    topics, sender = Topics("us-east-1"), MemorySender()
    arn = topics.create("replies")
    topics.bind(arn, Binding("replies", 0, sender))
    topics.keep_in(rig.waiting, every=True)
    port, events = FakePort(), EventLog(MemorySink(), node=1, region="us-east-1")
    egress = Egress(port, "decoder", ["replies"], [], events, keeper=rig.waiting)
    egress.start(asyncio.get_running_loop())
    rig.waiting.keep([WaitingRow("replies", "m1", b"x" * 60)], told.append)
    assert not egress.full
    await until(lambda: rig.sink.lines != [])
    rig.waiting.keep([WaitingRow("replies", "m2", b"x" * 60)], told.append)
    with pytest.raises(Throttled):
        await topics.publish_kept(arn, "m3", b"{}", {}, NOW)
    assert egress.full
    with pytest.raises(EgressFull, match="disk"):
        await egress.send(Message("m4", 0, b"{}"), room_seconds=5.0)
    full = False
    await until(lambda: len(told) == 2)
    assert not egress.full
    egress.close()
    port.close()
    await rig.waiting.close()


async def test_an_egress_tells_nobody_of_a_message_before_its_entries_of_later_are_kept() -> None:
    port, kept = FakePort(), list[tuple[Sequence[WaitingRow], Callable[[Sequence[int]], None]]]()

    class Keeper:
        full = False

        def keep(self, rows: Sequence[WaitingRow], done: Callable[[Sequence[int]], None]) -> None:
            kept.append((rows, done))

    events = EventLog(MemorySink(), node=1, region="us-east-1")
    egress = Egress(port, "decoder", ["replies"], [], events, keeper=Keeper())
    egress.start(asyncio.get_running_loop())
    remotes = [{"IP": "198.51.100.7", "Port": 1}, None, {"IP": "198.51.100.8", "Port": 1}]
    body = orjson.dumps({"Messages": [{"Data": ""}, {"Data": "", "Remotes": remotes}], "SendAt": NOW})
    first = asyncio.create_task(egress.send(Message("m1", 0, body)))
    again = asyncio.create_task(egress.send(Message("m1", 0, body)))
    await until(lambda: len(port.ring) == 2)
    ended = FakeCompletion("m1", 0, None, 3, 0, 0, [(1, "MalformedRemote", "null")], [1])
    ended.scheduled = [(0, None, int(NOW * 1e3), "a"), (1, 2, int(NOW * 1e3), None)]
    port.finish(ended)
    port.finish(FakeCompletion("m1", 0, None, 3, 0, 3))
    await until(lambda: len(kept) == 2)
    assert egress.in_flight == 2
    assert not await egress.drain(0.0)
    rows = kept[0][0]
    assert [(one.index, one.entries, list(one.ids)) for one in rows] == [(0, 1, ["a"]), (1, 1, [])]
    assert orjson.loads(rows[0].body) == {"Data": "", "SendAt": NOW}
    assert orjson.loads(rows[1].body)["Remotes"] == [None, None, remotes[2]]
    assert not first.done()
    kept[0][1]([1, 2])
    outcome = await first
    assert (outcome.entries, outcome.scheduled, len(outcome.failures)) == (3, 2, 1)
    assert not again.done(), "what it repeats was not kept before"
    kept[1][1]([])
    assert (await again).duplicates == 3
    assert await egress.drain(0.0)
    egress.close()
    port.close()


async def test_what_fell_due_before_the_start_is_overdue_and_later_ones_only_after_a_second(
    table: WaitingTable,
) -> None:
    rig = Rig(table)
    rig.waiting.keep([row(0, at=NOW - 0.1), row(1, at=NOW + 0.1), row(2, at=NOW + 2)])
    await until(lambda: table.count() == 3)
    rig.now = NOW + 2.5
    sender = rig.start("replies")
    await until(lambda: len(sender.taken) == 3)
    overdue = [message.due.overdue for message, _, _ in sender.taken if message.due is not None]
    assert overdue == [True, True, False]
    await rig.waiting.close()
