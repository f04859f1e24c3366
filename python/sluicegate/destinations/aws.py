"""What the Destinations for services of AWS have in common: ARNs, calls, and batches that a service takes in parts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from sluicegate.aws.chunks import chunks
from sluicegate.aws.errors import BAD_ANSWER, AwsError
from sluicegate.aws.service import Service
from sluicegate.aws.signing import Protocol
from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    Expression,
    PacketBatch,
    early_answers,
)
from sluicegate.destinations.batch import RecordBatch

SECONDS = 10.0
"""For an answer, from services that only store."""
PARALLEL_PARTS = 16
"""Of one batch; each may need a connection of its own."""
ENVELOPE = len('{"Messages":[]}')

T = TypeVar("T")
Content = dict[str, object]
"""A packet as a part of a request in AWS's JSON."""

_ARN = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:([a-z0-9-]*):([0-9]{12})?:(.+)", re.DOTALL)


class Arn(NamedTuple):
    """An ARN and its parts; S3's have neither region nor account."""

    text: str
    region: str
    account: str
    resource: str


class Limits(NamedTuple):
    """What a service takes in one request: so many entries, so many bytes together, and in one entry."""

    entries: int
    size: int
    entry_size: int


class Entry(NamedTuple, Generic[T]):
    """A packet as the service gets it, and the bytes that count for its limits. A request has entries of one `lane`."""

    size: int
    content: T
    lane: str = ""


Refused = Mapping[int, AwsError]
"""The entries of a part that the service did not take, by their place in the part."""


class AwsDestination(Destination):
    """Base of the Destinations for AWS. A subclass reads its arguments in `read`.

    Nothing is opened before the first delivery: a service that is not there yet, or a role that may do too little,
    fails deliveries and not the start. Calls go to the ARN's region, in the name of the Destination's role.
    """

    resource: ClassVar[re.Pattern[str]]
    """The end of an ARN, from its sixth part on."""
    protocol: ClassVar[Protocol]
    permissions: ClassVar[tuple[tuple[str, tuple[str, ...]], ...]]
    """What its role has to allow: actions on resources, with `ARN` for the DestinationArn."""
    arguments: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Each argument with its meaning, for the reference."""
    example: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Arguments that it cannot do without, and values, for the reference."""
    limits: ClassVar[str]
    """What goes into one request, for the reference."""
    parallel: ClassVar[int] = 8
    """Batches at the same time."""
    reasons: ClassVar[tuple[str, ...]] = (
        "Throttled",
        "AccessDenied",
        "ExpiredCredentials",
        "NoCredentials",
        "NoAnswer",
        "TimedOut",
        "PacketTooLarge",
    )

    def __init__(self, name: str, context: DestinationContext, arn: Arn) -> None:
        super().__init__(name, context)
        self.arn = arn
        self._expressions: dict[str, Expression] = {}

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        found = _ARN.fullmatch(target)
        if found is None or not cls.resource.fullmatch(found[3]) or ("REGION" in cls.usage) != bool(found[1]):
            cause = f"destination {name}: {target!r} is not what {cls.protocol.service} takes"
            raise DestinationError(cause, f"write it as {cls.usage}")
        made = cls(name, context, Arn(target, found[1], found[2] or "", found[3]))
        reader = Arguments(arguments, f"destination {name}")
        made.read(reader)
        reader.finish()
        return made

    def read(self, arguments: Arguments) -> None:
        """Read and check the arguments. Raises `DestinationError`."""

    def read_expressions(self, arguments: Arguments, *names: str) -> None:
        """Those of these arguments that are given become `expressions`."""
        found = {name: arguments.expression(name) for name in names}
        self._expressions = {name: one for name, one in found.items() if one is not None}

    async def provision(self) -> None:
        """Nothing yet."""

    async def close(self) -> None:
        """Nothing: connections belong to the gateway's `Aws`."""

    @property
    def expressions(self) -> Mapping[str, Expression]:
        return self._expressions

    @property
    def concurrency(self) -> int:
        return self.parallel

    def service(self, region: str = "", asked: tuple[str, Mapping[str, object]] | None = None) -> Service:
        """The service in the ARN's region (or another one), called in the name of the Destination's role."""
        return self.context.aws.service(
            self.protocol, region=region or self.arn.region, role=self.context.role, asked=asked
        )


