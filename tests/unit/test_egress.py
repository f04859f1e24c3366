"""Egress over a twin of the native port: order, room, outcomes, events, and what is left at the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
from fake_port import FailureTuple, FakePort

from sluicegate.deadletters.failures import Failure, Failures
from sluicegate.deadletters.letter import DeadLetter, FailedMessage
from sluicegate.egress import egress as egress_module
from sluicegate.egress.egress import Egress
from sluicegate.egress.message import EgressClosed, EgressFull, EgressLedger, Message, Outcome
from sluicegate.events import EventLog, MemorySink
from waiting import until

BODY = (
    b'{"Messages":[{"Data":"AQID","Remote":{"Address":"198.51.100.7","Port":40001},"Id":"a"},{"Tag":"t1"}]}'
)


class Rig:
    def __init__(
        self, room: int = 1000, *, announce: bool = True, record: EgressLedger | None = None
    ) -> None:
        self.port = FakePort(room, announce=announce)
        self.sink = MemorySink()
        events = EventLog(self.sink)
        self.egress = Egress(self.port, "decoder", ["replies", "other"], ["echo"], events, record)
        self.egress.start(asyncio.get_running_loop())


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.egress.close()
    made.port.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_send_returns_the_outcome_once_every_entry_has_ended(rig: Rig) -> None:
    sending = asyncio.create_task(rig.egress.send(Message("m1", 0, BODY)))
    await turns()
    assert not sending.done()
    rig.port.end((1, "InvalidTag", "altered"), entries=3, duplicates=1)
    assert await sending == Outcome("m1", 3, 1, 1, [Failure(1, "InvalidTag", "altered")])
    assert rig.egress.in_flight == 0


async def test_messages_of_one_hand_over_end_one_by_one() -> None:
    rig = Rig(room=3)
    ended: list[Outcome] = []
    messages = [Message(f"m{number}", 0, BODY) for number in range(4)]
    assert rig.egress.try_submit(messages, ended.append) == 3
    assert rig.egress.try_submit(messages[3:], ended.append) == 0
    rig.port.end(entries=2)
    rig.port.end((1, "InvalidTag", "altered"), entries=2)
    await until(lambda: len(ended) == 2)
    assert ended == [
        Outcome("m0", 2, 2, 0, []),
        Outcome("m1", 2, 1, 0, [Failure(1, "InvalidTag", "altered")]),
    ]
    rig.egress.close()
    assert len(ended) == 2
    assert [event["MessageId"] for event in rig.sink.named("SourceFailed")] == ["m1", "m2"]
    rig.port.close()


async def test_each_failed_entry_is_one_event_that_names_it(rig: Rig) -> None:
    assert rig.egress.try_submit([Message("m1", 0, BODY)]) == 1
    rig.port.end((0, "RemoteDenied", "not listed"), (1, "InvalidTag", "altered"), entries=2)
    assert await rig.egress.drain(5)
    first, second = rig.sink.named("SourceFailed")
    assert {**first, "Time": ""} == {
        "Time": "",
        "Event": "SourceFailed",
        "Listener": "decoder",
        "PacketSource": "replies",
        "MessageId": "m1",
        "Index": 0,
        "Id": "a",
        "Remote": {"Address": "198.51.100.7", "Port": 40001},
        "Bytes": 3,
        "Reason": "RemoteDenied",
        "Detail": "not listed",
    }
    assert (second["Index"], second["Tag"], second["Reason"]) == (1, "t1", "InvalidTag")


async def test_a_failed_reply_names_its_destination(rig: Rig) -> None:
    await rig.egress.reply(0, "r1", b'{"Replies":[{"Tag":"t9","Data":"AA=="}]}')
    rig.port.end((0, "InvalidTag", "expired"))
    assert await rig.egress.drain(5)
    (event,) = rig.sink.named("ReplyFailed")
    assert (event["Destination"], event["Tag"], event["Bytes"]) == ("echo", "t9", 1)
    assert "PacketSource" not in event


async def test_hostile_bodies_and_indexes_still_make_events(rig: Rig) -> None:
    rig.egress.try_submit([Message("m1", 0, b"\xff{"), Message("m2", 7, b'{"Messages":{"0":1}}')])
    rig.port.end((None, "MalformedMessage", "not JSON"))
    rig.port.end((99, "MalformedMessage", "odd"))
    assert await rig.egress.drain(5)
    events = rig.sink.named("SourceFailed")
    assert [(event["MessageId"], event["PacketSource"]) for event in events] == [
        ("m1", "replies"),
        ("m2", "7"),
    ]


async def test_two_sources_may_carry_the_same_message_id(rig: Rig) -> None:
    first = asyncio.create_task(rig.egress.send(Message("same", 0, BODY)))
    second = asyncio.create_task(rig.egress.send(Message("same", 1, BODY)))
    again = asyncio.create_task(rig.egress.send(Message("same", 1, BODY)))
    await turns()
    rig.port.end(entries=2)
    rig.port.end((0, "Expired", ""), entries=2)
    rig.port.end(entries=2, duplicates=2)
    assert [(outcome.sent, outcome.duplicates) for outcome in await asyncio.gather(first, second, again)] == [
        (2, 0),
        (1, 0),
        (0, 2),
    ]


async def test_a_full_ring_takes_what_fits_and_then_nothing_until_there_is_room() -> None:
    rig = Rig(room=2)
    assert rig.egress.try_submit([Message(f"m{n}", 0, BODY) for n in range(3)]) == 2
    assert rig.egress.full
    assert rig.egress.try_submit([Message("m3", 0, BODY)]) == 0
    rig.port.end()
    await until(lambda: not rig.egress.full)
    assert rig.egress.try_submit([Message("m3", 0, BODY)]) == 1
    rig.egress.close()


async def test_who_waits_for_room_is_served_in_order_and_nobody_gets_past() -> None:
    rig = Rig(room=1)
    rig.egress.try_submit([Message("m0", 0, BODY)])
    waiting = [
        asyncio.create_task(rig.egress.send(Message("m1", 0, BODY))),
        asyncio.create_task(rig.egress.reply(0, "r2", b"{}")),
        asyncio.create_task(rig.egress.send(Message("m3", 0, BODY))),
        asyncio.create_task(rig.egress.reply(0, "r4", b"{}")),
    ]
    await turns()
    waiting[2].cancel()  # who gives up is passed over
    await turns()
    assert rig.egress.try_submit([Message("late", 0, BODY)]) == 0
    for _ in range(4):
        rig.port.end()
        await until(lambda: bool(rig.port.ring) or all(task.done() for task in waiting))
    assert rig.port.order == ["m0", "m1", "r2", "r4"]
    rig.egress.close()


async def test_room_is_found_without_an_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "ROOM_RETRY_SECONDS", 0.001)
    rig = Rig(room=1, announce=False)
    rig.egress.try_submit([Message("m0", 0, BODY)])
    waiting = asyncio.create_task(rig.egress.reply(0, "r1", b"{}"))
    await turns()
    rig.port.end()
    await asyncio.wait_for(waiting, 5)
    assert rig.port.order == ["m0", "r1"]
    rig.egress.close()


async def test_no_room_in_time_is_said_so_and_nothing_is_sent_later() -> None:
    rig = Rig(room=0)
    with pytest.raises(EgressFull):
        await rig.egress.send(Message("m1", 0, BODY), room_seconds=0.01)
    rig.port.room = 10
    await asyncio.sleep(0.1)
    assert rig.port.order == []
    rig.egress.close()


async def test_a_message_that_is_owed_waits_behind_the_others() -> None:
    rig = Rig(room=1)
    rig.egress.submit_later(Message("m0", 0, BODY))
    rig.egress.submit_later(Message("m1", 1, BODY))
    assert rig.egress.full
    rig.port.end()
    await until(lambda: len(rig.port.order) == 2)
    assert rig.port.order == ["m0", "m1"]
    rig.egress.close()


async def test_drain_waits_for_what_is_in_flight_and_says_when_time_ran_out(rig: Rig) -> None:
    assert await rig.egress.drain(0)
    rig.egress.try_submit([Message("m1", 0, BODY)])
    assert not await rig.egress.drain(0.01)
    draining = asyncio.create_task(rig.egress.drain(5))
    await turns()
    rig.port.end()
    assert await draining


async def test_close_reads_the_last_completions_and_reports_what_never_ended() -> None:
    rig = Rig(room=2)
    ended = asyncio.create_task(rig.egress.send(Message("ended", 0, BODY)))
    lost = asyncio.create_task(rig.egress.send(Message("lost", 0, BODY)))
    waiting = asyncio.create_task(rig.egress.send(Message("waiting", 0, BODY)))
    await turns()
    rig.egress.submit_later(Message("owed", 0, BODY))
    rig.port.end()
    rig.egress.close()
    rig.egress.close()
    assert (await ended).sent == 1
    for task in (lost, waiting):
        with pytest.raises(EgressClosed):
            await task
    assert [(event["MessageId"], event["Reason"]) for event in rig.sink.named("SourceFailed")] == [
        ("lost", "SendFailed"),
        ("owed", "SendFailed"),
    ]
    assert rig.egress.try_submit([Message("m", 0, BODY)]) == 0
    with pytest.raises(EgressClosed):
        await rig.egress.send(Message("m", 0, BODY))


class Kept:
    """A record that keeps what it is told."""

    def __init__(self) -> None:
        self.ids: list[tuple[str, str]] = []
        self.letters: list[DeadLetter] = []
        self.calls: list[list[str]] = []
        self.congested_sources: list[str] = []

    def wants(self, source: str) -> bool:
        return source == "replies"

    def sent(self, ids: Sequence[tuple[str, str]]) -> None:
        self.ids += ids

    def failed(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
        self.calls.append([message.message_id for message in messages])
        self.letters += [letter for message in messages for letter in message.letters()]

    def congested(self, sources: Sequence[str]) -> bool:
        return any(source in self.congested_sources for source in sources)

    def settled(self, source: str) -> bool:
        return True

    async def settle(self, source: str) -> None: ...


async def test_one_poisoned_entry_costs_no_outcome_of_its_turn() -> None:
    rig = Rig(record=(kept := Kept()))
    ended: list[Outcome] = []
    poison = b'{"Messages":[{"Data":"!!","X":' + b"[" * 300 + b"]" * 300 + b'},{"Tag":"t1"}]}'
    rig.egress.try_submit([Message("poison", 0, poison), Message("good", 0, BODY)], ended.append)
    rig.port.end((0, "MalformedData", "not base64"), (1, "InvalidTag", "altered"), entries=2)
    rig.port.end(entries=2)
    await until(lambda: len(ended) == 2)
    assert [(outcome.message_id, outcome.sent) for outcome in ended] == [("good", 2), ("poison", 0)]
    assert [json.loads(letter.line())["Index"] for letter in kept.letters] == [0, 1]
    assert str(kept.letters[0].entry).startswith('{"Data":"!!","X":[[')
    assert kept.letters[1].entry == {"Tag": "t1"}
    rig.egress.close()


EXPIRED = (0, "Expired", "late")


async def test_failures_that_settle_are_kept_as_one_and_told_after_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine sees them gathered, too.
    monkeypatch.setattr(egress_module, "GATHER_SECONDS", 1.0)
    rig = Rig(record=(kept := Kept()))
    ended: list[Outcome] = []
    rig.egress.try_submit(
        [Message("a", 0, BODY), Message("b", 0, BODY), Message("good", 0, BODY)], ended.append
    )
    rig.egress.try_submit([Message("unsettled", 0, BODY, settles=False)], ended.append)
    rig.port.end(EXPIRED)
    await turns()
    for failures in [EXPIRED], [], [EXPIRED]:
        rig.port.end(*failures)
    await until(lambda: len(ended) == 2)
    assert ([outcome.message_id for outcome in ended], kept.calls) == (["good", "unsettled"], [["unsettled"]])
    assert rig.egress.in_flight == 2
    assert rig.egress.holds(source=0)
    assert await rig.egress.drain(5)
    assert ([outcome.message_id for outcome in ended[2:]], kept.calls[1:]) == (["a", "b"], [["a", "b"]])
    rig.egress.close()


async def test_so_many_failures_are_told_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(egress_module, "GATHER_MESSAGES", 3)
    rig = Rig(record=(kept := Kept()))
    ended: list[Outcome] = []
    rig.egress.try_submit([Message(f"m{number}", 0, BODY) for number in range(4)], ended.append)
    for _ in range(4):
        rig.port.end(EXPIRED)
        await turns()
    await until(lambda: len(ended) == 3)
    assert kept.calls == [["m0", "m1", "m2"]]
    rig.egress.close()
    assert len(ended) == 4, "the last one is told when the Listener closes"
    assert kept.calls[1:] == [["m3"]], "and kept: its sender may settle it"


@pytest.mark.parametrize("failures", [[[EXPIRED], []], [[], [EXPIRED]]])
async def test_of_two_messages_with_one_id_the_first_ends_first(
    failures: list[list[FailureTuple]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_module, "GATHER_MESSAGES", 2)
    rig = Rig(record=Kept())
    first: list[Outcome] = []
    second: list[Outcome] = []
    rig.egress.try_submit([Message("other", 0, BODY)], lambda _: None)
    rig.egress.try_submit([Message("same", 0, BODY)], first.append)
    rig.egress.try_submit([Message("same", 0, BODY)], second.append)
    for each in [[EXPIRED], *failures]:
        rig.port.end(*each)
    assert await rig.egress.drain(5)
    assert [len(one.failures) for one in (*first, *second)] == [len(each) for each in failures]
    rig.egress.close()


async def test_whoever_cannot_be_told_costs_nobody_else_the_outcome(rig: Rig) -> None:
    ended: list[Outcome] = []

    def broken(outcome: Outcome) -> None:
        raise RuntimeError("a fault of the sender")

    rig.egress.try_submit([Message("m1", 0, BODY)], broken)
    rig.egress.try_submit([Message("m2", 0, BODY)], ended.append)
    rig.port.end()
    rig.port.end()
    await until(lambda: bool(ended))
    assert [outcome.message_id for outcome in ended] == ["m2"]


@pytest.mark.parametrize("by", ["give_back", "close"])
async def test_what_is_given_back_makes_events_and_no_dead_letters(by: str) -> None:
    rig = Rig(record=(kept := Kept()))
    rig.egress.try_submit([Message("again", 0, BODY), Message("unfinished", 0, BODY)], lambda outcome: None)
    rig.egress.try_submit([Message("lost", 0, BODY, settles=False), Message("lost too", 0, BODY)])
    rig.port.end((0, "SendFailed", "closed"), entries=2)
    if by == "give_back":
        rig.egress.give_back(0, ["again", "unfinished", "lost", "never seen"])
        await until(lambda: bool(rig.sink.named("SourceFailed")))
    rig.egress.close()
    assert [letter.of.message_id for letter in kept.letters] == ["lost", "lost too"]
    events = [event["MessageId"] for event in rig.sink.named("SourceFailed")]
    assert events == ["again", "unfinished", "lost", "lost too"]


@pytest.mark.parametrize("seen", ["before close", "by close"])
async def test_what_fails_with_its_listener_is_gone_and_what_has_left_has_ended(seen: str) -> None:
    rig = Rig(record=(kept := Kept()))
    ended, gone = list[Outcome](), list[str]()
    for name in ("failed", "left", "held", "never"):
        message = Message(name, 0, BODY)
        assert rig.egress.try_submit([message], ended.append, partial(gone.append, name)) == 1
    rig.port.end((0, "RemoteDenied", "before"))
    await until(lambda: bool(rig.sink.named("SourceFailed")))
    rig.egress.give_back_unfinished()
    rig.port.end()
    rig.port.end((0, "SendFailed", "closed"))
    if seen == "before close":
        await until(lambda: len(ended) == 2 and gone == ["held"])
    rig.egress.close()
    assert [outcome.message_id for outcome in ended] == ["failed", "left"]
    assert gone == ["held", "never"]
    assert [letter.of.message_id for letter in kept.letters] == ["failed"]


async def test_congested_while_dead_letters_of_one_of_its_sources_are(rig: Rig) -> None:
    assert not rig.egress.congested
    kept = Kept()
    made = Rig(record=kept)
    kept.congested_sources = ["elsewhere"]
    assert not made.egress.congested
    kept.congested_sources = ["elsewhere", "other"]
    assert made.egress.congested
    made.egress.close()


async def test_failures_in_little_memory_are_the_failures() -> None:
    given = [(None, "MalformedMessage", "no"), (3, "Expired", "late"), (4, "Expired", "late")]
    failures = Failures(given)
    assert failures == [Failure(*one) for one in given]
    assert failures[-1] == Failure(4, "Expired", "late")
    assert failures[1:] == [Failure(*one) for one in given[1:]]
    assert failures != []
    assert not Failures()


@pytest.mark.parametrize("given", [(None, "MalformedMessage", "no"), (3, "Expired", "late")])
async def test_a_single_failure_is_that_failure(given: tuple[int | None, str, str]) -> None:
    failures = Failures([given])
    assert failures == [Failure(*given)]
    assert (failures[-1], failures[:], len(failures)) == (Failure(*given), [Failure(*given)], 1)
    assert failures.held_bytes > 0


async def test_bodies_are_not_kept_after_the_end(rig: Rig) -> None:
    for number in range(100):
        rig.egress.try_submit([Message(str(number), 0, BODY)])
    assert rig.egress.in_flight == 100
    for _ in range(100):
        rig.port.end()
    assert await rig.egress.drain(5)
    assert rig.egress.in_flight == 0


async def test_ids_are_written_down_as_their_packets_leave() -> None:
    rig = Rig(record=(kept := Kept()))
    rig.egress.try_submit([Message("m1", 0, BODY), Message("m2", 1, BODY)])
    rig.port.leave(0, "a", "b")
    rig.port.leave(1, "c")
    await until(lambda: len(kept.ids) == 3)
    assert kept.ids == [("replies", "a"), ("replies", "b"), ("other", "c")]
    assert rig.egress.in_flight == 2, "neither message has ended"
    rig.egress.close()


async def test_many_failures_leave_turns_of_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "TURN_FAILURES", 100)
    rig = Rig()
    ended: list[Outcome] = []
    turns: list[int] = []
    rig.egress.try_submit(
        [Message(f"m{n}", 0, BODY, settles=False) for n in range(10)],
        lambda outcome: (
            ended.append(outcome),
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(ended))),
        ),
    )
    for _ in range(10):
        rig.port.end(*[(index, "InvalidTag", "altered") for index in range(60)], entries=60)
    await until(lambda: len(ended) == 10)
    assert [outcome.message_id for outcome in ended] == [f"m{n}" for n in range(10)]
    assert turns[0] < 10, "others had a turn before the last"
    rig.egress.close()


async def test_a_close_tells_what_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "TURN_FAILURES", 100)
    rig = Rig()
    ended: list[Outcome] = []
    rig.egress.try_submit([Message(f"m{n}", 0, BODY) for n in range(10)], ended.append)
    for _ in range(10):
        rig.port.end(*[(index, "InvalidTag", "altered") for index in range(60)], entries=60)
    rig.egress.close()
    assert len(ended) == 10
    assert {failure.reason for outcome in ended for failure in outcome.failures} == {"InvalidTag"}


async def test_letters_that_found_no_room_are_told_with_the_outcome() -> None:
    class Full(Kept):
        def failed(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
            for message in messages:
                message.failures.lost = not settles

    rig = Rig(record=Full())
    ended: list[Outcome] = []
    rig.egress.try_submit([Message("m1", 0, BODY, settles=False), Message("m2", 0, BODY)], ended.append)
    rig.port.end((0, "Expired", ""), entries=2)
    rig.port.end((0, "Expired", ""), entries=2)
    await until(lambda: len(ended) == 2)
    assert {outcome.message_id: outcome.letters_lost for outcome in ended} == {"m1": True, "m2": False}
    rig.egress.close()
