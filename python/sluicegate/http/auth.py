"""Who asks, and may they? API keys at the door of the REST API; the keys themselves are in `state/keys.py`."""

import dataclasses
from http import HTTPStatus

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.http.doors import header
from sluicegate.state.keys import ApiKey, KeyScope, KeysError, KeyStore, fits, parse_key

_OPEN_PATHS = ("/healthz",)  # a load balancer has no key, and learns nothing but "ok"


@dataclasses.dataclass(frozen=True, slots=True)
class HttpRefusal:
    """Why a request is not served: an HTTP status, and a sentence for people."""

    status: int
    detail: str


class Authenticator:
    """Who asks, and may they? With `required` False (loopback) a request without a key may do everything."""

    def __init__(self, keys: KeyStore, *, required: bool) -> None:
        self._keys = keys
        self._required = required

    def check(self, scope: Scope) -> str | HttpRefusal:
        """Who asks, for the audit events; or the refusal."""
        wanted = wanted_scope(scope["method"], scope["path"])
        if not self._required:
            return "loopback"
        if wanted is None:
            return "anonymous"
        text = _presented(scope)
        if text is None:
            return HttpRefusal(
                401, "this address asks for a key: send `Authorization: Bearer KEY` (sluicegate keys create)"
            )
        try:
            key = self._known(text)
        except KeysError as error:
            return HttpRefusal(503, str(error))
        if key is None:
            return HttpRefusal(401, "this key is unknown or revoked: make one with `sluicegate keys create`")
        if not key.may(wanted):
            has = ", ".join(sorted(key.scopes))
            return HttpRefusal(
                403, f"this needs a key of the scope {wanted}, and the key {key.name} has: {has}"
            )
        return f"key {key.id} ({key.name})"

    def _known(self, text: str) -> ApiKey | None:
        key_id = parse_key(text)
        key = self._keys.api_key(key_id) if key_id else None
        return key if fits(text, key) else None


class Authenticated:
    """Middleware: no request reaches the application without the right key. Whoever asked is in `state.principal`."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = self._authenticator.check(scope)
        if isinstance(found, str):
            scope.setdefault("state", {})["principal"] = found
            await self._app(scope, receive, send)
            return
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(found.status).phrase,
            "status": found.status,
            "detail": found.detail,
        }
        # The body of the request is not read: whoever has no key may not make us read 16 MiB.
        headers = {"Connection": "close"} | ({"WWW-Authenticate": "Bearer"} if found.status == 401 else {})
        response = Response(
            orjson.dumps(problem), found.status, headers, media_type="application/problem+json"
        )
        await response(scope, receive, send)


def wanted_scope(method: str, path: str) -> KeyScope | None:
    """What a request needs; None for what everybody may see."""
    if path in _OPEN_PATHS:
        return None
    if method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    if method == "POST" and path.startswith("/v1/packet-sources/") and path.endswith("/messages"):
        return "publish"
    return "admin"


def _presented(scope: Scope) -> str | None:
    """The key in the request, from either header."""
    authorization = (header(scope, b"authorization") or b"").decode("latin-1")
    kind, _, text = authorization.partition(" ")
    if kind.lower() == "bearer" and text.strip():
        return text.strip()
    own = header(scope, b"x-api-key")
    return own.decode("latin-1").strip() if own else None
