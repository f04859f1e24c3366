"""Access to AWS: where a service is, who signs for a call, and the one botocore session behind both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from sluicegate.aws.credentials import BadCredentials, Credentials, Keys, Role
from sluicegate.aws.errors import NO_CREDENTIALS, AwsError
from sluicegate.aws.http import DirectHost
from sluicegate.aws.signing import SQS, Protocol, Signer
from sluicegate.httpclient import Advice, Host
from sluicegate.threads import Threads

if TYPE_CHECKING:  # botocore is loaded with the first call
    from sluicegate.aws.sdk import Control

THREADS = 4
DIRECT = frozenset((SQS,))
"""Services with so many requests that the lean client pays."""
ADVICE = Advice("check the region, the name and DNS", "check AWS_CA_BUNDLE")
Asked = tuple[str, Mapping[str, object]]
"""An operation and its parameters."""


class Place(NamedTuple):
    """A server, who signs for it, and the path of the calls there."""

    host: Host | DirectHost
    signer: Signer
    path: str


class Access:
    """What all calls of one event loop share. Nothing is loaded or opened before the first of them."""

    def __init__(self, region: str, endpoint_url: str | None) -> None:
        self.threads = Threads("aws", THREADS)
        self._region = region
        self._endpoint_url = endpoint_url
        self._credentials: dict[Role | None, Credentials] = {}
        self._control: Control | None = None
        self._hosts: dict[tuple[str, bool], Host | DirectHost] = {}
        self._opening = asyncio.Lock()

    async def control(self) -> Control:
        """botocore, for use in a thread. The first call imports it, in a thread too."""
        async with self._opening:
            if self._control is None:

                def load() -> Control:
                    from sluicegate.aws.sdk import Control

                    return Control(self._region, self._endpoint_url)

                self._control = await self.threads.call(load)
        return self._control

    async def place(self, protocol: Protocol, region: str, asked: Asked | None = None) -> Place:
        """Where a service takes its calls, or those like `asked`, and who signs for them."""
        control = await self.control()
        name = protocol.client or protocol.service
        url, proxy, tls = await self.threads.call(lambda: control.way_to(name, region, asked, protocol.api))
        direct = protocol in DIRECT and proxy is None
        if (url, direct) not in self._hosts:
            made = DirectHost(url, tls, ADVICE) if direct else Host(url, tls, proxy, ADVICE)
            self._hosts[url, direct] = made
        return Place(self._hosts[url, direct], Signer(url, region, protocol), urlsplit(url).path or "/")

    def credentials(self, role: Role | None) -> Credentials:
        """Those of `role`, or the gateway's own."""
        if role not in self._credentials:

            def load() -> Any:
                assert self._control is not None  # noqa: S101 `place` comes first
                return self._control.credentials(role)

            self._credentials[role] = Credentials(self.threads, load)
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

    async def close(self) -> None:
        """Close every connection. Calls that are under way fail."""
        for credentials in self._credentials.values():
            await credentials.close()
        for host in self._hosts.values():
            await host.close()
        if self._control is not None:
            self._control.close()
        self.threads.close()
