"""The contract suites find what breaks the contract: else a package that passes them would know nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from sluicegate.destinations import (
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    PacketBatch,
)
from sluicegate.destinations.memory import MemoryDestination
from sluicegate.testing import DestinationContract, destination_context


class WritesWhileParsing(MemoryDestination):
    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        (context.base_dir / "early").touch()
        return super().from_spec(name, target, arguments, context)


class OpensWhileParsing(MemoryDestination):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.early = os.eventfd(0)

    def __del__(self) -> None:
        os.close(self.early)


class NeedsALoopWhileParsing(MemoryDestination):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.loop = asyncio.get_running_loop()


class TakesAnything(MemoryDestination):
    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        return cls(name, context)


class SaysNothingUseful(MemoryDestination):
    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        if target or "NoSuchArgument" in arguments:
            raise DestinationError("NoSuchArgument is wrong", "")
        return cls(name, context)


class LeadsToTheTarget(MemoryDestination):
    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        raise DestinationError(f"destination {name}: something is wrong", "mend it")


class ShowsASecret(MemoryDestination):
    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        raise DestinationError(f"destination {name} has no server at {target}", "name another one")


class ReadsPascalCaseAlone(MemoryDestination):
    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        return cls(name, context, concurrency=arguments["Concurrency"])


class ChangesItsMind(MemoryDestination):
    @property
    def concurrency(self) -> int:
        return 2 if self.packets else 1


class Reorders(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        await super().deliver(batch)
        self.packets.reverse()
        return None


class AnswersText(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> Any:
        return '{"Replies": []}'


class RaisesALibrarysError(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        raise ConnectionResetError


class QuotesALibrary(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        raise DeliveryError("Refused", 'Traceback (most recent call last):\n  File "x.py"')


class CountsInSentences(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        raise DeliveryError("it was refused at 10:00", "no")


class CountsFromOne(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        raise DeliveryError("Refused", "no", packets=range(1, batch.count + 1))


class NamesNobody(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        raise DeliveryError("Refused", "some were refused")


class NamesTheOthers(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        raise DeliveryError("Refused", "some were refused", packets=[0, 2, 4])


class IgnoresCancellation(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


class LosesItsHead(MemoryDestination):
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("batch")


class LeavesATaskBehind(MemoryDestination):
    async def provision(self) -> None:
        self.task = asyncio.create_task(asyncio.Event().wait())


class CannotCloseUnopened(MemoryDestination):
    file: Any = None

    async def close(self) -> None:
        self.file.close()


BROKEN: list[tuple[type[Destination], str]] = [
    (WritesWhileParsing, "test_parsing_changes_nothing"),
    (OpensWhileParsing, "test_parsing_changes_nothing"),
    (NeedsALoopWhileParsing, "test_parsing_changes_nothing"),
    (TakesAnything, "test_a_bad_target_is_refused_with_cause_and_fix"),
    (TakesAnything, "test_an_unknown_argument_is_refused_by_name"),
    (TakesAnything, "test_a_bad_argument_is_refused_by_name"),
    (SaysNothingUseful, "test_a_bad_target_is_refused_with_cause_and_fix"),
    (SaysNothingUseful, "test_an_unknown_argument_is_refused_by_name"),
    (LeadsToTheTarget, "test_a_bad_argument_is_refused_by_name"),
    (ShowsASecret, "test_a_bad_target_is_refused_with_cause_and_fix"),
    (ReadsPascalCaseAlone, "test_arguments_are_read_in_both_spellings_and_as_text"),
    (ChangesItsMind, "test_concurrency_is_fixed"),
    (Reorders, "test_delivers_every_packet_in_order"),
    (AnswersText, "test_answers_with_bytes_or_nothing"),
    (RaisesALibrarysError, "test_a_refused_batch_is_a_delivery_error"),
    (QuotesALibrary, "test_a_refused_batch_is_a_delivery_error"),
    (CountsInSentences, "test_a_refused_batch_is_a_delivery_error"),
    (CountsFromOne, "test_a_refused_batch_is_a_delivery_error"),
    (NamesNobody, "test_refused_packets_are_named"),
    (NamesTheOthers, "test_refused_packets_are_named"),
    (IgnoresCancellation, "test_a_cancelled_delivery_lets_go_and_the_destination_closes"),
    (LosesItsHead, "test_a_cancelled_delivery_lets_go_and_the_destination_closes"),
    (LeavesATaskBehind, "test_delivers_every_packet_in_order"),
    (CannotCloseUnopened, "test_closes_without_having_been_provisioned"),
]


class Suite(DestinationContract):
    """The suite on a Destination that does everything by itself."""

    arguments = {"Concurrency": 3}
    bad_targets = ("hunter2",)
    bad_arguments = ({"Concurrency": 0},)
    secrets = ("hunter2",)

    def delivered(self, destination: Destination) -> Sequence[str]:
        assert isinstance(destination, MemoryDestination)
        return [packet["Data"] for packet in destination.packets]

    def refuse(self, destination: Destination) -> None: ...

    def refuse_packets(self, destination: Destination) -> str:
        return "refused"


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=lambda one: getattr(one, "__name__", one))
def test_the_suite_finds(
    broken: type[Destination], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluicegate.testing.destination.HANG_SECONDS", 2.0)
    suite = Suite()
    suite.kind = broken
    check: Callable[[DestinationContext], None] = getattr(suite, test)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        check(destination_context(tmp_path))
    assert not isinstance(caught.value, pytest.skip.Exception)


def test_the_suite_says_what_was_taken(tmp_path: Path) -> None:
    suite = Suite()
    suite.kind = TakesAnything
    suite.bad_targets = ("host:0",)
    with pytest.raises(pytest.fail.Exception, match="takes the target 'host:0'"):
        suite.test_a_bad_target_is_refused_with_cause_and_fix(destination_context(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=", Concurrency"):
        suite.test_a_bad_argument_is_refused_by_name(destination_context(tmp_path))
