"""Deliveries that begin and end by calls: the same accounts, events and answers as those in a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from delivering import Batch, Rig, Scripted, balance, nothing, settle

from sluicegate.destinations import DeliveryError
from sluicegate.destinations.base import EarlyAnswers, PacketBatch
from sluicegate.destinations.prompt import Outcome, PromptDestination, UnderWay


class Prompt(Scripted, PromptDestination):
    """Begins what is not to wait; the test ends it."""

    def __init__(self) -> None:
        super().__init__(nothing, 2)
        self.begun: list[Callable[[Outcome], object]] = []
        self.cancelled = 0
        self.busy = False

    def begin(
        self, batch: PacketBatch, request_id: str, answers: EarlyAnswers, ended: Callable[[Outcome], object]
    ) -> UnderWay | None:
        if self.busy:
            return None
        self.begun.append(ended)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> Prompt:
    made = Prompt()
    monkeypatch.setattr("delivering.Scripted", lambda *_: made)
    return made


async def begun(prompt: Prompt, *batches: Any) -> Rig:
    rig = Rig(nothing)
    rig.reader.put(*batches)
    await settle()
    assert rig.delivery.stats.in_flight == len(batches)
    return rig


async def test_an_answer_completes_its_batch_and_frees_its_slot(prompt: Prompt) -> None:
    rig = await begun(prompt, Batch("a", 3), Batch("b", 4))
    rig.reader.put(Batch("c", 5))
    await settle()
    assert len(prompt.begun) == 2
    prompt.begun[1](b"null")
    assert len(prompt.begun) == 3, "the next one begins at once"
    prompt.begun[0](b'{"Replies": []}')
    prompt.begun[2](b"")
    await rig.finish()
    assert balance(rig) == (12, 0)
    assert [body for _, body in rig.replies] == [b'{"Replies": []}']
    assert len({request_id for _, request_id in rig.delivered}) == 3


async def test_a_failure_is_counted_or_tried_again_in_a_task(prompt: Prompt) -> None:
    rig = await begun(prompt, Batch("a", 3), Batch("b", 4))
    prompt.begun[0](DeliveryError("FunctionError", "x"))
    prompt.begun[1](DeliveryError("Throttled", "y", retryable=True))
    await rig.finish()
    assert balance(rig) == (4, 3)
    assert rig.delivery.stats.failed_by_reason == {"FunctionError": 3}
    assert rig.delivery.stats.retries == 1


async def test_what_is_no_failure_of_the_contract_is_an_internal_error(prompt: Prompt) -> None:
    rig = await begun(prompt, Batch("a", 3))
    prompt.begun[0](RuntimeError("x"))
    await rig.finish()
    assert rig.delivery.stats.failed_by_reason == {"InternalError": 3}


async def test_without_room_it_waits_in_a_task(prompt: Prompt) -> None:
    prompt.busy = True
    rig = Rig(nothing)
    rig.reader.put(Batch("a", 3))
    await rig.finish()
    assert balance(rig) == (3, 0)
    assert not prompt.begun


async def test_what_has_not_ended_at_the_stop_is_cancelled_and_fails(prompt: Prompt) -> None:
    rig = await begun(prompt, Batch("a", 3), Batch("b", 4))
    await rig.finish(0.0)
    assert balance(rig) == (0, 7)
    assert rig.delivery.stats.failed_by_reason == {"Shutdown": 7}
    assert prompt.cancelled == 2
    assert rig.delivery.stats.in_flight == 0
