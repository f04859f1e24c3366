"""`arn:aws:lambda:…`: a Lambda function, invoked with each batch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import LAMBDA
from sluicegate.destinations.aws import (
    AwsDestination,
    Entry,
    Limits,
    Refused,
    deliver_in_parts,
    delivery_error,
)
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch
from sluicegate.destinations.batch import RecordBatch

SECONDS = 930.0
"""A function runs for 15 minutes at most."""
LIMIT, ASYNC_LIMIT = 6 << 20, 1 << 20
"""Bytes of an invocation."""
TENANT = "TenantIdExpression"
_TENANT_ID = re.compile(r"[a-zA-Z0-9._:/=+@ -]{1,256}")  # Invoke: TenantId
_ENVELOPE = len('{"Messages":[]}')


class LambdaDestination(AwsDestination):
    """Invokes a Lambda function, or an alias or version of one, with each batch; its result is the answer.

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
    reasons = (*AwsDestination.reasons, "FunctionError", "FunctionTimeout", "BadTenantId")

    def read(self, arguments: Arguments) -> None:
        later = arguments.flag("UseAsyncInvoke")
        self._headers = {"x-amz-invocation-type": "Event"} if later else {}
        self._limit = self.batch_bytes_limit = ASYNC_LIMIT if later else LIMIT
        self._tenant = arguments.text("TenantId")
        if self._tenant and not _TENANT_ID.fullmatch(self._tenant):
            cause = f"TenantId {self._tenant!r} is none that Lambda takes"
            raise arguments.wrong(
                "TenantId", cause, "use up to 256 letters, digits, spaces and . _ : / = + @ -"
            )
        self.read_expressions(arguments, TENANT)
        self._service = self.service(asked=("Invoke", {"FunctionName": self.arn.text}))

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        answers: list[bytes] = []

        async def invoke_with(records: Sequence[tuple[str, bytes]]) -> Refused:
            body = RecordBatch(record for _, record in records).body()
            answers.append(await self._invoke(body, records[0][0]))
            return {}

        if TENANT in self.expressions or len(body := batch.body()) > self._limit:
            entries = list(map(self._entry, batch.records(), self._tenants(batch)))
            limits = Limits(batch.count, self._limit - _ENVELOPE, self._limit - _ENVELOPE)
            await deliver_in_parts(entries, limits, invoke_with)
            return _joined(answers)
        try:
            return await self._invoke(body, self._tenant)
        except AwsError as error:
            raise delivery_error(error) from error

    def _tenants(self, batch: PacketBatch) -> list[str | None]:
        return batch.values(TENANT) if TENANT in self.expressions else [None] * batch.count

    def _entry(self, record: bytes, tenant: str | None) -> Entry[tuple[str, bytes]] | DeliveryError:
        tenant = tenant or self._tenant
        if TENANT in self.expressions and not _TENANT_ID.fullmatch(tenant):
            return DeliveryError("BadTenantId", "TenantIdExpression gives no tenant's name that Lambda takes")
        return Entry(len(record) + 1, (tenant, record), tenant)

    async def _invoke(self, body: bytes, tenant: str) -> bytes:
        headers = {**self._headers, "x-amz-tenant-id": tenant} if tenant else self._headers
        answer = await self._service.request("Invoke", headers, body, self.arn.text, SECONDS)
        if "x-amz-function-error" in answer.headers:
            raise _failure(answer.body)
        return answer.body


def _failure(result: bytes) -> DeliveryError:
    """The error for what a function that failed has instead of a result."""
    try:
        told = orjson.loads(result)
        kind, message = str(told.get("errorType") or "an error"), str(told.get("errorMessage") or "")
    except (orjson.JSONDecodeError, AttributeError):
        kind, message = "an error", ""
    reason = "FunctionTimeout" if kind == "Sandbox.Timedout" else "FunctionError"
    return DeliveryError(reason, " ".join(f"the function failed with {kind}: {message}".split()).rstrip(": "))


def _joined(answers: Sequence[bytes]) -> bytes:
    """The Replies of several answers. What is no answer becomes a reply that is reported as malformed."""
    replies: list[object] = []
    for answer in answers:
        try:
            found = orjson.loads(answer or b"null")
        except orjson.JSONDecodeError:
            found = answer[:64].decode(errors="replace")
        if isinstance(found, dict):
            found = found.get("Replies")
        replies += found if isinstance(found, list) else [] if found is None else [found]
    return orjson.dumps({"Replies": replies})
