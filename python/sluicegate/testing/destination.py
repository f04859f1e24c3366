"""The contract of Destinations as a suite of tests (contract sections 1.2 and 3)."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from sluicegate.destinations.base import DeliveryError, Destination, DestinationContext, DestinationError
from sluicegate.testing.stand_ins import destination_context, packet_batch

HANG_SECONDS = 60.0
"""A bound on hanging, never an expectation of speed."""

STALL_SECONDS = 0.1

NAME = "contract"
"""The name of the Destination in these tests."""


class DestinationContract:
    """What every Destination promises. Derive a class of tests from it, and pytest runs them all:

        class TestSyslog(DestinationContract):
            kind = SyslogDestination
            bad_targets = ("", "no port")

            @pytest.fixture(autouse=True)
            def listen(self):
                with socket.socket(type=socket.SOCK_DGRAM) as self.socket:
                    self.socket.bind(("127.0.0.1", 0))
                    self.target = f"127.0.0.1:{self.socket.getsockname()[1]}"
                    yield

            def delivered(self, destination):
                return [...]

    The attributes stand in the class or are set by a fixture. `base_dir` of the context is pytest's `tmp_path`. A test
    of something that a Destination cannot do, or whose method below is not there, is skipped and says so.
    """

    kind: type[Destination]
    """The class under test."""
    target: str = ""
    """A good target: the text after `scheme:`, or the whole ARN."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """Good arguments, with their PascalCase names. All tests use them."""
    bad_targets: Sequence[str] = ()
    """Targets that are refused."""
    bad_arguments: Sequence[Mapping[str, Any]] = ()
    """Arguments that are refused, one mistake in each."""
    secrets: Sequence[str] = ()
    """Parts of targets and arguments that no message may show."""

    def delivered(self, destination: Destination) -> Sequence[str]:
        """`Data` of all packets that have arrived since the last call, in order. It may wait for the last one."""
        raise NotImplementedError("define `delivered`: what has arrived at the service")

    def refuse(self, destination: Destination) -> None:
        """Make the service refuse every batch from now on."""
        pytest.skip("define `refuse` to test what the Destination reports when its service refuses a batch")

    def refuse_packets(self, destination: Destination) -> str:
        """Make the service refuse some packets and take all others; `Data` of one that it refuses."""
        pytest.skip("define `refuse_packets` if the service can take a part of a batch")

    def fail_to_provision(self) -> None:
        """Change `target` or the service so that `provision` cannot succeed."""
        pytest.skip("define `fail_to_provision` to test what the Destination reports when it cannot start")

    def stall(self, destination: Destination) -> None:
        """Make the service not answer any more, so that a delivery is cancelled while it waits."""

    @pytest.fixture
    def context(self, tmp_path: Path) -> DestinationContext:
        """The context that the Destination gets."""
        return destination_context(tmp_path)

    # Parsing

    def test_parsing_keeps_the_name_and_the_context(self, context: DestinationContext) -> None:
        made = self._make(context)
        assert (made.name, made.context) == (NAME, context)

    def test_parsing_changes_nothing(self, context: DestinationContext) -> None:
        """Nor does it need an event loop: a configuration is checked without a gateway."""

        def world() -> tuple[object, ...]:
            files = {path: path.lstat().st_mtime_ns for path in context.base_dir.rglob("*")}
            return files, sorted(path.name for path in Path("/proc/self/fd").iterdir()), threading.enumerate()

        gc.collect()  # or what other tests have left behind would be closed meanwhile
        before = world()
        made = self._make(context)
        assert world() == before
        del made

    def test_a_bad_target_is_refused_with_cause_and_fix(self, context: DestinationContext) -> None:
        if not self.bad_targets:
            pytest.skip("name `bad_targets`")
        for target in self.bad_targets:
            self._check_words(self._refusal(context, target, self.arguments, f"the target {target!r}"))

    def test_an_unknown_argument_is_refused_by_name(self, context: DestinationContext) -> None:
        unknown = "an argument that it does not know; call `finish` of its `Arguments`"
        error = self._refusal(context, self.target, {**self.arguments, "NoSuchArgument": "1"}, unknown)
        assert "NoSuchArgument" in str(error)
        self._check_words(error)
        self._check_place(error, ["NoSuchArgument"])

    def test_a_bad_argument_is_refused_by_name(self, context: DestinationContext) -> None:
        if not self.bad_arguments:
            pytest.skip("name `bad_arguments`, if the Destination has arguments")
        for arguments in self.bad_arguments:
            # By their names: a value may be a secret.
            wrong = f"bad_arguments[{self.bad_arguments.index(arguments)}], {', '.join(arguments)}"
            error = self._refusal(context, self.target, {**self.arguments, **arguments}, wrong)
            self._check_words(error)
            self._check_place(error, arguments)

    def test_arguments_are_read_in_both_spellings_and_as_text(self, context: DestinationContext) -> None:
        """Contract section 1: snake_case beside PascalCase, and scalars as strings, as CloudFormation sends them."""
        if not self.arguments:
            pytest.skip("name `arguments`, if the Destination has any")
        self.kind.from_spec(NAME, self.target, {_snake(k): v for k, v in self.arguments.items()}, context)
        self.kind.from_spec(NAME, self.target, {k: _text(v) for k, v in self.arguments.items()}, context)

    def test_concurrency_is_fixed(self, context: DestinationContext) -> None:
        async def check() -> None:
            made = self._make(context)
            first = made.concurrency
            assert isinstance(first, int)
            assert first >= 1
            await made.provision()
            try:
                await made.deliver(packet_batch("a"))
                assert made.concurrency == first
            finally:
                await made.close()

        self.run(check)

    # Delivery

    def test_delivers_every_packet_in_order(self, context: DestinationContext) -> None:
        async def check() -> None:
            async with self._provisioned(context) as made:
                await made.deliver(packet_batch("a", "b"))
                await made.deliver(packet_batch("c"))
                assert await self._delivered(made) == ["a", "b", "c"]

        self.run(check)

    def test_delivers_as_many_batches_at_a_time_as_it_says(self, context: DestinationContext) -> None:
        async def check() -> None:
            async with self._provisioned(context) as made:
                names = [f"batch{number}" for number in range(min(made.concurrency, 8))]
                await asyncio.gather(*(made.deliver(packet_batch(name)) for name in names))
                assert sorted(await self._delivered(made)) == sorted(names)

        self.run(check)

    def test_answers_with_bytes_or_nothing(self, context: DestinationContext) -> None:
        async def check() -> None:
            async with self._provisioned(context) as made:
                answer = await made.deliver(packet_batch("a"))
                assert answer is None or type(answer) is bytes, (
                    f"`deliver` returned {answer!r}: return the service's answer as bytes, or None"
                )

        self.run(check)

    def test_a_refused_batch_is_a_delivery_error(self, context: DestinationContext) -> None:
        async def check() -> None:
            async with self._provisioned(context) as made:
                await self._in_thread(self.refuse, made)
                with pytest.raises(DeliveryError) as caught:
                    await made.deliver(packet_batch("a", "b"))
                self._check_delivery_error(caught.value, 2)

        self.run(check)

    def test_refused_packets_are_named(self, context: DestinationContext) -> None:
        async def check() -> None:
            async with self._provisioned(context) as made:
                refused = await self._in_thread(self.refuse_packets, made)
                with pytest.raises(DeliveryError) as caught:
                    await made.deliver(packet_batch("a", refused, "c", refused, "e"))
                self._check_delivery_error(caught.value, 5)
                assert caught.value.packets is not None, (
                    "the error names no packets: all five would be repeated"
                )
                assert sorted(caught.value.packets) == [1, 3]
                assert await self._delivered(made) == ["a", "c", "e"]

        self.run(check)

    def test_a_cancelled_delivery_lets_go_and_the_destination_closes(
        self, context: DestinationContext
    ) -> None:
        """A gateway that stops gives deliveries some time, cancels them, and closes the Destination."""

        async def check() -> None:
            async with self._provisioned(context) as made:
                await self._in_thread(self.stall, made)
                delivery = asyncio.create_task(made.deliver(packet_batch("a")))
                # Long enough to get under way; whether it ends before makes no difference to what must hold.
                await asyncio.wait({delivery}, timeout=STALL_SECONDS)
                delivery.cancel()
                await asyncio.wait({delivery}, timeout=HANG_SECONDS / 2)
                assert delivery.done(), "the delivery ignores its cancellation"
                if not delivery.cancelled() and (error := delivery.exception()) is not None:
                    assert isinstance(error, DeliveryError), f"a cancelled delivery raised {error!r}"

        self.run(check)

    # The end

    def test_closes_without_having_been_provisioned(self, context: DestinationContext) -> None:
        async def check() -> None:
            await self._make(context).close()

        self.run(check)

    def test_closes_after_provision_has_failed(self, context: DestinationContext) -> None:
        self.fail_to_provision()

        async def check() -> None:
            made = self._make(context)
            with pytest.raises(DestinationError) as caught:
                await made.provision()
            self._check_words(caught.value)
            await made.close()

        self.run(check)

    # What the tests are made of

    def run(self, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one test in an event loop of its own, and see to it that nothing goes on afterwards."""

        async def bounded() -> None:
            async with asyncio.timeout(HANG_SECONDS):
                await check()

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(bounded())
            left = asyncio.all_tasks(loop)
            assert not left, f"after `close` these tasks go on: {left}"
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            # Not asyncio.run: it would wait for ever for a task that ignores its cancellation.
            loop.close()

    def _make(self, context: DestinationContext) -> Destination:
        return self.kind.from_spec(NAME, self.target, self.arguments, context)

    def _refusal(
        self, context: DestinationContext, target: str, arguments: Mapping[str, Any], wrong: str
    ) -> DestinationError:
        try:
            self.kind.from_spec(NAME, target, arguments, context)
        except DestinationError as error:
            return error
        pytest.fail(f"`from_spec` takes {wrong}")

    @asynccontextmanager
    async def _provisioned(self, context: DestinationContext) -> AsyncIterator[Destination]:
        made = self._make(context)
        try:
            await made.provision()
            yield made
        finally:
            await made.close()

    async def _delivered(self, made: Destination) -> list[str]:
        return list(await self._in_thread(self.delivered, made))

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The author's methods may block; the Destination's own tasks go on meanwhile."""
        return await asyncio.to_thread(function, *arguments)

    def _check_words(self, error: DestinationError) -> None:
        assert NAME in error.cause, f"the cause does not name the Destination: {error.cause}"
        assert error.fix, f"no next step: {error.cause}"
        self._check_text(error.cause + error.fix)

    def _check_place(self, error: DestinationError, wrong: Iterable[str]) -> None:
        place = error.argument[:1]
        assert place in [(name,) for name in wrong], (
            f"{error} leads to {place or 'the target'}: raise what `Arguments` raises, or its `wrong`, so that "
            "the user sees line and column"
        )

    def _check_delivery_error(self, error: DeliveryError, packets: int) -> None:
        causes = [error, *(error.packets or {}).values()]
        for cause in causes:
            assert re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", cause.reason), f"not PascalCase: {cause.reason!r}"
            assert cause.detail.strip(), "`detail` is a sentence for a person"
            assert isinstance(cause.retryable, bool)
            self._check_text(cause.detail)
        if error.packets is not None:
            assert error.packets, "the error names no packet; leave `packets` out if all have failed"
            for index in error.packets:
                assert type(index) is int
                assert 0 <= index < packets, f"no packet {index} in a batch of {packets}"

    def _check_text(self, text: str) -> None:
        assert text.isprintable(), f"one line of plain text: {text!r}"
        assert "Traceback" not in text
        for secret in self.secrets:
            assert secret not in text, "a message shows a secret"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value
