"""The contract of a Destination, to which batches of packets are delivered (contract sections 1.2 and 3).

To write one, subclass `Destination` and register the class as an entry point of the group `sluicegate.destinations`.
The name of the entry point is the scheme (`nats` for `nats://…`) or the service of an ARN (`sqs` for `arn:aws:sqs:…`):

    [project.entry-points."sluicegate.destinations"]
    syslog = "my_package.syslog:SyslogDestination"

The life of a Destination, in order, each step only after the one before succeeded:

    parse and validate   `from_spec`: reads its target and arguments; no side effects, `DestinationError`
    provision            `provision()`: opens what it needs, once
    run                  `deliver(batch)`: at most `concurrency` at the same time, each in a task of its own
    drain                nothing to implement: running deliveries get time to finish, then they are cancelled
    close                `close()`: releases everything; is called too when `provision` failed

A Destination runs in the gateway's event loop and must never block it: calls that block belong in a thread
(`sluicegate.threads.Threads`). Queueing, retries, events and counters are the business of `delivery.py`, not of a
Destination.
"""

from __future__ import annotations

import pathlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from sluicegate import _native
from sluicegate.localcode import LocalCode, Outside
from sluicegate.model import Finding, Path

if TYPE_CHECKING:
    from sluicegate.aws import Aws, AwsError, Role

delivery_id: ContextVar[str] = ContextVar("sluicegate_delivery_id", default="")
"""Id of the batch that the current task delivers, the same for all attempts. It joins our log to the service's log."""


class EarlyAnswers(Protocol):
    """Answers that a service gives while `deliver` still runs, for instance the replies of a stream."""

    async def send(self, body: bytes, /) -> None:
        """Send an answer as `deliver` returns it, now. Returns once there is room for another one; reports what is
        wrong with it by itself."""

    def malformed(self, detail: str, /) -> None:
        """Report a part that is no answer."""


early_answers: ContextVar[EarlyAnswers | None] = ContextVar("sluicegate_early_answers", default=None)
"""Where the current task's delivery sends answers before it completes; `streaming.py` reads them out of a stream. None
where a test calls `deliver` by itself."""


class EventSink(Protocol):
    """Where structured events go (contract section 6). Field names are PascalCase. Never blocks, never raises."""

    def emit(self, event: str, /, **fields: object) -> None: ...


class PacketBatch(Protocol):
    """Packets of one Destination, formatted.

    `sluicegate._native.Batch` is the real one; `sluicegate.testing.packet_batch` makes one for a test.

        >>> from sluicegate.testing import packet_batch
        >>> batch = packet_batch("hello", "world")
        >>> batch.count, batch.lines().count(b"\\n")
        (2, 2)
    """

    @property
    def count(self) -> int:
        """How many packets, at least 1."""

    def body(self) -> bytes:
        """The packets as one JSON object, `{"Messages":[…]}` (contract section 2)."""

    def records(self) -> list[bytes]:
        """The packets, each as one JSON RequestPacket without line breaks."""

    def lines(self) -> bytes:
        """The packets as NDJSON: one JSON RequestPacket a line, each with its line break."""

    def values(self, name: str, /) -> list[str | None]:
        """What the expression of the argument `name` says of each packet; see `Destination.expressions`.

        None for null, and for packets that came before the Destination had the expression.
        """


class DestinationError(Exception):
    """A Destination cannot be made from what the user wrote; raised before any side effect.

    `cause` says what is wrong, `fix` the next step. `argument` leads to the argument that is meant, as the user wrote
    it: `"Facility"`, or `("Environment", "PATH")` for one inside it. Without one the target is meant. `on_key`: the
    argument's name is wrong, not its value. So the user sees the line and column.

        >>> from sluicegate import DestinationError
        >>> print(DestinationError("destination archive: file: names no file", "write it as file:PATH.ndjson"))
        destination archive: file: names no file: write it as file:PATH.ndjson
    """

    def __init__(self, cause: str, fix: str, *, argument: Path | str = (), on_key: bool = False) -> None:
        if not (isinstance(cause, str) and isinstance(fix, str)):
            raise TypeError("cause and fix of a DestinationError are text")
        super().__init__(f"{cause}: {fix}")
        self.cause = cause
        self.fix = fix
        self.argument: Path = (argument,) if isinstance(argument, str) else argument
        self.on_key = on_key

    def finding(self, target: Path) -> Finding:
        """This error as a finding about the Destination; `target` is the place of its ARN."""
        path = ("arguments", *self.argument) if self.argument else target
        return Finding(path, self.cause, self.fix, self.on_key)


