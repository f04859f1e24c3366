"""Who asks, and may they? API keys at the door of the REST API; the keys themselves are in `state/keys.py`.

On loopback a request without a key may do what `api.local_access` says, by default read and publish. Whoever reaches
loopback is not the gateway's user: other users of the machine, containers of a pod, and programs that can be talked
into a request reach it too. So what changes the gateway needs a key of the scope `admin` there as well.
"""

import dataclasses
import ipaddress
from http import HTTPStatus
from typing import Literal

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.http.doors import header
from sluicegate.state.keys import ApiKey, KeyScope, KeysError, KeyStore, fits, parse_key
from sluicegate.state.local_key import LocalKey

Access = Literal["none", "read", "publish", "admin"]
"""What may be done without a key, each with all before it."""
ACCESS: tuple[Access, ...] = ("none", "read", "publish", "admin")

_OPEN_PATHS = ("/healthz",)  # a load balancer has no key, and learns nothing but "ok"
_NAMES_PATH = "/v1/packet-sources"
"""Where a key of the scope `publish` sees what it may publish to."""
_OPEN_ON_LOOPBACK = (*_OPEN_PATHS, "/metrics")


def allows(access: Access, scope: KeyScope) -> bool:
    """True if `access` includes what needs a key of `scope`."""
    return ACCESS.index(access) >= ACCESS.index(scope)


@dataclasses.dataclass(frozen=True, slots=True)
class HttpRefusal:
    """Why a request is not served: an HTTP status, and a sentence for people."""

    status: int
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is for the audit events. `admin`: may do everything, and is shown secrets. `local`: has the key
    `local` and comes over loopback, so it is the gateway's own user on its own machine."""

    name: str
    admin: bool = True
    local: bool = False
    reads: bool = True
    """False: it may publish, and of PacketSources it is shown the names alone."""


EVERYBODY = Caller("loopback")
"""Whoever asks where nobody is asked for a key."""


_ANYBODY = Caller("loopback", admin=False)


def caller(scope: Scope) -> Caller:
    """Who sent this request, which `Authenticated` has let pass."""
    found: Caller = scope.get("state", {}).get("caller", EVERYBODY)
    return found


class Authenticator:
    """Who asks, and may they?

    `anonymous`: what a request without a key may do on loopback; None where the API serves other machines, and a key is
    needed for all but `/healthz`. `local` is the key of commands on this machine. `advice` is added to refusals on
    loopback, and says where a key is found.
    """

    def __init__(
        self,
        keys: KeyStore,
        *,
        anonymous: Access | None = None,
        local: LocalKey | None = None,
        advice: str = "",
    ) -> None:
        self._keys = keys
        self._anonymous = anonymous
        self._local = local
        self._advice = advice

    def check(self, scope: Scope) -> Caller | HttpRefusal:
        """Who asks; or the refusal."""
        text = _presented(scope)
        path = scope["path"]
        if path in _OPEN_PATHS or (self._anonymous is not None and path in _OPEN_ON_LOOPBACK):
            return Caller("anonymous", admin=False)
        wanted = wanted_scope(scope["method"], path)
        try:
            if text is not None:
                return self._with_key(scope, text, wanted)
            if self._anonymous is not None and allows(self._anonymous, wanted):
                return EVERYBODY if self._anonymous == "admin" else _ANYBODY
            if self._local is not None:
                self._local.ensure()  # a command that finds its file gone has one for the next request
        except KeysError as error:
            return HttpRefusal(503, str(error))
        return HttpRefusal(401, self._unknown(wanted))

    def _with_key(self, scope: Scope, text: str, wanted: KeyScope) -> Caller | HttpRefusal:
        if self._local is not None:
            self._local.ensure()
        key = self._known(text)
        if key is None and self._anonymous == "admin":
            return EVERYBODY  # who may do everything anyway
        if key is None:
            return HttpRefusal(
                401,
                "this key is unknown or revoked: make one with `sluicegate keys create`, and set SLUICEGATE_API_KEY"
                + (f"; {self._advice}" if self._advice else ""),
            )
        if not any(map(key.may, scopes_for(scope["method"], scope["path"]))):
            has = ", ".join(sorted(key.scopes))
            return HttpRefusal(
                403, f"this needs a key of the scope {wanted}, and the key {key.name} has: {has}"
            )
        is_local = self._local is not None and key.id == self._local.id and _over_loopback(scope)
        return Caller(f"key {key.id} ({key.name})", key.may("admin"), is_local, reads=key.may("read"))

    def _unknown(self, wanted: KeyScope) -> str:
        if self._anonymous is None:
            return (
                "this address asks for a key: commands take it from SLUICEGATE_API_KEY, programs send `Authorization: "
                "Bearer KEY`; `sluicegate keys create` makes one"
            )
        may = {"none": "do nothing", "read": "look only", "publish": "look and publish only"}.get(
            self._anonymous
        )
        said = f"this needs a key of the scope {wanted}: without one, requests from this machine may {may}"
        return f"{said} (api.local_access: {self._anonymous}); {self._advice}".rstrip("; ")

    def _known(self, text: str) -> ApiKey | None:
        key_id = parse_key(text)
        key = self._keys.api_key(key_id) if key_id else None
        return key if fits(text, key) else None


class Authenticated:
    """Middleware: no request reaches the application without the right key. `caller` says who asked."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = self._authenticator.check(scope)
        if isinstance(found, Caller):
            scope.setdefault("state", {})["caller"] = found
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


def wanted_scope(method: str, path: str) -> KeyScope:
    """The scope of the key that a request needs, if it needs one."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    if method == "POST" and path.startswith("/v1/packet-sources/") and path.endswith("/messages"):
        return "publish"
    return "admin"


def scopes_for(method: str, path: str) -> tuple[KeyScope, ...]:
    """Each of which lets a request in. `publish` sees what it may publish to, by name (`Caller.reads`)."""
    wanted = wanted_scope(method, path)
    return (wanted, "publish") if (wanted, path) == ("read", _NAMES_PATH) else (wanted,)


def is_open(path: str) -> bool:
    """True for what everybody may see, on every address."""
    return path in _OPEN_PATHS


def _over_loopback(scope: Scope) -> bool:
    """True if the request comes from this machine."""
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _presented(scope: Scope) -> str | None:
    """The key in the request, from either header."""
    authorization = header(scope, b"authorization")
    if authorization is not None:
        kind, _, text = authorization.decode("latin-1").partition(" ")
        if kind.lower() == "bearer" and text.strip():
            return text.strip()
    own = header(scope, b"x-api-key")
    return own.decode("latin-1").strip() if own else None
