"""Resources over REST: create, read, replace, delete, approve (contract sections 1 and 8), and the peers of Listeners.

Every resource has a version, its `ETag`. `If-Match` makes a PUT or DELETE fail with 412 when somebody else was faster.
A POST with an `Idempotency-Key` may be repeated: the first answer comes again for a day, also where the gateway ended
between making the resource and keeping the answer. A resource that another request made is never taken for its own.
`Prefer: handling=lenient` (RFC 7240) says that the document comes from a template: unknown properties become
`Warnings`, and a template's defaults hold for what it leaves out (contract sections 1.1 and 3).
`Sluicegate-Local-Code: ["/srv/handlers"]`, from the key `local` over loopback, lets its code lie in these folders too.

A peer's public key in a path is percent-encoded: base64 has `/` and `+`.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluicegate.api.redaction import redacted
from sluicegate.http.auth import caller
from sluicegate.http.doors import BodyTooLarge, Disconnected, read_body, refused_origin
from sluicegate.running.documents import KINDS, PATHS, Refused, notes_about, parse, resource_url
from sluicegate.running.peers import peer_views
from sluicegate.running.plan import batched
from sluicegate.running.registry import Declared, NotFound, Proposed, Registry
from sluicegate.running.views import draining, returned, shown
from sluicegate.state import Answer, ResourceTable

BODY_LIMIT = 262_144
LOCAL_CODE = "Sluicegate-Local-Code"
"""The header with further folders for the code of a document."""
_INSTEAD = "add the folders to `local_code` in the gateway's file"
_KEY_LIMIT = 256
_NAMES = ("Name", "ListenerName", "State")
"""What a key of the scope `publish` is shown of a PacketSource."""
_AT_ONCE = 50
"""Resources that are shown between two turns of the event loop."""
_PEERS = 1000
"""Peers in one answer; `?after=NextToken` has those that follow."""
_BEGUN = 0
"""In place of a status: a request with this key was begun and has no answer yet."""


class ResourcesView(Protocol):
    """What these routes need to see of a running gateway."""

    @property
    def registry(self) -> Registry: ...
    @property
    def table(self) -> ResourceTable: ...


def resource_routes(gateway: ResourcesView) -> list[Route]:
    """The routes of every kind of resource."""
    resources = Resources(gateway)
    routes = []
    for kind, path in PATHS.items():
        many, one = f"/v1/{path}", f"/v1/{path}/{{name}}"
        routes += [
            Route(many, resources.bound(resources.items, kind), methods=["GET"]),
            Route(many, resources.bound(resources.create, kind), methods=["POST"]),
            Route(one, resources.bound(resources.read, kind), methods=["GET"]),
            Route(one, resources.bound(resources.replace, kind), methods=["PUT"]),
            Route(one, resources.bound(resources.delete, kind), methods=["DELETE"]),
        ]
    peers = f"/v1/{PATHS['Listener']}/{{name}}/peers"
    sources = f"/v1/{PATHS['PacketSource']}/{{name}}"
    return [
        *routes,
        Route(peers, resources.peers, methods=["GET"]),
        Route(peers, resources.add_peer, methods=["POST"]),
        Route(f"{peers}/{{key:path}}/reset", resources.reset_peer, methods=["POST"]),
        Route(f"{peers}/{{key:path}}", resources.remove_peer, methods=["DELETE"]),
        Route(f"{sources}/approve", resources.approve, methods=["POST"]),
        Route(f"{sources}/reject", resources.reject, methods=["POST"]),
        Route("/v1/draining", resources.draining, methods=["GET"]),
        Route("/v1/draining/{name}", resources.discard, methods=["DELETE"]),
        Route("/v1/check", resources.check, methods=["POST"]),
        Route("/v1/reload", resources.reload, methods=["POST"]),
    ]


class Resources:
    """The handlers. Belongs to the event loop."""

    def __init__(self, gateway: ResourcesView) -> None:
        self._gateway = gateway
        self._keyed = asyncio.Lock()

    def bound(self, handler: Any, kind: str) -> Any:
        """A handler for one kind."""

        async def endpoint(request: Request) -> Response:
            answer: Response = await handler(kind, request)
            return answer

        return endpoint

    @property
    def _registry(self) -> Registry:
        return self._gateway.registry

    async def items(self, kind: str, request: Request) -> Response:
        items = []
        for some in batched(self._registry.names(kind), _AT_ONCE):
            for key in some:
                with contextlib.suppress(NotFound):  # deleted since
                    items.append(self._item(self._registry.find(*key), request))
            await asyncio.sleep(0)
        return _json({"Items": items, "NextToken": None})

    def _item(self, one: Declared, request: Request) -> dict[str, object]:
        view = self._shown(one, request)
        return view if caller(request.scope).reads else {name: view[name] for name in _NAMES}

    async def read(self, kind: str, request: Request) -> Response:
        one = self._registry.find(kind, request.path_params["name"])
        return _json(self._shown(one, request), headers=_tag(one))

    async def create(self, kind: str, request: Request) -> Response:
        data = await _document(kind, request)
        key = request.headers.get("idempotency-key")
        if key is None:
            return await self._create(kind, request, data)
        if not 0 < len(key) <= _KEY_LIMIT:
            raise HTTPException(400, f"Idempotency-Key has 1 to {_KEY_LIMIT} characters")
        async with self._keyed:
            return await self._create_once(kind, request, data, key)

    async def replace(self, kind: str, request: Request) -> Response:
        data = await _document(kind, request)
        one, warnings = await self._registry.replace(
            kind,
            request.path_params["name"],
            data,
            _who(request),
            versions=_versions(request),
            lenient=_lenient(request),
            more_code=_more_code(request),
        )
        return _json(self._with_warnings(one, warnings), headers=_tag(one))

    async def delete(self, kind: str, request: Request) -> Response:
        refuse_pages(request)
        name = request.path_params["name"]
        await self._registry.delete(kind, name, _who(request), versions=_versions(request))
        return Response(status_code=204)

    async def peers(self, request: Request) -> Response:
        running = self._registry.running(request.path_params["name"])
        after = request.query_params.get("after")
        try:
            page = await asyncio.to_thread(running.port.peers, after, _PEERS + 1)
        except ValueError:
            raise HTTPException(
                400, "`after` is not a public key: use the NextToken of the page before"
            ) from None
        statuses = orjson.loads(page)
        more = statuses[_PEERS - 1]["PublicKey"] if len(statuses) > _PEERS else None
        views = await asyncio.to_thread(
            peer_views, running.resource, running.node.wireguard, statuses[:_PEERS]
        )
        return _json({"Items": views, "NextToken": more})

    async def add_peer(self, request: Request) -> Response:
        data = await json_body(request)
        many = data.get("Peers") if isinstance(data, dict) else None
        wanted = many if isinstance(many, list) else [data]
        peers = await self._registry.add_peers(request.path_params["name"], wanted, _who(request))
        shown = [peer.dump() for peer in peers]
        return _json(shown[0] if many is None else {"Peers": shown}, 201)

    async def remove_peer(self, request: Request) -> Response:
        refuse_pages(request)
        name, key = request.path_params["name"], request.path_params["key"]
        await self._registry.remove_peer(name, key, _who(request))
        return Response(status_code=204)

    async def reset_peer(self, request: Request) -> Response:
        refuse_pages(request)
        name, key = request.path_params["name"], request.path_params["key"]
        await self._registry.reset_peer(name, key, _who(request))
        return Response(status_code=204)

    async def approve(self, request: Request) -> Response:
        return await self._decide(request, "Approved")

    async def reject(self, request: Request) -> Response:
        return await self._decide(request, "Rejected")

    async def draining(self, request: Request) -> Response:
        """Queues on AWS that no PacketSource names any more."""
        return _json({"Items": draining(self._registry), "NextToken": None})

    async def discard(self, request: Request) -> Response:
        """Delete those of one PacketSource, with what waits in them."""
        refuse_pages(request)
        await self._registry.discard(request.path_params["name"], _who(request))
        return Response(status_code=204)

    async def reload(self, request: Request) -> Response:
        refuse_pages(request)
        return _json({"Changes": await self._registry.reload(_who(request))})

    async def check(self, request: Request) -> Response:
        """Would these changes be taken, one after the other? Nothing is changed."""
        data = await json_body(request)
        changes = data.get("Changes") if isinstance(data, dict) else None
        if not isinstance(changes, list) or not all(map(_is_change, changes)):
            form = '{"Changes": [{"Action": "Create", "Kind": "Listener", "Name": "…", "Document": {…}}]}'
            raise HTTPException(422, f"this is not a list of changes: write it as {form}")
        fields = ("Action", "Kind", "Name", "Document", "Version")
        proposed = [Proposed(*map(one.get, fields)) for one in changes]
        return _json({"Warnings": await self._registry.check(proposed, _more_code(request))})

    def _shown(self, one: Declared, request: Request) -> dict[str, Any]:
        document = shown(self._registry, one)
        return document if caller(request.scope).admin else redacted(one.kind, document)

    async def _decide(self, request: Request, decision: str) -> Response:
        refuse_pages(request)
        one = await self._registry.decide(request.path_params["name"], decision, _who(request))
        return _json(shown(self._registry, one), headers=_tag(one))

    async def _create(self, kind: str, request: Request, data: Any) -> Response:
        one, warnings = await self._registry.create(
            kind, data, _who(request), lenient=_lenient(request), more_code=_more_code(request)
        )
        return self._created(kind, one, warnings)

    async def _create_once(self, kind: str, request: Request, data: Any, key: str) -> Response:
        table, who = self._gateway.table, _who(request)
        fingerprint = hashlib.sha256(orjson.dumps([kind, data], option=orjson.OPT_SORT_KEYS)).hexdigest()
        first = await asyncio.to_thread(table.answer, who, key)
        if first is not None:
            if first.request != fingerprint:
                raise HTTPException(422, "this Idempotency-Key was used for another request: take a new one")
            if first.status != _BEGUN:
                return Response(first.body, first.status, first.headers, media_type="application/json")
        else:
            await asyncio.to_thread(table.keep_answer, who, key, Answer(fingerprint, _BEGUN, {}, b""))
        try:
            response = await self._create(kind, request, data)
        except Refused:
            # A request that was begun before, and not answered, may have made it.
            before = self._made_before(kind, request, data) if first is not None else None
            if before is None:
                await asyncio.to_thread(table.forget_answer, who, key)
                raise
            response = before
        headers = {name: response.headers[name] for name in ("location", "etag")}
        answer = Answer(fingerprint, response.status_code, headers, bytes(response.body))
        await asyncio.to_thread(table.keep_answer, who, key, answer)
        return response

    def _made_before(self, kind: str, request: Request, data: Any) -> Response | None:
        registry = self._registry
        try:
            resource, warnings = parse(
                kind, data, registry.config, lenient=_lenient(request), more_code=_more_code(request)
            )
        except Refused:
            return None
        for one in registry.declared(kind):
            if one.owner == "Api" and one.resource == resource:
                return self._created(kind, one, warnings)
        return None

    def _created(self, kind: str, one: Declared, warnings: list[str]) -> Response:
        location = resource_url(kind, one.resource.name)
        return _json(self._with_warnings(one, warnings), 201, {"Location": location, **_tag(one)})

    def _with_warnings(self, one: Declared, warnings: list[str]) -> dict[str, Any]:
        document = shown(self._registry, one)
        warnings = [*warnings, *notes_about(self._registry.desired, one.kind, one.resource.name)]
        return document | {"Warnings": warnings} if warnings else document


async def _document(kind: str, request: Request) -> Any:
    """The body as JSON, without what only the gateway sets: a resource that was read may be sent back."""
    data = await json_body(request)
    if not isinstance(data, dict):
        return data
    ours = returned(kind) - set(KINDS[kind].spellings())
    return {key: value for key, value in data.items() if key not in ours}


async def json_body(request: Request) -> Any:
    """The body of a request that changes something, as JSON. Raises `HTTPException`."""
    refuse_pages(request)
    try:
        body = await read_body(request.scope, request.receive, BODY_LIMIT)
    except BodyTooLarge:
        raise HTTPException(413, f"a resource is at most {BODY_LIMIT} bytes") from None
    except Disconnected:
        raise HTTPException(400, "the body did not arrive") from None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON ({error}): send one resource as an object") from None


def _is_change(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and one.get("Action") in ("Create", "Replace", "Delete")
        and one.get("Kind") in [*KINDS]
        and isinstance(one.get("Name"), str)
        and isinstance(one.get("Version"), str | None)
    )


def refuse_pages(request: Request) -> None:
    """Refuse what a web page sends. Raises `HTTPException`."""
    refused = refused_origin(request.scope)
    if refused is not None:
        raise HTTPException(403, refused)


def _who(request: Request) -> str:
    return caller(request.scope).name


def _lenient(request: Request) -> bool:
    return "handling=lenient" in request.headers.get("prefer", "").replace(" ", "")


def _more_code(request: Request) -> tuple[str, ...]:
    """The folders that `sluicegate apply` adds for the code of a document, resolved. Raises `HTTPException`."""
    given = request.headers.get(LOCAL_CODE)
    if given is None:
        return ()
    if not caller(request.scope).local:
        raise HTTPException(
            403, f"{LOCAL_CODE} is taken from the key `local` over loopback alone: {_INSTEAD}"
        )
    try:
        folders = orjson.loads(given)
    except orjson.JSONDecodeError:
        folders = None
    if not isinstance(folders, list) or not all(
        isinstance(one, str) and one.startswith("/") for one in folders
    ):
        raise HTTPException(400, f'{LOCAL_CODE} is no list of absolute paths: write it as ["/srv/handlers"]')
    return tuple(dict.fromkeys(os.path.realpath(one) for one in folders))


def _versions(request: Request) -> list[str] | None:
    """The versions in `If-Match`, None without it. A weak one (RFC 9110, section 13.1.1) never matches."""
    given = request.headers.get("if-match")
    if given is None:
        return None
    return [tag.strip().removeprefix('"').removesuffix('"') for tag in given.split(",")]


def _tag(one: Declared) -> dict[str, str]:
    return {"ETag": f'"{one.version}"'}


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document, default=str), status, headers, media_type="application/json")
