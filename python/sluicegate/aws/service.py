"""A service that speaks AWS's JSON: each call is a POST, signed here, over connections that stay open."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from sluicegate.aws.access import Access, Way
from sluicegate.aws.credentials import Keys, Role
from sluicegate.aws.errors import BAD_ANSWER, EXPIRED, NO_ANSWER, TIMED_OUT, AwsError
from sluicegate.aws.signing import Protocol, Signer
from sluicegate.httpclient import NoAnswer


class Service:
    """One service in one region, called in the name of `role`. Nothing happens before the first call."""

    def __init__(self, access: Access, protocol: Protocol, region: str, role: Role | None) -> None:
        self._access = access
        self._protocol = protocol
        self._region, self._role = region, role
        self._place: tuple[Way, Signer] | None = None

    async def call(
        self, operation: str, params: Mapping[str, object], resource: str, seconds: float
    ) -> dict[str, Any]:
        """The answer to one request, waited for so long. Raises `AwsError`.

        A request is sent again, once and at once, if an open connection turns out to be closed (services do so
        with idle ones) or if the service says that the credentials have expired.
        """
        body = orjson.dumps(params)
        try:
            return await self._attempt(operation, body, resource, seconds)
        except _Again:
            return await self._attempt(operation, body, resource, seconds, last=True)

    async def _attempt(
        self, operation: str, body: bytes, resource: str, seconds: float, *, last: bool = False
    ) -> dict[str, Any]:
        host, signer, keys = await self._prepare(operation, resource)
        headers = signer.headers(operation, body, keys, time.time())
        try:
            status, answer, _ = await host.post(headers, body, seconds)
        except NoAnswer as error:
            if error.stale and not last:
                raise _Again from error
            code = TIMED_OUT if error.timed_out else NO_ANSWER
            raise self._error(operation, code, str(error), resource) from error
        if status != 200:
            failed = self._refusal(operation, status, answer, resource, keys)
            if failed.code in EXPIRED and not last:
                self._access.forget(self._role, keys)
                raise _Again from failed
            raise failed
        try:
            parsed = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            parsed = error
        if not isinstance(parsed, dict):
            cause = f"{host.name} answers with something that is not AWS's JSON; check who answers there"
            raise self._error(operation, BAD_ANSWER, cause, resource, status)
        return parsed

    async def _prepare(self, operation: str, resource: str) -> tuple[Way, Signer, Keys]:
        try:
            if self._place is None:
                self._place = await self._access.place(self._protocol, self._region)
            return *self._place, await self._access.credentials(self._role).keys()
        except AwsError:
            raise
        except Exception as error:
            raise self._access.explain(error, self._protocol.service, operation, resource) from error

    def _refusal(self, operation: str, status: int, answer: bytes, resource: str, keys: Keys) -> AwsError:
        try:
            parsed = orjson.loads(answer)
            code = str(parsed["__type"]).rpartition("#")[2].partition(":")[0]
            message = str(
                parsed.get("message") or parsed.get("Message") or f"status {status}, and no more was said"
            )
        except (orjson.JSONDecodeError, KeyError, TypeError):
            code, message = BAD_ANSWER, f"status {status}, without AWS's explanation"
        return self._error(operation, code, keys.hide_in(message), resource, status)

    def _error(
        self, operation: str, code: str, message: str, resource: str, status: int | None = None
    ) -> AwsError:
        return AwsError(self._protocol.service, operation, code, message, status=status, resource=resource)


class _Again(Exception):
    """The attempt is worth a second one."""
