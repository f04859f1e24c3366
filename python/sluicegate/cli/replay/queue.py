"""Replaying the dead letters of an SQS queue: the gateway's own, and messages that SNS could not deliver.

Receive → publish → delete: a letter is deleted once its entries have ended, so an interruption repeats at most what was
on its way. What is not sent is held until the end, so that each letter is looked at once, and then shown to others
again, as it was. The queue is replayed until it is empty; what fails again on the way comes back into it as a new
letter and is known by the MessageId that the gateway gave it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from sluicegate.aws import Aws, AwsError, Queue, QueueMessage
from sluicegate.backoff import Backoff
from sluicegate.cli.client import call
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError
from sluicegate.cli.replay.letters import (
    BATCH,
    Choice,
    Counts,
    Letter,
    Pace,
    entries_of,
    fitting,
    keeping,
    parse,
    send,
)
from sluicegate.linefile import append_locked
from sluicegate.sources.egress_region import attribute_of, named_regions

HELD_SECONDS = 600
"""Others do not see what this replay has received; if it is killed, they see it again after this time."""
RENEW_SECONDS = 240.0
POLL_SECONDS = 2
DELETE_ATTEMPTS = 6
SNS_REASON = "SnsDeliveryFailed"


async def replay_queue(
    arn: str,
    api: Api,
    choice: Choice,
    *,
    rate: float | None = None,
    dry_run: bool = False,
    to: Path | None = None,
    endpoint_url: str | None = None,
) -> Counts:
    """Send what is asked for, or append it to the file `to`; how many letters ended how. Raises `CliError`."""
    async with _open(arn, endpoint_url) as queue, _Held(queue) as held:
        replay = _Replay(arn, queue, held, api, choice, Pace(rate))
        try:
            await replay.run(dry_run, to)
        except AwsError as error:
            raise CliError(f"the replay stopped: {error}") from None
        return replay.counts


@asynccontextmanager
async def _open(arn: str, endpoint_url: str | None) -> AsyncIterator[Queue]:
    try:
        _, _, service, region, account, name = arn.split(":")
        if service != "sqs":
            raise ValueError
    except ValueError:
        raise CliError(
            f"{arn} is no queue, use arn:aws:sqs:REGION:ACCOUNT:NAME or the path of a file"
        ) from None
    aws = Aws(region, endpoint_url)
    try:
        answer = await aws.call("sqs", "GetQueueUrl", {"QueueName": name, "QueueOwnerAWSAccountId": account})
        yield aws.queue(str(answer["QueueUrl"]))
    except AwsError as error:
        raise CliError(f"the queue cannot be opened: {error}") from None
    finally:
        await aws.close()


class _Held:
    """Messages that others are not to see for now; at the end they see them again."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._receipts: dict[str, str] = {}
        self._renewing: asyncio.Task[None] | None = None

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._receipts

    def add(self, message: QueueMessage) -> None:
        self._receipts[message.message_id] = message.receipt

    def remove(self, message: QueueMessage) -> None:
        self._receipts.pop(message.message_id, None)

    async def __aenter__(self) -> "_Held":
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._renewing is not None  # noqa: S101
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        if self._receipts:
            # Failing that, they are seen again after HELD_SECONDS.
            with contextlib.suppress(AwsError):
                await self._queue.extend(list(self._receipts.values()), 0)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(AwsError):
                await self._queue.extend(list(self._receipts.values()), HELD_SECONDS)


