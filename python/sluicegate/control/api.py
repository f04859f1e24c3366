"""The REST API (contract section 8): health, what runs, metrics, and sourcing packets with an account of each
entry.

Served on loopback without credentials; what keeps web pages out is in `sources/http_input.py`. Errors are
`application/problem+json` (RFC 9457), for unknown paths and wrong methods too.
"""

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus
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

from sluicegate.control.events import EventsView, event_routes
from sluicegate.control.metrics import MetricSources, exposition
from sluicegate.egress import EgressClosed, EgressFull, Message, Outcome
from sluicegate.sources.base import Sender
from sluicegate.sources.http_input import (
    BodyTooLarge,
    Disconnected,
    read_body,
    refused_host,
    refused_origin,
)

BODY_LIMIT = 262_144  # as a message to SNS
ROOM_SECONDS = 5.0  # how long a POST waits for room to send before it answers 429


class GatewayView(EventsView, Protocol):
    """What the API needs to see of a running gateway."""

    def healthy(self) -> tuple[bool, dict[str, object]]:
        """True once every Listener is bound; and what to show of it."""

    def listeners(self) -> list[dict[str, object]]:
        """The Listeners, in the PascalCase names of contract section 1, with what was assigned to them."""

    def packet_sources(self) -> list[dict[str, object]]:
        """The PacketSources, likewise."""

    def source(self, name: str) -> tuple[Sender, int, str] | None:
        """`(egress of its Listener, index in the Listener's spec, state of contract 1.3)`, None when
        unknown."""

    def metrics(self) -> MetricSources:
        """Where `/metrics` finds its numbers."""


def create_app(gateway: GatewayView, *, room_seconds: float = ROOM_SECONDS) -> Starlette:
    """The API as an ASGI application."""
    render_metrics = exposition(gateway.metrics)

    async def healthz(request: Request) -> Response:
        ready, shown = gateway.healthy()
        return _json(shown, 200 if ready else 503)

    async def listeners(request: Request) -> Response:
        return _items(gateway.listeners())

    async def packet_sources(request: Request) -> Response:
        return _items(gateway.packet_sources())

    async def metrics(request: Request) -> Response:
        return Response(render_metrics(), media_type=CONTENT_TYPE_LATEST)

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
            raise HTTPException(404, f"there is no PacketSource {name!r}")
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
        settled = not outcome.failures or await _settled(sender, index, room_seconds)
        return _json(_shown(outcome) | {"Settled": settled})

    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/v1/listeners", listeners, methods=["GET"]),
            Route("/v1/packet-sources", packet_sources, methods=["GET"]),
            Route("/v1/packet-sources/{name}/messages", post_message, methods=["POST"]),
            *event_routes(gateway),
        ],
        middleware=[Middleware(HostChecked)],
        exception_handlers={HTTPException: _http_problem, Exception: _internal_problem},
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
            await _problem(403, refused)(scope, receive, send)


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
        "Failures": [
            {"Index": failure.index, "Reason": failure.reason, "Detail": failure.detail}
            for failure in outcome.failures
        ],
    }


def _items(items: list[dict[str, object]]) -> Response:
    return _json({"Items": items, "NextToken": None})


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document, default=str), status, media_type="application/json")


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    document: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return Response(orjson.dumps(document), status, headers, media_type="application/problem+json")


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    detail = error.detail
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is nothing at {request.url.path[:200]}"
    elif error.status_code == 405:
        detail = f"{request.method} is not served at {request.url.path[:200]}"
    return _problem(error.status_code, detail, error.headers)


async def _internal_problem(request: Request, error: Exception) -> Response:
    return _problem(500, "the gateway failed to answer: its log says why")
