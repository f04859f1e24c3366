"""`Aws`: every call that the gateway makes to AWS."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sluicegate.aws.access import Access, Asked
from sluicegate.aws.credentials import Role
from sluicegate.aws.errors import EXPIRED, TIMED_OUT, AwsError
from sluicegate.aws.logs import LogStream
from sluicegate.aws.queue import Queue
from sluicegate.aws.service import Service
from sluicegate.aws.signing import LOGS, SQS, Protocol
from sluicegate.backoff import Backoff

CALL_SECONDS = 30.0
ATTEMPTS = 3
PAUSES = Backoff(0.5, 1.0)
"""Between the attempts."""
_NOTHING: Mapping[str, object] = MappingProxyType({})


class Aws:
    """AWS as one gateway uses it: one for each event loop.

    Costs nothing before the first call: botocore is imported then, in a thread. Credentials are found as
    botocore finds them. `account_id` is taken for the answer of `account` where it is known already.
    """

    def __init__(
        self, region: str, endpoint_url: str | None = None, *, account_id: str | None = None
    ) -> None:
        self.region = region
        self._account_id = account_id
        self._access = Access(region, endpoint_url)

    async def account(self) -> str:
        """The number of the account whose credentials the gateway has. Raises `AwsError`."""
        if self._account_id is None:
            self._account_id = str((await self.call("sts", "GetCallerIdentity"))["Account"])
        return self._account_id

    async def call(
        self,
        service: str,
        operation: str,
        params: Mapping[str, object] = _NOTHING,
        *,
        role: Role | None = None,
        region: str | None = None,
    ) -> dict[str, Any]:
        """The answer to any operation, e.g. ("sns", "Subscribe"). Raises `AwsError`.

        What another attempt may mend is tried three times, so the operation should bear repetition.
        """
        control = await self._access.control()
        place = region or self.region
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    return await self._access.threads.call(
                        lambda: control.call(service, operation, params, role, place)
                    )
            except TimeoutError:
                cause = f"nothing came within {CALL_SECONDS:g} s"
                raise AwsError(
                    service, operation, TIMED_OUT, cause, resource=control.resource(params)
                ) from None
            except AwsError as error:
                if attempt == ATTEMPTS or not (error.retryable or error.code in EXPIRED):
                    raise
                if error.code in EXPIRED:
                    control.forget(role)
            await asyncio.sleep(PAUSES.pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def queue(self, url: str, *, region: str | None = None, role: Role | None = None) -> Queue:
        """An SQS queue for many messages a second. `region` defaults to the gateway's."""
        return Queue(self.service(SQS, region=region, role=role), url)

    def log_stream(
        self, group: str, stream: str, *, region: str | None = None, role: Role | None = None
    ) -> LogStream:
        """A stream in CloudWatch Logs, which has to exist."""
        return LogStream(self.service(LOGS, region=region, role=role), group, stream)

    def service(
        self,
        protocol: Protocol,
        *,
        region: str | None = None,
        role: Role | None = None,
        asked: Asked | None = None,
    ) -> Service:
        """A service for many requests. `asked` is a call like those that it will get, where they have a place of
        their own (see `Service`)."""
        return Service(self._access, protocol, region or self.region, role, asked)

    async def close(self) -> None:
        """Close every connection. Calls that are under way fail."""
        await self._access.close()