class _Replay:
    def __init__(self, arn: str, queue: Queue, held: _Held, api: Api, choice: Choice, pace: Pace) -> None:
        self.counts = Counts()
        self._arn = arn
        self._queue = queue
        self._held = held
        self._api = api
        self._choice = choice
        self._pace = pace
        self._keeps: set[str] = set()
        self._done: set[str] = set()
        self._failed_again: set[str] = set()

    async def run(self, dry_run: bool, to: Path | None) -> None:
        sources = (await asyncio.to_thread(call, self._api, "GET", "/v1/packet-sources"))["Items"]
        self._keeps = keeping(sources)
        region = str((await asyncio.to_thread(call, self._api, "GET", "/healthz")).get("Region"))
        while messages := await self._receive():
            new = [message for message in messages if message.message_id not in self._held]
            for message in messages:
                self._held.add(message)
            await self._delete([message for message in new if message.message_id in self._done])
            pairs = [
                (message, letter)
                for message in new
                if message.message_id not in self._done
                and not self._is_ours(letter := read(message.body, self._arn, sources, self._choice))
            ]
            if to is not None:
                await self._move(pairs, to, dry_run)
            else:
                await self._replay(pairs, region, dry_run)
            if not new:
                return  # nothing but what is held already: its time has run out, and everything was looked at

    async def _receive(self) -> list[QueueMessage]:
        found: list[QueueMessage] = []
        while len(found) < BATCH:
            # A short poll asks some of SQS's servers only: the end is where a long one finds nothing.
            seconds = 0 if found else POLL_SECONDS
            more = await self._queue.receive(wait_seconds=seconds, visibility_seconds=HELD_SECONDS)
            if not more:
                break
            found += more
        return found

    def _is_ours(self, letter: Letter) -> bool:
        with contextlib.suppress(ValueError):
            document = orjson.loads(letter.raw)
            return isinstance(document, dict) and document.get("MessageId") in self._failed_again
        return False

    async def _replay(self, pairs: Sequence[tuple[QueueMessage, Letter]], region: str, dry_run: bool) -> None:
        chosen: dict[str, list[tuple[QueueMessage, Letter]]] = {}
        for message, letter in pairs:
            disposition = self._choice.disposition(letter, region)
            if disposition == "Replayed" and not dry_run:
                chosen.setdefault(letter.source, []).append((message, letter))
            else:
                self.counts[disposition] += 1
        for source, group in chosen.items():
            while group:
                count = fitting([letter for _, letter in group], self._pace.batch)
                await self._send(source, group[:count])
                group = group[count:]

    async def _send(self, source: str, group: Sequence[tuple[QueueMessage, Letter]]) -> None:
        letters = [letter for _, letter in group]
        await asyncio.sleep(self._pace.seconds(sum(letter.packets for letter in letters)))
        sent = await asyncio.to_thread(send, self._api, source, letters, self._choice.ignore_expiry)
        self._failed_again.add(sent.message_id)
        self.counts.add(sent, len(letters))
        # The gateway has made new letters of what failed again, if the PacketSource has a place for them.
        kept = source in self._keeps and sent.settled
        await self._delete(
            [message for place, (message, _) in enumerate(group) if kept or place not in sent.failed]
        )

    async def _move(self, pairs: Sequence[tuple[QueueMessage, Letter]], to: Path, dry_run: bool) -> None:
        asked = [(message, letter) for message, letter in pairs if self._choice.asks_for(letter)]
        self.counts["NotAsked"] += len(pairs) - len(asked)
        self.counts["Moved"] += len(asked)
        if dry_run or not asked:
            return
        lines = b"".join(letter.raw.rstrip(b"\n") + b"\n" for _, letter in asked)
        try:
            await asyncio.to_thread(append_locked, to, lines)
        except OSError as refused:
            raise CliError(f"{to} cannot be written: {refused.strerror}, check the directory") from None
        await self._delete([message for message, _ in asked])

    async def _delete(self, messages: Sequence[QueueMessage]) -> None:
        """Delete them, or end the command: they have been sent, and would be sent again by the next replay."""
        left = list(messages)
        self._done |= {message.message_id for message in left}
        cause = ""
        for attempt in range(1, DELETE_ATTEMPTS + 1):
            if not left:
                return
            try:
                failed = dict(await self._queue.delete([message.receipt for message in left]))
            except AwsError as error:
                failed, cause = dict.fromkeys(range(len(left)), error.code), str(error)
            for place, message in enumerate(left):
                if place not in failed:
                    self._held.remove(message)
            left = [message for place, message in enumerate(left) if place in failed]
            if left and attempt < DELETE_ATTEMPTS:
                cause = cause or ", ".join(sorted(set(failed.values())))
                await asyncio.sleep(Backoff().pause(attempt))
        if left:
            raise CliError(
                f"{len(left)} letters have been sent and could not be deleted from the queue: {cause}"
            )


def read(body: str, arn: str, sources: Sequence[dict[str, Any]], choice: Choice) -> Letter:
    """A message of the queue: a dead letter of the gateway, or an envelope that SNS could not deliver. `sources` are
    the gateway's, as its API shows them."""
    raw = body.encode("utf-8", "surrogatepass")
    try:
        document = orjson.loads(raw)
    except ValueError:
        return Letter(raw)
    if not isinstance(document, dict) or document.get("Type") != "Notification":
        return parse(raw)
    region = attribute_of(document.get("MessageAttributes"))
    source = _bound_source(document.get("TopicArn"), arn, sources, choice)
    message = document.get("Message")
    letter = {
        "PacketSource": source or "",
        "Listener": next((one["ListenerName"] for one in sources if one["Name"] == source), ""),
        "MessageId": document.get("MessageId"),
        "Index": None,
        "Reason": SNS_REASON,
        "Detail": "SNS could not deliver this message to the gateway's queue",
        "At": document.get("Timestamp"),
        "Entry": message,
    }
    return Letter(
        orjson.dumps(letter),
        source or "",
        SNS_REASON,
        entries_of(message) if source is not None else None,
        None if region is None else named_regions(region),
    )


def _bound_source(topic: object, arn: str, sources: Sequence[dict[str, Any]], choice: Choice) -> str | None:
    """The PacketSource that an envelope was meant for: of those bound to its topic, the one that keeps its dead letters
    in this queue, or that the user names. None if that leaves none, or more than one."""
    bound = [one for one in sources if one.get("SnsTopicSource", {}).get("TopicArn") == topic]
    here = [one for one in bound if one.get("DeadLetterQueueArn") == arn] or bound
    asked = [one for one in here if not choice.sources or one["Name"] in choice.sources]
    if len(asked) == 1:
        return str(asked[0]["Name"])
    return str(here[0]["Name"]) if len(here) == 1 else None
