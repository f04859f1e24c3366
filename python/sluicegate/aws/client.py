"""`Aws`: every call that the gateway makes to AWS."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sluicegate.aws.credentials import BadCredentials, Credentials, Keys, Role
from sluicegate.aws.errors import EXPIRED, NO_CREDENTIALS, TIMED_OUT, AwsError
from sluicegate.aws.http import Host
from sluicegate.aws.logs import LogStream
from sluicegate.aws.queue import Queue
from sluicegate.aws.service import Service
from sluicegate.aws.signing import LOGS, SQS, Protocol, Signer
from sluicegate.threads import Threads

if TYPE_CHECKING:
    from sluicegate.aws.sdk import Control

CALL_SECONDS = 30.0
PAUSES = (0.3, 1.0)
"""Before the second and the third attempt, in seconds, less up to a half."""
THREADS = 4
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
        self._endpoint_url = endpoint_url
        self._account_id = account_id
        self._threads = Threads("aws", THREADS)
        self._credentials: dict[Role | None, Credentials] = {}
        self._control: Control | None = None
        self._hosts: dict[str, Host] = {}
        self._opening = asyncio.Lock()

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
        control = await self._open_control()
        place = region or self.region
        for pause in (*PAUSES, None):
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    return await self._threads.call(
                        lambda: control.call(service, operation, params, role, place)
                    )
            except TimeoutError:
                cause = f"nothing came within {CALL_SECONDS:g} s"
                raise AwsError(
                    service, operation, TIMED_OUT, cause, resource=control.resource(params)
                ) from None
            except AwsError as error:
                if pause is None or not (error.retryable or error.code in EXPIRED):
                    raise
                if error.code in EXPIRED:
                    control.forget(role)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("the last attempt returns or raises")

    def queue(self, url: str, *, region: str | None = None, role: Role | None = None) -> Queue:
        """An SQS queue for many messages a second. `region` defaults to the gateway's."""
        return Queue(Service(self, SQS, region or self.region, role), url)

    def log_stream(
        self, group: str, stream: str, *, region: str | None = None, role: Role | None = None
    ) -> LogStream:
        """A stream in CloudWatch Logs, which has to exist."""
        return LogStream(Service(self, LOGS, region or self.region, role), group, stream)

    async def close(self) -> None:
        """Close every connection. Calls that are under way fail."""
        for credentials in self._credentials.values():
            await credentials.close()
        for host in self._hosts.values():
            await host.close()
        if self._control is not None:
            self._control.close()

    # For Service

    async def place(self, protocol: Protocol, region: str) -> tuple[Host, Signer]:
        """Where a service is, and who signs for it."""
        control = await self._open_control()
        url, proxy, tls = await self._threads.call(lambda: control.way_to(protocol.service, region))
        if url not in self._hosts:
            self._hosts[url] = Host(url, tls, proxy)
        return self._hosts[url], Signer(url, region, protocol)

    def credentials(self, role: Role | None) -> Credentials:
        """Those of `role`, or the gateway's own."""
        if role not in self._credentials:

            def load() -> Any:
                assert self._control is not None  # noqa: S101 `place` comes first
                return self._control.credentials(role)

            self._credentials[role] = Credentials(self._threads, load)
        return self._credentials[role]

    def forget(self, role: Role | None, keys: Keys) -> None:
        """The service says that these have expired."""
        self.credentials(role).forget(keys)
        if self._control is not None:
            self._control.forget(role)

    def explain(self, error: Exception, service: str, operation: str, resource: str | None) -> AwsError:
        """An exception of botocore as ours; any other is raised again."""
        if isinstance(error, BadCredentials):
            return AwsError(service, operation, NO_CREDENTIALS, str(error), resource=resource)
        if self._control is None:
            raise error
        return self._control.explain(error, service, operation, resource)

    async def _open_control(self) -> Control:
        async with self._opening:
            if self._control is None:

                def load() -> Control:
                    from sluicegate.aws.sdk import Control

                    return Control(self.region, self._endpoint_url)

                self._control = await self._threads.call(load)
        return self._control
