"""`GET /v1/events`: the live stream, as server-sent events or as NDJSON (contract sections 6 and 8).

`Accept: application/x-ndjson` gives one JSON object a line, anything else `text/event-stream` with one `data:` each.
Query parameters filter (`events.Filter.parse`). While nothing happens an empty line (in server-sent events a comment)
comes every `HEARTBEAT_SECONDS`, so that either side notices when the other is gone. The stream ends when the gateway
stops. Those without the scope `admin` see no `Detail` that a resource, its code or the file may have a say in.
"""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sluicegate.api.redaction import without_details
from sluicegate.events import Filter, FilterError, Subscription, TooManySubscriptions
from sluicegate.http.auth import caller

HEARTBEAT_SECONDS = 10.0

_NDJSON = "application/x-ndjson"


class EventsView(Protocol):
    """What the stream needs to see of a running gateway."""

    def live_events(self, wanted: Filter) -> Subscription:
        """A live stream; `FilterError` for a Listener that is not there, `TooManySubscriptions`."""


def event_routes(gateway: EventsView, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> list[Route]:
    """The routes of the live stream."""

    async def events(request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            # It could not read the stream, but it could take all the places of those who may.
            raise HTTPException(
                403, "requests of other web pages are refused: this endpoint is for this machine"
            )
        query = {name: request.query_params.getlist(name) for name in request.query_params}
        try:
            subscription = gateway.live_events(Filter.parse(query))
        except FilterError as error:
            raise HTTPException(400, str(error)) from None
        except TooManySubscriptions as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "5"}) from None
        show = bytes if caller(request.scope).admin else _without_details
        if _NDJSON in request.headers.get("accept", ""):
            return _Live(subscription, heartbeat_seconds, show, b"\n", _NDJSON)
        return _Live(
            subscription,
            heartbeat_seconds,
            lambda lines: _server_sent(show(lines)),
            b":\n\n",
            "text/event-stream",
        )

    return [Route("/v1/events", events, methods=["GET"])]


class _Live(StreamingResponse):
    """Closes its subscription however it ends; also when the client was gone before it began."""

    def __init__(
        self,
        subscription: Subscription,
        heartbeat_seconds: float,
        render: Callable[[bytes], bytes],
        heartbeat: bytes,
        media_type: str,
    ) -> None:
        async def content() -> AsyncIterator[bytes]:
            while (lines := await subscription.read(heartbeat_seconds)) is not None:
                yield render(lines) if lines else heartbeat

        self._subscription = subscription
        super().__init__(content(), media_type=media_type, headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._subscription.close()


def _without_details(lines: bytes) -> bytes:
    if b'"Detail"' not in lines:
        return lines
    return b"".join(
        orjson.dumps(without_details(orjson.loads(line))) + b"\n" if b'"Detail"' in line else line + b"\n"
        for line in lines.splitlines()
    )


def _server_sent(lines: bytes) -> bytes:
    return b"".join(b"data: " + line + b"\n\n" for line in lines.splitlines())