class DeliveryError(Exception):
    """A batch was not delivered, or not all of it.

    - `reason`: a stable PascalCase word for counters.
    - `detail`: a sentence for a person, in our words: no bare text of a library, no secret.
    - `retryable`: the same packets may be taken a moment later (throttling, 5xx, a full disk).
    - `packets`: which packets of the batch failed, by their index from 0; None means all. Only these are tried again,
      as a smaller batch in the same order. The others count as delivered at once.

        >>> from sluicegate import DeliveryError
        >>> throttled = DeliveryError("Throttled", "2 of 10 packets were too fast", retryable=True, packets=[3, 7])
        >>> sorted(throttled.packets)
        [3, 7]

    A service may refuse each packet for a reason of its own. Then `packets` has a `DeliveryError` for each of them,
    and each is repeated or given up as its own error says:

        >>> DeliveryError("Refused", "the service took 8 of 10 packets", packets={
        ...     3: DeliveryError("Throttled", "too fast", retryable=True),
        ...     7: DeliveryError("TooLong", "the service takes 256 KiB"),
        ... }).packets[3].retryable
        True

    With no index in `packets`, or one that the batch does not have, all packets count as failed.

    - `retry_after`: seconds in which the service wants no further attempt (HTTP's `Retry-After`). The gateway pauses
      for so long at least, and for 60 s at most.
    - `answer`: what the service answered for the packets that it took, as `Destination.deliver` would return it.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        retryable: bool = False,
        *,
        packets: Iterable[int] | Mapping[int, DeliveryError] | None = None,
        retry_after: float = 0.0,
        answer: bytes | None = None,
    ) -> None:
        if not (isinstance(reason, str) and isinstance(detail, str) and reason.isascii()):
            # A reason is the label of a counter, and an exception as detail would be a library's bare text.
            raise TypeError("reason and detail of a DeliveryError are text, the reason in ASCII")
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retryable = retryable
        self.retry_after = retry_after
        self.answer = answer
        self.packets: Mapping[int, DeliveryError] | None = None
        if isinstance(packets, Mapping):
            self.packets = packets
        elif packets is not None:
            self.packets = dict.fromkeys(packets, DeliveryError(reason, detail, retryable))

    @classmethod
    def from_aws(cls, error: AwsError) -> DeliveryError:
        """The error for packets whose call to AWS failed.

        Retryable are throttling, no answer in time, 5xx, and expired credentials. A missing permission or resource is
        not: every attempt fails until somebody mends it. The reason is `Throttled`, `AccessDenied`,
        `ExpiredCredentials`, or the service's own code.

            >>> from sluicegate import DeliveryError
            >>> from sluicegate.aws import AwsError
            >>> failed = DeliveryError.from_aws(AwsError("sqs", "SendMessage", "QueueDoesNotExist", "no such queue"))
            >>> failed.reason, failed.retryable
            ('QueueDoesNotExist', False)
        """
        return cls(_aws_reason(error), str(error), error.retryable or error.expired)

    @classmethod
    def of_packets(cls, failed: Mapping[int, DeliveryError]) -> DeliveryError:
        """The error for a batch of which these packets failed, each with its own error; it says what the first one
        says."""
        first = failed[min(failed)]
        return cls(first.reason, first.detail, first.retryable, packets=failed)


@dataclass(frozen=True, slots=True)
class Expression:
    """A BREX expression among a Destination's arguments; bytes of its value are shown in `formatter`.

    >>> from sluicegate import Expression
    >>> Expression("[0:4]").formatter
    'hex'
    """

    text: str
    formatter: str = "hex"


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """The gateway around a Destination, as far as the Destination may know it.

    - `listener`: the Listener's name.
    - `region`: the node's region.
    - `node`: the node's number.
    - `base_dir`: the configuration's directory. Relative paths are relative to it (contract section 8).
    - `events`: where events go. Failed deliveries are reported for you.
    - `aws`: the gateway's way to AWS. It costs nothing before the first call.
    - `role`: what the Destination's `role` names, for `aws.call(…, role=context.role)`; None means the gateway's own
      credentials.
    - `local_code`: folders below which files must lie, where the document came by the API; else None. `local_path`
      observes it.
    - `cache`: shared by all Destinations of the gateway, for clients that are worth sharing.

        >>> from sluicegate.testing import destination_context
        >>> context = destination_context(region="eu-west-1")
        >>> context.region, context.role
        ('eu-west-1', None)
    """

    listener: str
    region: str
    base_dir: pathlib.Path
    events: EventSink
    aws: Aws
    role: Role | None = None
    cache: MutableMapping[str, Any] = field(default_factory=dict)
    node: int = 1
    local_code: LocalCode | None = None

    def local_path(self, text: str, *, written: bool = False) -> pathlib.Path:
        """The file that `text` names, relative to `base_dir`. `written`: the Destination writes to it.

        Where the document came by the API, symbolic links are resolved, and a file outside of `local_code` raises
        `DestinationError`.

            >>> import pathlib
            >>> from sluicegate.testing import destination_context
            >>> destination_context(pathlib.Path("/srv")).local_path("packets/a.ndjson").as_posix()
            '/srv/packets/a.ndjson'
        """
        path = self.base_dir / text
        if self.local_code is None:
            return path
        try:
            return self.local_code.writable(path) if written else self.local_code.inside(path)
        except Outside as error:
            raise DestinationError(error.cause, error.fix) from None


class Destination(ABC):
    """Delivers batches of packets of one Listener to one target. A subclass is one kind of Destination.

        >>> import asyncio
        >>> from sluicegate import Arguments, DeliveryError, Destination, DestinationError, Threads
        >>> from sluicegate.testing import destination_context, packet_batch
        >>> class FolderDestination(Destination):
        ...     @classmethod
        ...     def from_spec(cls, name, target, arguments, context):
        ...         Arguments(arguments, f"destination {name}").finish()
        ...         if not target:
        ...             raise DestinationError(f"destination {name}: folder: names no folder", "write folder:PATH")
        ...         made = cls(name, context)
        ...         made.folder, made.threads, made.batches = context.local_path(target), Threads(name), 0
        ...         return made
        ...
        ...     async def provision(self):
        ...         await self.threads.call(lambda: self.folder.mkdir(exist_ok=True))
        ...
        ...     async def deliver(self, batch):
        ...         self.batches += 1
        ...         file = self.folder / f"{self.batches}.ndjson"
        ...         try:
        ...             await self.threads.call(lambda: file.write_bytes(batch.lines()))
        ...         except OSError as error:
        ...             raise DeliveryError("FileError", f"{file} cannot be written", retryable=True) from error
        ...
        ...     async def close(self):
        ...         self.threads.close()
        >>> import pathlib, tempfile
        >>> async def try_it(base_dir):
        ...     folder = FolderDestination.from_spec("keep", "packets", {}, destination_context(base_dir))
        ...     await folder.provision()
        ...     await folder.deliver(packet_batch("hello"))
        ...     await folder.close()
        ...     return (base_dir / "packets" / "1.ndjson").read_text().count("hello")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     asyncio.run(try_it(pathlib.Path(directory)))
        2

    The gateway calls, in this order: `from_spec`, `provision`, `deliver` for each batch, `close`. All of it runs in
    the gateway's event loop, which it must not block: `sluicegate.Threads` runs calls that block. The gateway repeats
    deliveries, counts packets and reports failures.
    """

    usage: ClassVar[str] = ""
    """The spelling of its `destination_arn`, for error messages: `file:PATH.ndjson`."""
    batch_bytes_limit: int | None = None
    """Most bytes of a batch that the service accepts; `SizeInMb` never goes above it (contract section 3)."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """The reasons of its `DeliveryError`s, as far as they are known. `/metrics` shows each from the start, as 0, so
    that an alert on the increase of a counter sees the first failure too."""

    def __init__(self, name: str, context: DestinationContext) -> None:
        self.name = name
        self.context = context

    @classmethod
    @abstractmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        """Parse and validate. `target` is the text after `scheme:`, or the whole ARN; `arguments` are the user's.

        Raises `DestinationError` for bad input, unknown arguments included. May read files; changes nothing.
        """

    @abstractmethod
    async def provision(self) -> None:
        """Open what delivery needs. Raises `DestinationError` if that cannot work until the user changes something."""

    @abstractmethod
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        """Deliver one batch; return the service's answer as it came, or None when there is none.

        The answer is meant to be `{"Replies": [...]}` (contract section 3), but need not be checked here.
        Raises `DeliveryError`: then no packet of the batch counts as delivered, or all but those that the error
        names. Packets that are tried again come in a smaller batch, which may succeed and give an answer.

        With `concurrency` 1, batches keep their order. Within a batch, packets that are tried again come after the
        packets that were accepted before; the next batch comes after both.

        The gateway may cancel a delivery when it stops.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything, also after a failed `provision`. Is called once and does not raise."""

    @property
    def expressions(self) -> Mapping[str, Expression]:
        """What to ask of each packet, by the name of the argument. The native side evaluates them when a packet
        arrives, and `batch.values(name)` has all results of a batch. Fixed after `from_spec`."""
        return {}

    @property
    def concurrency(self) -> int:
        """How many batches may be in `deliver` at the same time; 1 keeps their order. Fixed after `from_spec`."""
        return 1


_FORMATTERS = ("hex", "base64", "utf8", "ascii")


class Arguments:
    """Reads a Destination's `Arguments`: both spellings, string scalars (contract section 1), no unknown names.

        >>> from sluicegate import Arguments
        >>> reader = Arguments({"port": "514", "TimeoutInSeconds": 2}, "destination log")
        >>> reader.integer("Port", 601, 1, 65535), reader.number("TimeoutInSeconds", 10.0, 0.1, 60.0)
        (514, 2.0)
        >>> reader.finish()

    Every reader raises `DestinationError` for a value that does not fit; `finish` raises it for an argument that nobody
    read.
    """

    def __init__(self, arguments: Mapping[str, Any], owner: str) -> None:
        self._values = {_spelling(name): value for name, value in arguments.items()}
        self._written = {_spelling(name): name for name in arguments}
        self._known: list[str] = []
        self._owner = owner

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """The argument as a number from `low` to `high`; `default` without one."""
        value = self._take(name)
        if value is None:
            return default
        return self._in_range(name, value, float, low, high)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """The argument as a whole number from `low` to `high`; `default` without one."""
        value = self._take(name)
        if value is None:
            return default
        return int(self._in_range(name, value, int, low, high))

    def text(self, name: str, default: str = "") -> str:
        """The argument as one text; `default` without one. It may be a secret: no error message shows it."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, Mapping | list | tuple):
            raise self.wrong(name, f"{name} is not a text", f"write {name} as one value")
        return _text(value)

    def expression(self, name: str, default: str = "", formatter: str | None = None) -> Expression | None:
        """The argument as a BREX expression (`docs/reference/brex.md`); `default`, or None, without one.

        `PartitionKeyExpression` has its formatter in `PartitionKeyFormatter` (or `PartitionKeyExpressionFormatter`):
        `hex` without one. With `formatter` there is no such argument.

            >>> from sluicegate import Arguments
            >>> Arguments({"partition_key_expression": "[0:2]"}, "log").expression("PartitionKeyExpression")
            Expression(text='[0:2]', formatter='hex')
        """
        text = self.text(name, default)
        formatter = formatter or self._formatter(name)
        return self._expression(name, text, formatter) if text else None

    def expressions(self, name: str) -> dict[str, Expression]:
        """The argument as a map of BREX expressions, their bytes shown as `hex`; empty without one.

        >>> from sluicegate import Arguments
        >>> Arguments({"Properties": {"Speed": "u8[3]"}}, "log").expressions("Properties")
        {'Speed': Expression(text='u8[3]', formatter='hex')}
        """
        return {key: self._expression(name, text, "hex", key) for key, text in self.strings(name).items()}

    def _formatter(self, name: str) -> str:
        """What the user says of the bytes of the expression `name`."""
        which, long = f"{name.removesuffix('Expression')}Formatter", f"{name}Formatter"
        if _spelling(long) in self._values:
            if _spelling(which) in self._values:
                raise self.wrong(which, f"{which} and {long} are the same", "write one of them")
            which = long
        formatter = self.text(which, "hex")
        if formatter not in _FORMATTERS:
            raise self.wrong(which, f"{which} is {formatter!r}", f"use {', '.join(_FORMATTERS)}")
        return formatter

    def _expression(self, name: str, text: str, formatter: str, *inside: str) -> Expression:
        if (wrong := _native.brex_error(text)) is not None:
            column, cause, fix = wrong
            raise self.wrong(
                name, f"character {column} of {' '.join((name, *inside))}: {cause}", fix, *inside
            )
        return Expression(text, formatter)

    def flag(self, name: str) -> bool:
        """The argument as true or false; false without one.

        >>> from sluicegate import Arguments
        >>> Arguments({"SendRaw": "True"}, "destination log").flag("SendRaw")
        True
        """
        value = self.text(name).lower()
        if value not in ("", "true", "false"):
            raise self.wrong(name, f"{name} is {value!r}", "use true or false")
        return value == "true"

    def strings(self, name: str) -> dict[str, str]:
        """The argument as a map of strings; empty without one. Values may be secrets: no error message shows them."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or any(
            isinstance(v, Mapping | list | tuple) for v in value.values()
        ):
            raise self.wrong(name, f"{name} is not a map of strings", f"write {name} as NAME: value")
        return {str(k): _text(v) for k, v in value.items()}

    def __contains__(self, name: str) -> bool:
        return self._values.get(_spelling(name)) is not None

    def finish(self) -> None:
        """Raise `DestinationError` if the user gave an argument that nobody read."""
        known = {_spelling(name) for name in self._known}
        unknown = tuple(sorted(self._written[key] for key in self._values if key not in known))
        if unknown:
            cause = f"{self._owner} has no argument {', '.join(unknown)}"
            fix = f"known are {', '.join(self._known)}" if self._known else "it takes none"
            raise DestinationError(cause, fix, argument=unknown[:1], on_key=True)

    def wrong(self, name: str, cause: str, fix: str, *inside: str) -> DestinationError:
        """The error to raise for the argument `name`; `inside` leads to the key that is meant in its map."""
        argument = (self._written.get(_spelling(name), name), *inside)
        return DestinationError(f"{self._owner}: {cause}", fix, argument=argument)

    def _take(self, name: str) -> Any:
        self._known.append(name)
        return self._values.get(_spelling(name))

    def _in_range(
        self, name: str, value: Any, kind: Callable[[Any], float], low: float, high: float
    ) -> float:
        try:
            number = kind(value) if isinstance(value, str | int | float) and value is not True else None
            whole = number is not None and number == float(value)
        except (ValueError, OverflowError):
            number = None
        # An int() of 2.5 would cut it silently.
        if number is None or not whole or not low <= number <= high:
            what = "a whole number" if kind is int else "a number"
            raise self.wrong(name, f"{name} is {value!r}", f"use {what} from {low:g} to {high:g}")
        return number


def _aws_reason(error: AwsError) -> str:
    if error.throttled:
        return "Throttled"
    if error.denied:
        return "AccessDenied"
    if error.expired:
        return "ExpiredCredentials"
    # AWS.SimpleQueueService.NonExistentQueue → NonExistentQueue; botocore makes a code of a bare status, 404.
    word = re.sub(r"[^A-Za-z0-9]", "", error.code.rpartition(".")[2])
    word = f"Http{word}" if word[:1].isdigit() else word[:1].upper() + word[1:64]
    return word or "AwsError"


def _spelling(name: str) -> str:
    """`TimeoutInSeconds` and `timeout_in_seconds` are the same argument."""
    return name.replace("_", "").lower()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
