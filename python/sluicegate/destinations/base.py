"""The contract of a Destination: what a batch of packets is delivered to (contract sections 1.2 and 3).

To write one, subclass `Destination` and register it as an entry point of the group `sluicegate.destinations`;
the name of the entry point is the scheme (`nats` for `nats://…`) or the service of an ARN (`sqs` for
`arn:aws:sqs:…`):

    [project.entry-points."sluicegate.destinations"]
    syslog = "my_package.syslog:SyslogDestination"

The life of a Destination, in order, each step only after the one before succeeded:

    parse and validate   `from_spec`: reads its target and arguments; no side effects, `DestinationError`
    provision            `provision()`: opens what it needs, once
    run                  `deliver(batch)`: at most `concurrency` at the same time, each in a task of its own
    drain                nothing to implement: running deliveries get time to finish, then they are cancelled
    close                `close()`: releases everything; is called too when `provision` failed

A Destination runs in the gateway's event loop and must never block it: what can only block belongs into a
thread (`sluicegate.threads.Threads`). Queueing, retries, events and counters are the business of `delivery.py`,
not of a Destination.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

delivery_id: ContextVar[str] = ContextVar("sluicegate_delivery_id", default="")
"""Id of the batch that the current task delivers; the same for all attempts. It joins our log to the
service's.
"""


class EventSink(Protocol):
    """Where structured events go (contract section 6). Field names are PascalCase. Never blocks, never
    raises.
    """

    def emit(self, event: str, /, **fields: object) -> None: ...


class PacketBatch(Protocol):
    """Packets of one Destination, formatted; `sluicegate._native.Batch` is the real one."""

    @property
    def count(self) -> int:
        """How many packets, at least 1."""

    def body(self) -> bytes:
        """`{"Messages":[…]}` (contract section 2)."""

    def records(self) -> list[bytes]:
        """One JSON RequestPacket each, without line breaks."""

    def lines(self) -> bytes:
        """The same as lines, each with its line break (NDJSON)."""


class DestinationError(Exception):
    """A Destination cannot be made from what the user wrote; raised before any side effect.

    `cause` says what is wrong, `fix` the next step.
    """

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}: {fix}")
        self.cause = cause
        self.fix = fix


class DeliveryError(Exception):
    """A batch was not delivered.

    `reason` is a stable PascalCase word for counters, `detail` a sentence for a person: our words, no bare
    library text, no secrets. `retryable`: the same batch may succeed a moment later (throttling, 5xx, a full
    disk).
    """

    def __init__(self, reason: str, detail: str, retryable: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What a Destination may know about the gateway around it.

    `region` is the node's region; relative paths are relative to `base_dir`, the configuration's directory
    (contract section 8). `cache` is shared by all Destinations of the gateway, for clients that are worth
    sharing.
    """

    listener: str
    region: str
    base_dir: Path
    events: EventSink
    cache: MutableMapping[str, Any] = field(default_factory=dict)


class Destination(ABC):
    """One Destination of a Listener. The module's text tells its life cycle."""

    usage: ClassVar[str] = ""
    """How its `destination_arn` is written, for error messages: `file:PATH.ndjson`."""
    batch_bytes_limit: ClassVar[int | None] = None
    """Most bytes of a batch that the service takes; `SizeInMb` never goes above it (contract section 3)."""

    def __init__(self, name: str, context: DestinationContext) -> None:
        self.name = name
        self.context = context

    @classmethod
    @abstractmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        """Parse and validate. `target` is the text after `scheme:`, or the whole ARN; `arguments` are the
        user's.

        Raises `DestinationError` for bad input, unknown arguments included; may read files, changes nothing.
        """

    @abstractmethod
    async def provision(self) -> None:
        """Open what delivery needs. Raises `DestinationError` when that cannot work until the user changes
        something.
        """

    @abstractmethod
    async def deliver(self, batch: PacketBatch) -> bytes | None:
        """Deliver one batch; return the service's answer as it came, or None when there is none.

        The answer is meant to be `{"Replies": [...]}` (contract section 3), but need not be checked here.
        Raises `DeliveryError`; then no packet of the batch counts as delivered. May be cancelled while the
        gateway drains.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything, also after a failed `provision`. Is called once and does not raise."""

    @property
    def concurrency(self) -> int:
        """How many batches may be in `deliver` at the same time; 1 keeps their order. Fixed after
        `from_spec`.
        """
        return 1


class Arguments:
    """Reads a Destination's `Arguments`: both spellings, string scalars (contract section 1), no unknown
    names.

    Every reader raises `DestinationError` for a value that does not fit; `finish` raises it for what nobody
    read.
    """

    def __init__(self, arguments: Mapping[str, Any], owner: str) -> None:
        self._values = {_spelling(name): value for name, value in arguments.items()}
        self._written = {_spelling(name): name for name in arguments}
        self._known: list[str] = []
        self._owner = owner

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._take(name)
        if value is None:
            return default
        return self._in_range(name, value, float, low, high)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._take(name)
        if value is None:
            return default
        return int(self._in_range(name, value, int, low, high))

    def strings(self, name: str) -> dict[str, str]:
        """A map of scalars, as strings. Values may be secrets: no error message shows them."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or any(
            isinstance(v, Mapping | list | tuple) for v in value.values()
        ):
            raise DestinationError(
                f"{self._owner}: {name} is not a map of strings", f"write {name} as NAME: value"
            )
        return {str(k): _text(v) for k, v in value.items()}

    def __contains__(self, name: str) -> bool:
        return self._values.get(_spelling(name)) is not None

    def finish(self) -> None:
        known = {_spelling(name) for name in self._known}
        unknown = sorted(self._written[key] for key in self._values if key not in known)
        if unknown:
            fix = f"known are {', '.join(self._known)}" if self._known else "it takes none"
            raise DestinationError(f"{self._owner} has no argument {', '.join(unknown)}", fix)

    def _take(self, name: str) -> Any:
        self._known.append(name)
        return self._values.get(_spelling(name))

    def _in_range(
        self, name: str, value: Any, kind: Callable[[Any], float], low: float, high: float
    ) -> float:
        try:
            number = kind(value) if isinstance(value, str | int | float) and value is not True else None
        except ValueError:
            number = None
        # An int() of 2.5 would cut it silently.
        if number is None or number != float(value) or not low <= number <= high:
            what = "a whole number" if kind is int else "a number"
            raise DestinationError(
                f"{self._owner}: {name} is {value!r}", f"use {what} from {low:g} to {high:g}"
            )
        return number


def _spelling(name: str) -> str:
    """`TimeoutInSeconds` and `timeout_in_seconds` are the same argument."""
    return name.replace("_", "").lower()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
