"""The REST API (contract section 8): health, metrics, resources, and sourcing packets with an account of each entry.

Who may do what is decided by an `Authenticator` (`http/auth.py`); what keeps web pages out is in `http/doors.py`.
Errors are `application/problem+json`, for unknown paths and wrong methods too.
"""

import asyncio
import time
from typing import Protocol
from uuid import uuid4

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.api import problems
from sluicegate.api.events import EventsView, event_routes
from sluicegate.api.metrics import MetricSources, exposition
from sluicegate.api.openapi import openapi_routes
from sluicegate.api.resources import ResourcesView, resource_routes
from sluicegate.api.scheduled import ScheduledView, scheduled_routes
from sluicegate.api.topics import TopicsView, topic_routes
from sluicegate.egress.message import EgressClosed, EgressFull, Message, Outcome
from sluicegate.http.auth import Authenticated, Authenticator
from sluicegate.http.doors import BodyTooLarge, Disconnected, read_body, refused_host, refused_origin
from sluicegate.sources.base import Sender

BODY_LIMIT = 262_144  # as a message to SNS
ROOM_SECONDS = 5.0  # how long a POST waits for room to send before it answers 429


class GatewayView(EventsView, ResourcesView, TopicsView, ScheduledView, Protocol):
    """What the API needs to see of a running gateway."""

    def healthy(self) -> tuple[bool, dict[str, object]]:
        """True once every Listener is bound; and what to show of it."""

    def about(self) -> dict[str, object]:
        """Region, node, domain, and where the SNS endpoint is."""

    def source(self, name: str) -> tuple[Sender, int, str] | None:
        """`(egress of its Listener, index in the Listener's spec, state of contract 1.3)`, None when
        unknown."""

    def metrics(self) -> MetricSources:
        """Where `/metrics` finds its numbers."""


def create_app(
    gateway: GatewayView,
    authenticator: Authenticator | None = None,
    *,
    room_seconds: float = ROOM_SECONDS,
) -> Starlette:
    """The API as an ASGI application. Without `authenticator` everybody may do everything."""
    render_metrics = exposition(gateway.metrics)

    async def healthz(request: Request) -> Response:
        ready, shown = gateway.healthy()
        return _json(shown, 200 if ready else 503)

    async def about(request: Request) -> Response:
        return _json(gateway.about())

    async def metrics(request: Request) -> Response:
        return Response(await render_metrics(), media_type=CONTENT_TYPE_LATEST)

    async def post_message(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            body = await read_body(request.scope, request.receive, BODY_LIMIT)
        except BodyTooLarge:
            raise HTTPException(413, f"a message is at most {BODY_LIMIT} bytes") from None
        except Disconnected:
            return Response(status_code=400)  # for nobody: the client is gone
        refused = refused_origin(request.scope)
        if refused is not None:
            raise HTTPException(403, refused)
        found = gateway.source(name)
        if found is None:
            raise HTTPException(404, gateway.registry.absent("PacketSource", name))
        sender, index, state = found
        if state != "Active":
            raise HTTPException(409, f"PacketSource {name} is {state}: it takes messages when Active")
        message = Message(str(uuid4()), index, body, time.time(), settles=False)
        try:
            outcome = await sender.send(message, room_seconds=room_seconds)
        except EgressFull:
            raise HTTPException(
                429, "the sender has no room: try again later", headers={"Retry-After": "1"}
            ) from None
        except EgressClosed:
            raise HTTPException(503, "the Listener of this PacketSource is stopping") from None
        kept = not outcome.letters_lost
        settled = not outcome.failures or (kept and await _settled(sender, index, room_seconds))
        return _json(_shown(outcome) | {"Settled": settled})

    middleware = [Middleware(HostChecked)]
    if authenticator is not None:
        middleware.append(Middleware(Authenticated, authenticator))
    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/v1/gateway", about, methods=["GET"]),
            Route("/v1/packet-sources/{name}/messages", post_message, methods=["POST"]),
            *resource_routes(gateway),
            *topic_routes(gateway),
            *openapi_routes(),
            *event_routes(gateway),
            *scheduled_routes(gateway),
        ],
        middleware=middleware,
        exception_handlers=problems.HANDLERS,
    )


class HostChecked:
    """Refuses requests whose `Host` is not this machine's (DNS rebinding), before anything else sees them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = refused_host(scope) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await problems.problem(403, refused)(scope, receive, send)


async def _settled(sender: Sender, index: int, seconds: float) -> bool:
    """True once the failures are where dead letters go, if they go anywhere."""
    try:
        async with asyncio.timeout(seconds):
            await sender.settle(index)
    except (TimeoutError, EgressClosed):
        return False
    return True


def _shown(outcome: Outcome) -> dict[str, object]:
    return {
        "MessageId": outcome.message_id,
        "Entries": outcome.entries,
        "Sent": outcome.sent,
        "Duplicates": outcome.duplicates,
        **({"Scheduled": outcome.scheduled} if outcome.scheduled else {}),
        "Failures": [
            {"Index": failure.index}
            | ({} if failure.remote_index is None else {"RemoteIndex": failure.remote_index})
            | {"Reason": failure.reason, "Detail": failure.detail}
            for failure in outcome.failures
        ],
    }


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document, default=str), status, media_type="application/json")