async def deliver_in_parts(
    entries: Sequence[Entry[T] | DeliveryError],
    limits: Limits,
    send: Callable[[Sequence[T]], Awaitable[Refused]],
    *,
    ordered: bool = False,
) -> None:
    """Deliver the entries of a batch, one for each packet, in as few requests as `limits` allow.

    `send` delivers one part, and raises `AwsError` or `DeliveryError` if none of it was taken. A packet that cannot be
    an entry has a `DeliveryError` in its place; one above the limit gets one. All others go out. Raises a
    `DeliveryError` that names the packets that failed, each with its own.

    `ordered`: one part after the other. After one that was not taken none follows: its packets come again, and those
    behind them too.
    """
    failed: dict[int, DeliveryError] = {}
    lanes: dict[str, list[tuple[int, Entry[T]]]] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, DeliveryError):
            failed[index] = entry
        elif entry.size > limits.entry_size:
            failed[index] = too_large(entry.size, limits.entry_size)
        else:
            lanes.setdefault(entry.lane, []).append((index, entry))
    parts = [
        lane[start:end]
        for lane in lanes.values()
        for start, end in chunks((entry.size for _, entry in lane), limits.entries, limits.size)
    ]
    free = asyncio.Semaphore(1 if ordered else PARALLEL_PARTS)
    stopped: DeliveryError | None = None

    async def one(part: Sequence[tuple[int, Entry[T]]]) -> None:
        nonlocal stopped
        async with free:
            try:
                if ordered and stopped is not None:
                    raise stopped
                refused = await send([entry.content for _, entry in part])
            except (AwsError, DeliveryError) as error:
                stopped = delivery_error(error)
                failed.update((index, stopped) for index, _ in part)
            else:
                failed.update((part[place][0], delivery_error(error)) for place, error in refused.items())

    if len(parts) == 1:
        await one(parts[0])
    else:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(one(part))
    if failed:
        raise DeliveryError.of_packets(failed)


async def deliver_documents(
    batch: PacketBatch, limit: int, send: Callable[[bytes], Awaitable[bytes | None]]
) -> bytes | None:
    """Deliver a batch as one `{"Messages": […]}`, or as some of `limit` bytes at most. `send` delivers one and returns
    its answer; those of a batch in parts do not wait for each other. Errors are as with `deliver_in_parts`."""
    if len(body := batch.body()) <= limit:
        try:
            return await send(body)
        except AwsError as error:
            raise delivery_error(error) from error

    async def send_part(records: Sequence[bytes]) -> Refused:
        await answer_early(await send(RecordBatch(records).body()))
        return {}

    entries = [Entry(len(record) + 1, record) for record in batch.records()]
    await deliver_in_parts(entries, Limits(batch.count, limit - ENVELOPE, limit - ENVELOPE), send_part)
    return None


async def answer_early(answer: bytes | None) -> None:
    """Send the answer for a part of the batch, now."""
    answers = early_answers.get()
    if answer is not None and answers is not None:
        await answers.send(answer)


def refused_records(
    operation: str, answer: Mapping[str, Any], key: str, sent: int, arn: Arn, service: str
) -> Refused:
    """What the answer of Kinesis, Firehose or EventBridge says of `sent` records: under `key` one result for each."""
    results = answer.get(key)
    if not isinstance(results, list) or len(results) != sent:
        raise strange_answer(service, operation, arn)
    return {
        place: AwsError(
            service,
            operation,
            str(result["ErrorCode"]),
            str(result.get("ErrorMessage", "")),
            resource=arn.text,
        )
        for place, result in enumerate(results)
        if result.get("ErrorCode")
    }


def strange_answer(service: str, operation: str, arn: Arn) -> AwsError:
    cause = "the answer does not have what the service says it has; check who answers at the endpoint"
    return AwsError(service, operation, BAD_ANSWER, cause, status=200, resource=arn.text)


def delivery_error(error: AwsError | DeliveryError) -> DeliveryError:
    return DeliveryError.from_aws(error) if isinstance(error, AwsError) else error


def too_large(size: int, limit: int) -> DeliveryError:
    """The error for a packet that the service cannot take."""
    return DeliveryError(
        "PacketTooLarge", f"the packet takes {size} bytes, and the service takes {limit} in one"
    )
