"""The contract of ways in for messages as a suite of tests (contract sections 4.2 and 4.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from sluicegate.sources.base import MessageSource, SourceContext, SourceError
from sluicegate.testing.sender import MemorySender

HANG_SECONDS = 60.0
"""A bound on hanging, never an expectation of speed."""

QUIET_SECONDS = 0.1
"""How long it is watched that something does not happen."""

INDEX = 3
BODY = b'{"Data":"aGk=","Remote":{"Address":"198.51.100.7","Port":40001}}'


class MessageSourceContract:
    """What every way in promises. Derive a class of tests from it, and pytest runs them all:

        class TestLineFile(MessageSourceContract):
            def make(self, context):
                return LineFileSource("readings", replace(context, settings=LineFileSource.Settings(path="lines")))

            async def publish(self, source, body):
                ...
                return number

            def acknowledged(self, receipt):
                return receipt in remembered

    `base_dir` of the context is pytest's `tmp_path`, its sender a `MemorySender`. A test of something that is not there
    is skipped and says so.
    """

    keeper: Literal["queue", "publisher", "nobody"] = "queue"
    """Who keeps a message until it is acknowledged: a queue, from which it comes again; a publisher who waits for an
    answer; or nobody, where a publisher is answered as soon as the sender has the message."""

    def make(self, context: SourceContext) -> MessageSource | None:
        """The source under test; None if it takes nothing in `context.state`."""
        raise NotImplementedError("define `make`: the MessageSource under test")

    async def publish(self, source: MessageSource, body: bytes) -> Any:
        """Put one message where the source takes it from, while it runs; a receipt for the methods below. Does not wait
        for the message's end."""
        raise NotImplementedError("define `publish`: how a message comes to the source")

    def acknowledged(self, receipt: Any) -> bool:
        """True once whoever kept the message was told that it has ended."""
        raise NotImplementedError("define `acknowledged`")

    def refused(self, receipt: Any) -> bool:
        """True if the publisher was told that the message was not taken, and is to publish it again."""
        return False

    def fail_to_provision(self) -> None:
        """Make `provision` of the next source fail."""
        pytest.skip("define `fail_to_provision` to test what the source reports when it cannot start")

    @pytest.fixture
    def base_dir(self, tmp_path: Path) -> Path:
        """Where relative paths begin."""
        return tmp_path

    # In

    def test_a_message_comes_to_the_sender_as_it_was_published(self, base_dir: Path) -> None:
        async def check() -> None:
            async with self._running(base_dir) as (source, sender):
                await self.publish(source, BODY)
                await _until(lambda: sender.taken, "the sender never got the message")
                (message,) = sender.taken
                assert message.body == BODY
                assert message.source == INDEX
                assert message.message_id
                assert message.refusal is None

        self.run(check)

    def test_a_source_takes_nothing_unless_it_runs(self, base_dir: Path) -> None:
        async def check() -> None:
            sender = MemorySender()
            source = self.make(self._context(base_dir, sender))
            assert source is not None
            await source.provision()
            await asyncio.sleep(QUIET_SECONDS)
            await source.close()
            assert sender.taken == []

        self.run(check)

    def test_a_source_that_is_not_active_takes_nothing_or_refuses(self, base_dir: Path) -> None:
        async def check() -> None:
            for state in ("Disabled", "PendingApproval", "Rejected"):
                sender = MemorySender()
                source = self.make(replace(self._context(base_dir, sender), state=state))
                if source is None:
                    continue
                await source.provision()
                running = asyncio.create_task(source.run())
                await asyncio.sleep(0)
                receipt = await self.publish(source, BODY)
                await _until(partial(self._told, receipt, sender), "nobody was told")
                assert [one.refusal[0] if one.refusal else "" for one in sender.taken] in (
                    [],
                    ["SourceDisabled"],
                )
                await self._end(source, running, sender)

        self.run(check)

    # Who acknowledges, and when

    def test_a_message_is_acknowledged_once_each_entry_has_ended(self, base_dir: Path) -> None:
        async def check() -> None:
            async with self._running(base_dir) as (source, sender):
                receipt = await self.publish(source, BODY)
                await _until(lambda: sender.held, "the sender never got the message")
                if self.keeper != "nobody":
                    await self._stays_unacknowledged(receipt)
                    sender.end(entries=3)
                await _until(lambda: self.acknowledged(receipt), "the message was never acknowledged")

        self.run(check)

    def test_a_failed_message_is_acknowledged_once_its_letters_are_written(self, base_dir: Path) -> None:
        self._needs_a_keeper()

        async def check() -> None:
            async with self._running(base_dir) as (source, sender):
                sender.delay_letters()
                receipt = await self.publish(source, BODY)
                await _until(lambda: sender.held, "the sender never got the message")
                sender.end("RemoteDenied", entries=2)
                await self._stays_unacknowledged(receipt)
                sender.write_letters()
                await _until(lambda: self.acknowledged(receipt), "the message was never acknowledged")

        self.run(check)

    def test_a_duplicate_has_ended(self, base_dir: Path) -> None:
        self._needs_a_keeper()

        async def check() -> None:
            async with self._running(base_dir) as (source, sender):
                receipt = await self.publish(source, BODY)
                await _until(lambda: sender.held, "the sender never got the message")
                sender.end(duplicates=1)
                await _until(lambda: self.acknowledged(receipt), "the message was never acknowledged")

        self.run(check)

    def test_every_message_ends_exactly_once_and_the_counts_add_up(self, base_dir: Path) -> None:
        async def check() -> None:
            async with self._running(base_dir) as (source, sender):
                receipts, outcomes = [], []
                for number in range(30):
                    receipts.append(await self.publish(source, BODY))
                    if number % 3 == 2:  # some end while others come
                        await _until(lambda: sender.held, "messages were lost")
                        outcomes.append(sender.end(*["Expired"] * (number % 2), entries=2))
                while len(outcomes) < len(receipts):
                    await _until(lambda: sender.held, "messages were lost")
                    outcomes.append(sender.end(*["NoSession"] * (len(outcomes) % 3), entries=4, duplicates=1))
                for receipt in receipts:
                    await _until(partial(self.acknowledged, receipt), "a message was never acknowledged")
                    assert not self.refused(receipt)
                await asyncio.sleep(QUIET_SECONDS)
                assert sender.held == [], "a message came twice"
                ids = [message.message_id for message in sender.taken]
                assert len(ids) == len(set(ids)) == len(receipts)
                assert sorted(outcome.message_id for outcome in outcomes) == sorted(ids)
                assert all(one.entries == one.sent + one.duplicates + len(one.failures) for one in outcomes)

        self.run(check)

    # Room

    def test_what_a_full_sender_does_not_take_is_refused_or_waits(self, base_dir: Path) -> None:
        async def check() -> None:
            sender = MemorySender(room=1)
            async with self._running(base_dir, sender) as (source, _):
                await self.publish(source, BODY)
                await _until(lambda: sender.full, "the sender never got the first message")
                second = await self.publish(source, BODY)
                await asyncio.sleep(QUIET_SECONDS)
                assert len(sender.taken) == 1
                assert not self.acknowledged(second)
                sender.end()
                if not self.refused(second):
                    await _until(lambda: len(sender.taken) == 2, "the second message was lost")
                    sender.end()
                    await _until(lambda: self.acknowledged(second), "the second was never acknowledged")

        self.run(check)

    def test_nothing_is_submitted_while_dead_letters_wait_beyond_their_bound(self, base_dir: Path) -> None:
        if self.keeper != "queue":
            pytest.skip("what a publisher sends is not kept for it: its letters may be dropped")

        async def check() -> None:
            async with self._running(base_dir) as (source, sender):
                sender.congested = True
                sender.delay_letters()
                receipt = await self.publish(source, BODY)
                await asyncio.sleep(QUIET_SECONDS)
                assert sender.taken == []
                sender.congested = False
                sender.write_letters()
                await _until(lambda: sender.held, "the message was lost")
                sender.end()
                await _until(lambda: self.acknowledged(receipt), "the message was never acknowledged")

        self.run(check)

    # The end

    def test_what_has_not_ended_at_a_stop_is_not_acknowledged_and_given_back(self, base_dir: Path) -> None:
        self._needs_a_keeper()

        async def check() -> None:
            sender = MemorySender()
            source, running = await self._begin(base_dir, sender)
            receipt = await self.publish(source, BODY)
            await _until(lambda: sender.held, "the sender never got the message")
            await self._end(source, running, sender)
            await self._stays_unacknowledged(receipt)
            settling = [message.message_id for message in sender.taken if message.settles]
            assert sender.given_back == settling, "its failures would become dead letters, and it comes again"

        self.run(check)

    def test_drain_waits_for_what_was_taken(self, base_dir: Path) -> None:
        self._needs_a_keeper()

        async def check() -> None:
            sender = MemorySender()
            source, running = await self._begin(base_dir, sender)
            receipt = await self.publish(source, BODY)
            await _until(lambda: sender.held, "the sender never got the message")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            draining = asyncio.create_task(source.drain(HANG_SECONDS))
            await asyncio.sleep(QUIET_SECONDS)
            assert not draining.done(), "drain does not wait for a message that has not ended"
            sender.end()
            await draining
            assert self.acknowledged(receipt), "drain gave the message up"
            await source.close()
            assert sender.given_back == []

        self.run(check)

    def test_closes_twice_and_without_having_been_provisioned(self, base_dir: Path) -> None:
        async def check() -> None:
            source = self.make(self._context(base_dir, MemorySender()))
            assert source is not None
            await source.close()
            await source.close()

        self.run(check)

    def test_closes_after_provision_has_failed(self, base_dir: Path) -> None:
        self.fail_to_provision()

        async def check() -> None:
            source = self.make(self._context(base_dir, MemorySender()))
            assert source is not None
            with pytest.raises(SourceError) as caught:
                await source.provision()
            assert caught.value.cause
            assert caught.value.fix
            await source.close()

        self.run(check)

    # What the tests share

    def run(self, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """In an event loop of its own."""

        async def bounded() -> None:
            async with asyncio.timeout(HANG_SECONDS):
                await check()

        asyncio.run(bounded())

    def _context(self, base_dir: Path, sender: MemorySender) -> SourceContext:
        return SourceContext(sender, index=INDEX, listener="decoder", base_dir=base_dir)

    async def _begin(self, base_dir: Path, sender: MemorySender) -> tuple[MessageSource, asyncio.Task[None]]:
        source = self.make(self._context(base_dir, sender))
        assert source is not None, "an Active PacketSource takes messages"
        await source.provision()
        running = asyncio.create_task(source.run())
        await asyncio.sleep(0)
        return source, running

    @asynccontextmanager
    async def _running(
        self, base_dir: Path, sender: MemorySender | None = None
    ) -> AsyncIterator[tuple[MessageSource, MemorySender]]:
        sender = sender or MemorySender()
        source, running = await self._begin(base_dir, sender)
        try:
            yield source, sender
        finally:
            await self._end(source, running, sender)

    async def _end(self, source: MessageSource, running: asyncio.Task[None], sender: MemorySender) -> None:
        """As a gateway stops."""
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await source.drain(0)
        await source.close()
        sender.close()

    def _told(self, receipt: Any, sender: MemorySender) -> bool:
        return self.refused(receipt) or bool(sender.taken)

    async def _stays_unacknowledged(self, receipt: Any) -> None:
        await asyncio.sleep(QUIET_SECONDS)
        assert not self.acknowledged(receipt), "the message was acknowledged too early"

    def _needs_a_keeper(self) -> None:
        if self.keeper == "nobody":
            pytest.skip("nobody keeps a message that this source has taken")


async def _until(condition: Callable[[], object], otherwise: str) -> None:
    try:
        async with asyncio.timeout(HANG_SECONDS / 4):
            while not condition():  # noqa: ASYNC110  (what is waited for has no future)
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(otherwise) from None
