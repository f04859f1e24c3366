"""Dead letters in SQS: a chunk of letters goes at a time, and those that SQS did not take are tried again.

The gateway's own credentials are used. They need `sqs:GetQueueUrl` and `sqs:SendMessage` on the queue.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from sluicegate.aws import Aws, AwsError, Queue
from sluicegate.backoff import Backoff
from sluicegate.deadletters.keeper import DeadLetterKeeper, Waiting
from sluicegate.deadletters.letter import LETTER_BYTES, DeadLetter, FailedMessage
from sluicegate.events import EventLog

WAITING_BYTES = 16 << 20
SMALLEST_BYTES = 1_024  # the lowest MaximumMessageSize that a queue can have
CHUNK = 100  # letters in one go: up to ten requests of SendMessageBatch at once

# Codes of single letters in a batch: the queue will never take this one as it is.
_REFUSED = frozenset(
    ["InvalidMessageContents", "InvalidParameterValue", "InvalidParameterValueException", "MessageTooLong"]
)


@dataclass(slots=True)
class _Letter:
    letter: DeadLetter
    body: str
    of: Waiting[DeadLetter]
    cut: bool = False


class DeadLetterQueue(DeadLetterKeeper[DeadLetter]):
    """The SQS queue `arn`. It is looked up at once, so that a wrong ARN or policy is an event at the start. `close` it
    before `aws`."""

    kept_verb = "sent to"

    def __init__(
        self,
        arn: str,
        aws: Aws,
        events: EventLog,
        *,
        limit_bytes: int = WAITING_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(arn, events, limit_bytes=limit_bytes, backoff=backoff)
        self._aws = aws
        self._made: deque[_Letter] = deque()
        self._queue: Queue | None = None

    async def close(self, seconds: float) -> None:
        await super().close(seconds)
        self._made.clear()

    # The task

    async def _prepare(self) -> None:
        if self._queue is None:
            _, _, _, region, account, name = self.name.split(":")
            wanted = {"QueueName": name, "QueueOwnerAWSAccountId": account}
            answer = await self._aws.call("sqs", "GetQueueUrl", wanted, region=region)
            self._queue = self._aws.queue(str(answer["QueueUrl"]), region=region)

    async def _keep(self) -> str | None:
        assert self._queue is not None  # noqa: S101  (`_prepare`)
        codes = await self._send(self._queue)
        return f"SQS did not take some ({', '.join(sorted(codes))})" if codes else None

    def _letters_of(self, message: FailedMessage) -> Iterator[DeadLetter]:
        return message.letters()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, AwsError):
            if not error.retryable:
                self._queue = None  # it may have been made anew
            # A policy names the ARN; other errors are better told with the URL that was asked.
            error = error.about(self.name) if error.denied else error
        super()._failed(error)

    async def _send(self, queue: Queue) -> set[str]:
        """Send letters from the head; the codes of those that are to be tried again."""
        self._make()
        chunk = list(self._made)
        failed = dict(await queue.send([one.body for one in chunk]))
        self._made.clear()
        codes: set[str] = set()
        for index, one in enumerate(chunk):
            code = failed.get(index)
            if code is None:
                self._kept += one.letter.failures
                self._end(one.of, one.letter.failures)
            elif code not in _REFUSED:
                codes.add(code)
                self._made.append(one)
            elif not one.cut:
                one.body, one.cut = one.letter.text(SMALLEST_BYTES), True
                self._made.append(one)
            else:
                self._refused(one, code)
                self._end(one.of, one.letter.failures)
        self._settle_ended()
        return codes

    def _make(self) -> None:
        """Make letters of the messages at the head, up to a chunk with those that are tried again."""
        for waiting in list(itertools.islice(self._waiting.values(), CHUNK)):
            try:
                while waiting.unmade and len(self._made) < CHUNK:
                    letter = next(waiting.letters)
                    self._made.append(_Letter(letter, letter.text(LETTER_BYTES), waiting))
                    waiting.unmade -= letter.failures
            except Exception as error:
                self._not_made(waiting, error)
            if not waiting.unmade:
                waiting.letters = iter(())  # lets go of the entries

    def _refused(self, one: _Letter, code: str) -> None:
        self._lost += 1
        message, index = one.of.message, one.letter.failure.index
        detail = f"{self.name} refuses this dead letter ({code}): check its MaximumMessageSize"
        self._emit(message, "Refused", f"{detail}; entry {index} of message {message.message_id}", 1)
