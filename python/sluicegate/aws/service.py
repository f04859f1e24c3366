"""A service that is called with requests signed here, over connections that stay open."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from xml.sax.saxutils import unescape

import orjson

from sluicegate.aws.access import Access, Asked, Place
from sluicegate.aws.credentials import Keys, Role
from sluicegate.aws.errors import BAD_ANSWER, EXPIRED, NO_ANSWER, TIMED_OUT, AwsError
from sluicegate.aws.signing import Protocol
from sluicegate.httpclient import Answer, Host, NoAnswer

Take = Callable[[bytes], Awaitable[object]]
Accepts = Callable[[Answer], bool]


class _Request(NamedTuple):
    """One request. `path` continues that of the place; `resource` is what it is about, for errors."""

    operation: str
    resource: str
    seconds: float
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    path: str = ""
    take: Take | None = None
    accepts: Accepts | None = None


class Service:
    """One service in one region, called in the name of `role`. Nothing happens before the first call.

    `asked` is a call (operation and parameters) that goes to the same place, where that depends on what is asked for:
    S3 has a host for each bucket, Lambda a path for each function.
    """

    def __init__(
        self, access: Access, protocol: Protocol, region: str, role: Role | None, asked: Asked | None = None
    ) -> None:
        self._access = access
        self._protocol = protocol
        self._region, self._role, self._asked = region, role, asked
        self._place: Place | None = None

    async def call(
        self, operation: str, params: Mapping[str, object], resource: str, seconds: float
    ) -> dict[str, Any]:
        """The answer to one call in AWS's JSON, waited for so long. Raises `AwsError`.

        A request is sent again, once and at once, if an open connection turns out to be closed (services do so
        with idle ones) or if the service says that the credentials have expired.
        """
        fields = self._protocol.fields(operation)
        request = _Request(operation, resource, seconds, fields, orjson.dumps(params))
        answer = await self._send(request)
        try:
            # An operation that has nothing to say says nothing.
            parsed = orjson.loads(answer.body or b"{}")
        except orjson.JSONDecodeError as error:
            parsed = error
        if not isinstance(parsed, dict):
            name = self._place.host.name if self._place else "the service"
            cause = f"{name} answers with something that is not AWS's JSON; check who answers there"
            raise self._error(request, BAD_ANSWER, cause, answer.status)
        return parsed

    async def request(
        self,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        resource: str,
        seconds: float,
        *,
        method: str = "POST",
        path: str = "",
        take: Take | None = None,
        accepts: Accepts | None = None,
    ) -> Answer:
        """The answer to one REST request, as `call` sends it. Names of `headers` are in lower case; `path`
        continues that of the place. `take` gets the body piece by piece, as it arrives. `accepts` may say of an answer
        whose status is that of a failure that it is none."""
        return await self._send(
            _Request(operation, resource, seconds, headers, body, method, path, take, accepts)
        )

    async def _send(self, request: _Request) -> Answer:
        try:
            return await self._attempt(request)
        except _Again:
            return await self._attempt(request, last=True)

    async def _attempt(self, request: _Request, *, last: bool = False) -> Answer:
        place, keys = await self._prepare(request)
        path = place.path.rstrip("/") + request.path if request.path else place.path
        headers = place.signer.sign(request.method, path, request.headers, request.body, keys, time.time())
        host = place.host
        try:
            if isinstance(host, Host):
                answer = await host.request(
                    request.method, headers, request.body, request.seconds, path=path, take=request.take
                )
            else:
                answer = await host.post(headers, request.body, request.seconds)
        except NoAnswer as error:
            if error.stale and not last:
                raise _Again from error
            code = TIMED_OUT if error.timed_out else NO_ANSWER
            raise self._error(request, code, str(error)) from error
        if not (200 <= answer.status < 300 or (request.accepts and request.accepts(answer))):
            failed = self._refusal(request, answer, keys)
            if failed.code in EXPIRED and not last:
                self._access.forget(self._role, keys)
                raise _Again from failed
            raise failed
        return answer

    async def _prepare(self, request: _Request) -> tuple[Place, Keys]:
        try:
            if self._place is None:
                self._place = await self._access.place(self._protocol, self._region, self._asked)
            return self._place, await self._access.credentials(self._role).keys()
        except AwsError:
            raise
        except Exception as error:
            raise self._access.explain(
                error, self._protocol.service, request.operation, request.resource
            ) from error

    def _refusal(self, request: _Request, answer: Answer, keys: Keys) -> AwsError:
        code, message = _explanation(answer)
        if not code and answer.status < 500 and not self._protocol.target:
            code = str(answer.status)  # what is behind API Gateway may say so, or a proxy
        elif not code:
            code, message = BAD_ANSWER, f"status {answer.status}, without AWS's explanation"
        message = message or f"status {answer.status}, and no more was said"
        region = answer.headers.get("x-amz-bucket-region")
        elsewhere = region if region != self._region else None
        return self._error(request, code, keys.hide_in(message), answer.status, elsewhere)

    def _error(
        self,
        request: _Request,
        code: str,
        message: str,
        status: int | None = None,
        region: str | None = None,
    ) -> AwsError:
        return AwsError(
            self._protocol.service,
            request.operation,
            code,
            message,
            status=status,
            resource=request.resource,
            region=region,
        )


class _Again(Exception):
    """The attempt is worth a second one."""


def _explanation(answer: Answer) -> tuple[str, str]:
    """Code and message of a refusal: in AWS's JSON, with REST's header, or in the XML of S3. Empty: it has none."""
    code, message = answer.headers.get("x-amzn-errortype", ""), ""
    try:
        parsed = orjson.loads(answer.body)
        code = str(parsed.get("__type") or code)
        message = str(parsed.get("message") or parsed.get("Message") or "")
    except (orjson.JSONDecodeError, AttributeError):
        text = answer.body.decode(errors="replace")
        if found := re.search(r"<Error>.*?<Code>([^<]+)</Code>", text, re.DOTALL):
            code = found[1]
            said = re.search(r"<Message>([^<]*)</Message>", text)
            message = unescape(said[1]) if said else ""
    return code.rpartition("#")[2].partition(":")[0], message
