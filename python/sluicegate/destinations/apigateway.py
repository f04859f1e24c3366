"""`arn:aws:execute-api:…`: a method of an API in API Gateway, called with each batch; it may answer with Replies."""

from __future__ import annotations

import re
from dataclasses import replace

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import EXECUTE_API
from sluicegate.destinations.aws import AwsDestination, delivery_error
from sluicegate.destinations.base import Arguments, PacketBatch
from sluicegate.destinations.web.answers import replies
from sluicegate.destinations.web.halves import TooLarge, deliver_in_halves
from sluicegate.httpclient import Answer

SECONDS = 305.0
"""A REST API may have a limit of 5 minutes; 29 seconds are usual."""
LIMIT = 10 << 20
"""Bytes of a request."""
_HEADERS = {"content-type": "application/json"}


class ApiGatewayDestination(AwsDestination):
    """Calls a method of a REST or HTTP API with each batch, signed by IAM's rules; Replies are read from the answer's
    body, if it is JSON.

    A body with Replies is an answer whatever its status: a method that fails with 500 can still tell the device why.
    Without Replies a status from 400 on is a failure. The stage `$default` is none in the URL. At
    `aws.endpoint_url` or `AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI` the path begins with `/_aws/execute-api/API`, as
    emulators have it.
    """

    usage = "arn:aws:execute-api:REGION:ACCOUNT:API/STAGE/METHOD/PATH"
    resource = re.compile(
        r"[a-z0-9]+/(\$default|[A-Za-z0-9_-]{1,128})/(POST|PUT|PATCH|DELETE)(/[A-Za-z0-9._~!$&'()+,;=:@%/-]*)?"
    )
    protocol = EXECUTE_API
    permissions = (("ARN", ("execute-api:Invoke",)),)
    limits = "10 MiB. A method has 29 seconds, or as many as its API allows."
    parallel = 100

    def read(self, arguments: Arguments) -> None:
        api, stage, self._method, *path = self.arn.resource.split("/", 3)
        self._path = "/".join(["", *([] if stage == "$default" else [stage]), *path]) or "/"
        self.batch_bytes_limit = LIMIT
        self._service = self.context.aws.service(
            replace(self.protocol, api=api), region=self.arn.region, role=self.context.role
        )

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        return await deliver_in_halves(batch, self._call)

    async def _call(self, batch: PacketBatch) -> bytes | None:
        body = batch.body()
        if len(body) > LIMIT:
            raise TooLarge(f"a request would have {len(body)} bytes, and API Gateway takes {LIMIT}")
        try:
            answer = await self._service.request(
                "Invoke",
                _HEADERS,
                body,
                self.arn.text,
                SECONDS,
                method=self._method,
                path=self._path,
                accepts=_has_replies,
            )
        except AwsError as error:
            if error.status == 413:
                raise TooLarge(str(error)) from error
            raise delivery_error(error) from error
        return replies(answer)


def _has_replies(answer: Answer) -> bool:
    try:
        return "Replies" in (orjson.loads(answer.body) or {})
    except (orjson.JSONDecodeError, TypeError):
        return False
