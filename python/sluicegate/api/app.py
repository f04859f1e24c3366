"""The REST API (contract section 8): health, metrics, resources, and sourcing packets with an account of each entry.

Who may do what is decided by an `Authenticator` (`http/auth.py`); what keeps web pages out is in `http/doors.py`.
Errors are `application/problem+json`, for unknown paths and wrong methods too.
"""

from typing import Protocol

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.api import problems
from sluicegate.api.events import EventsView, event_routes
from sluicegate.api.messages import PATH, ROOM_SECONDS, Messages, MessagesView, answer_of
from sluicegate.api.metrics import MetricSources, exposition
from sluicegate.api.openapi import openapi_routes
from sluicegate.api.resources import ResourcesView, resource_routes
from sluicegate.api.scheduled import ScheduledView, scheduled_routes
from sluicegate.api.topics import TopicsView, topic_routes
from sluicegate.http.auth import Authenticated, Authenticator, HttpRefusal
from sluicegate.http.direct import Answer, Direct, Take
from sluicegate.http.doors import refused_host
from sluicegate.running.registry import Registry


class GatewayView(EventsView, ResourcesView, TopicsView, ScheduledView, MessagesView, Protocol):
    """What the API needs to see of a running gateway."""

    def healthy(self) -> tuple[bool, dict[str, object]]:
        """True once every Listener is bound; and what to show of it."""

    def about(self) -> dict[str, object]:
        """Region, node, domain, and where the SNS endpoint is."""

    @property
    def registry(self) -> Registry: ...

    def metrics(self) -> MetricSources:
        """Where `/metrics` finds its numbers."""


def create_app(
    gateway: GatewayView,
    authenticator: Authenticator | None = None,
    *,
    room_seconds: float = ROOM_SECONDS,
) -> Direct:
    """The API as an ASGI application. Without `authenticator` everybody may do everything."""
    render_metrics = exposition(gateway.metrics)

    async def healthz(request: Request) -> Response:
        ready, shown = gateway.healthy()
        return _json(shown, 200 if ready else 503)

    async def about(request: Request) -> Response:
        return _json(gateway.about())

    async def metrics(request: Request) -> Response:
        return Response(await render_metrics(), media_type=CONTENT_TYPE_LATEST)

    messages = Messages(gateway, room_seconds)
    middleware = [Middleware(HostChecked)]
    if authenticator is not None:
        middleware.append(Middleware(Authenticated, authenticator))
    app = Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/v1/gateway", about, methods=["GET"]),
            Route(PATH, messages, methods=["POST"]),
            *resource_routes(gateway),
            *topic_routes(gateway),
            *openapi_routes(),
            *event_routes(gateway),
            *scheduled_routes(gateway),
        ],
        middleware=middleware,
        exception_handlers=problems.HANDLERS,
    )
    return Api(app, messages, authenticator)


class Api(Direct):
    """The application, which answers a plain POST of messages at once."""

    def __init__(self, app: ASGIApp, messages: Messages, authenticator: Authenticator | None) -> None:
        self._app = app
        self._messages = messages
        self._authenticator = authenticator

    def enter(self, scope: Scope) -> Take | None:
        take = self._messages.enter(scope)
        if take is None or refused_host(scope) is not None:
            return None
        if self._authenticator is not None and isinstance(self._authenticator.check(scope), HttpRefusal):
            return None
        return take

    def failed(self) -> Answer:
        return answer_of(problems.internal())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


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


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document, default=str), status, media_type="application/json")
