"""`arn:aws:lambda:…`: a Lambda function, invoked with each batch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.frames import BadFrame, Frames
from sluicegate.aws.signing import LAMBDA
from sluicegate.destinations.aws import (
    ENVELOPE,
    AwsDestination,
    Entry,
    Limits,
    Refused,
    answer_early,
    deliver_in_parts,
    delivery_error,
)
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch
from sluicegate.destinations.batch import RecordBatch
from sluicegate.destinations.streaming import ReplyStream

SECONDS = 930.0
"""A function runs for 15 minutes at most."""
LIMIT, ASYNC_LIMIT = 6 << 20, 1 << 20
"""Bytes of an invocation."""
STREAMS = 250
"""Open at the same time: a function may write for 15 minutes, and the gateway keeps its batch."""
TENANT = "TenantIdExpression"
_TENANT_ID = re.compile(r"[a-zA-Z0-9._:/=+@ -]{1,256}")  # Invoke: TenantId


class LambdaDestination(AwsDestination):
    """Invokes a Lambda function, or an alias or version of one, with each batch; its result is the answer.

    With `UseResponseStreaming` the function writes ResponsePackets or `{"Replies": […]}` documents into its response
    stream, one after the other, for as long as it runs. An error on the way ends the batch; replies before it are sent.

    A function that failed is not invoked again: the same packets would most likely do the same. With `UseAsyncInvoke`
    Lambda keeps the batch and invokes the function later: there are no replies. `TenantId` names the tenant of a
    function with tenant isolation. `TenantIdExpression` says whose each packet is: then each tenant's packets are an
    invocation of their own, and those for which it is null belong to `TenantId`.
    """

    usage = (
        "arn:aws:lambda:REGION:ACCOUNT:function:NAME or arn:aws:lambda:REGION:ACCOUNT:function:NAME:QUALIFIER"
    )
    resource = re.compile(r"function:[A-Za-z0-9_-]{1,64}(:(\$LATEST|[A-Za-z0-9_-]{1,128}))?")
    protocol = LAMBDA
    permissions = (("ARN", ("lambda:InvokeFunction",)), ("ARN:*", ("lambda:InvokeFunction",)))
    arguments = (
        ("UseResponseStreaming", "true: each reply is sent the moment that the function writes it"),
        (
            "UseAsyncInvoke",
            "true: invocation type Event, without replies (a role may have `lambda:InvokeAsync`)",
        ),
        ("TenantId", "the tenant of all packets, of a function with tenant isolation"),
        (TENANT, "the tenant of each packet"),
        ("TenantIdFormatter", "how its bytes are shown: `hex` (default), `base64`, `utf8`, `ascii`"),
    )
    limits = "6 MiB in an invocation, 1 MiB with `UseAsyncInvoke`. A function has 15 minutes."
    parallel = 100
    reasons = (*AwsDestination.reasons, "FunctionError", "FunctionTimeout", "StreamBroken", "BadTenantId")

    def read(self, arguments: Arguments) -> None:
        later = arguments.flag("UseAsyncInvoke")
        self._streams = arguments.flag("UseResponseStreaming")
        if later and self._streams:
            cause = "UseResponseStreaming and UseAsyncInvoke exclude each other"
            raise arguments.wrong("UseResponseStreaming", cause, "leave one of them out")
        self._operation = "InvokeWithResponseStream" if self._streams else "Invoke"
        self._headers = {"x-amz-invocation-type": "Event"} if later else {}
        self._limit = self.batch_bytes_limit = ASYNC_LIMIT if later else LIMIT
        self._tenant = arguments.text("TenantId")
        if self._tenant and not _TENANT_ID.fullmatch(self._tenant):
            cause = f"TenantId {self._tenant!r} is none that Lambda takes"
            raise arguments.wrong(
                "TenantId", cause, "use up to 256 letters, digits, spaces and . _ : / = + @ -"
            )
        self.read_expressions(arguments, TENANT)
        self._service = self.service(asked=(self._operation, {"FunctionName": self.arn.text}))

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        if TENANT in self.expressions or len(body := batch.body()) > self._limit:
            entries = list(map(self._entry, batch.records(), self._tenants(batch)))
            limits = Limits(batch.count, self._limit - ENVELOPE, self._limit - ENVELOPE)
            await deliver_in_parts(entries, limits, self._invoke_for_one)
            return None
        try:
            return await self._invoke(body, self._tenant)
        except AwsError as error:
            raise delivery_error(error) from error

    @property
    def concurrency(self) -> int:
        return STREAMS if self._streams else self.parallel

    def _tenants(self, batch: PacketBatch) -> list[str | None]:
        return batch.values(TENANT) if TENANT in self.expressions else [None] * batch.count

    def _entry(self, record: bytes, tenant: str | None) -> Entry[tuple[str, bytes]] | DeliveryError:
        tenant = tenant or self._tenant
        if TENANT in self.expressions and not _TENANT_ID.fullmatch(tenant):
            return DeliveryError("BadTenantId", "TenantIdExpression gives no tenant's name that Lambda takes")
        return Entry(len(record) + 1, (tenant, record), tenant)

    async def _invoke_for_one(self, records: Sequence[tuple[str, bytes]]) -> Refused:
        """With packets of one tenant; its answer does not wait for those of others."""
        body = RecordBatch(record for _, record in records).body()
        await answer_early(await self._invoke(body, records[0][0]))
        return {}

    async def _invoke(self, body: bytes, tenant: str) -> bytes | None:
        headers = {**self._headers, "x-amz-tenant-id": tenant} if tenant else self._headers
        stream = _Stream() if self._streams else None
        try:
            answer = await self._service.request(
                self._operation, headers, body, self.arn.text, SECONDS, take=stream.take if stream else None
            )
        except (AwsError, BadFrame) as error:
            if stream is None or not stream.begun:
                raise
            raise _broken(str(error)) from error
        finally:
            if stream is not None:
                stream.replies.end(complete=stream.complete)
        if stream is not None:
            if not stream.complete:
                raise _broken("its last message is missing")
            return None
        if "x-amz-function-error" in answer.headers:
            raise _failure(answer.body)
        return answer.body


class _Stream:
    """The response stream of one invocation."""

    def __init__(self) -> None:
        self._frames, self.replies = Frames(), ReplyStream()
        self.begun = self.complete = False

    async def take(self, data: bytes) -> None:
        """Hand on what has come. Raises `BadFrame`, and `DeliveryError` for a function that failed."""
        self.begun = True
        for frame in self._frames.feed(data):
            if frame.kind != "event":
                raise _broken(frame.name)
            if frame.name == "PayloadChunk":
                await self.replies.feed(frame.payload)
            elif frame.name == "InvokeComplete":
                told = orjson.loads(frame.payload or b"{}")
                if told.get("ErrorCode"):
                    named = {"errorType": told["ErrorCode"], "errorMessage": told.get("ErrorDetails")}
                    raise _failure(orjson.dumps(named))
                self.complete = True


def _broken(cause: str) -> DeliveryError:
    """The function has begun: another attempt would be another invocation."""
    return DeliveryError("StreamBroken", f"the function's answer broke off: {cause}")


def _failure(result: bytes) -> DeliveryError:
    """The error for what a function that failed has instead of a result."""
    try:
        told = orjson.loads(result)
        kind, message = str(told.get("errorType") or "an error"), str(told.get("errorMessage") or "")
    except (orjson.JSONDecodeError, AttributeError):
        kind, message = "an error", ""
    reason = "FunctionTimeout" if kind == "Sandbox.Timedout" else "FunctionError"
    return DeliveryError(reason, " ".join(f"the function failed with {kind}: {message}".split()).rstrip(": "))
