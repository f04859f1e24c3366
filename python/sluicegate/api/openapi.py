"""OpenAPI 3.1 and JSON Schema of the API, generated from the models (`/v1/openapi.json`, `/v1/schemas/KIND`)."""

from functools import cache
from typing import Any

import orjson
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluicegate import __version__
from sluicegate.http.auth import is_open, scopes_for
from sluicegate.model import Resource
from sluicegate.running.documents import KINDS, PATHS
from sluicegate.running.views import VIEWS, DrainingView

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def openapi_routes() -> list[Route]:
    """The routes of the OpenAPI document and the JSON Schemas."""

    async def openapi(request: Request) -> Response:
        return Response(orjson.dumps(document()), media_type="application/json")

    async def schema(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise HTTPException(404, f"there is no schema {kind!r}: there are {', '.join(KINDS)}")
        described = {"$schema": _DIALECT, **KINDS[kind].model_json_schema(by_alias=True)}
        return Response(orjson.dumps(described), media_type="application/schema+json")

    return [
        Route("/v1/openapi.json", openapi, methods=["GET"]),
        Route("/v1/schemas/{kind}", schema, methods=["GET"]),
    ]


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in KINDS.values()],
        by_alias=True,
        ref_template="#/components/schemas/{model}",
    )
    schemas = dict(definitions["$defs"])
    paths: dict[str, Any] = {}
    for kind, path in PATHS.items():
        schemas[f"{kind}View"] = _view(VIEWS[kind])
        schemas[f"{kind}List"] = {
            "type": "object",
            "properties": {
                "Items": {"type": "array", "items": _ref(f"{kind}View")},
                "NextToken": {"type": ["string", "null"]},
            },
            "required": ["Items", "NextToken"],
        }
        paths |= _resource_paths(kind, path)
    schemas["PeerView"] = _PEER
    schemas["PeerList"] = {
        "type": "object",
        "properties": {
            "Items": {"type": "array", "items": _ref("PeerView")},
            "NextToken": {"type": ["string", "null"]},
        },
        "required": ["Items", "NextToken"],
    }
    schemas["DrainingView"] = _view(DrainingView)
    schemas["DrainingList"] = {
        "type": "object",
        "properties": {
            "Items": {"type": "array", "items": _ref("DrainingView")},
            "NextToken": {"type": ["string", "null"]},
        },
        "required": ["Items", "NextToken"],
    }
    schemas["Problem"] = _PROBLEM
    schemas |= {"Outcome": _OUTCOME, "ScheduledList": _SCHEDULED, "Cancelled": _CANCELLED}
    paths |= _other_paths()
    for path, operations in paths.items():
        for method in operations.keys() - {"parameters"}:
            scopes = scopes_for(method.upper(), path)
            # `api.local_access` opens some without a key, on loopback. For schemes other than OAuth, OpenAPI 3.1 lists
            # roles here.
            operations[method]["security"] = (
                [] if is_open(path) else [{}, *({"key": [scope]} for scope in scopes)]
            )
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": _DIALECT,
        "info": {"title": "Sluicegate", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _view(view: type[Resource]) -> dict[str, Any]:
    """The schema of the values that the API adds to a resource's document. A missing value is left out, never null."""
    schema: dict[str, Any] = view.model_json_schema(
        by_alias=True, ref_template="#/components/schemas/{model}"
    )
    schema.pop("$defs", None)  # they are among the document's
    for described in schema["properties"].values():
        for key in ("default", "title"):
            described.pop(key, None)
        branches = [one for one in described.get("anyOf", ()) if one != {"type": "null"}]
        if len(branches) == 1:
            del described["anyOf"]
            described |= branches[0]
    del schema["additionalProperties"]  # those of the document
    return schema


_TEXT = {"type": "string"}
_PROBLEM = {
    "type": "object",
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "Errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    **dict.fromkeys(("Resource", "Pointer", "File", "Cause", "Fix"), _TEXT),
                    **{key: {"type": "integer"} for key in ("Line", "Column")},
                },
                "required": ["Cause", "Fix"],
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
}
_CHANGES = {
    "type": "object",
    "properties": {
        "Changes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "Action": {"enum": ["Create", "Replace", "Delete"]},
                    "Kind": {"enum": [*KINDS]},
                    "Name": _TEXT,
                    "Document": {"type": "object"},
                    "Version": _TEXT,
                },
                "required": ["Action", "Kind", "Name"],
            },
        }
    },
    "required": ["Changes"],
}
_OUTCOME = {
    "type": "object",
    "properties": {
        "MessageId": _TEXT,
        "Entries": {"type": "integer"},
        "Sent": {"type": "integer"},
        "Duplicates": {"type": "integer"},
        "Scheduled": {"type": "integer", "description": "Those that wait for their SendAt."},
        "Failures": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "Index": {"type": ["integer", "null"]},
                    "RemoteIndex": {"type": "integer", "description": "One of the entry's Remotes."},
                    "Reason": _TEXT,
                    "Detail": _TEXT,
                },
            },
        },
    },
    "required": ["MessageId", "Entries", "Sent", "Duplicates", "Failures"],
}
_CANCELLED = {
    "type": "object",
    "properties": {"Cancelled": {"type": "integer", "description": "Each of an entry's Remotes counts."}},
    "required": ["Cancelled"],
}
_SCHEDULED = {
    "type": "object",
    "properties": {
        "Items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "ScheduledId": _TEXT,
                    "SendAt": {"type": "string", "format": "date-time"},
                    "PacketSource": _TEXT,
                    "MessageId": _TEXT,
                    "Index": {"type": "integer"},
                    "Entries": {"type": "integer", "description": "Each of its Remotes counts."},
                    "Id": _TEXT,
                    "Tag": _TEXT,
                    "Remote": {"type": ["object", "string"]},
                    "Bytes": {"type": "integer"},
                },
                "required": ["ScheduledId", "SendAt", "PacketSource", "MessageId", "Index", "Entries"],
            },
        },
        "NextToken": {"type": ["string", "null"]},
        "Waiting": {"type": "integer", "description": "How many entries wait in all."},
    },
    "required": ["Items", "NextToken", "Waiting"],
}
_PEER = {
    "type": "object",
    "properties": {
        "PublicKey": _TEXT,
        "Name": _TEXT,
        "AllowedIPs": {"type": "array", "items": _TEXT},
        "PersistentKeepaliveSeconds": {"type": "integer"},
        "Configured": {"type": "boolean", "description": "It is one of the Listener's Peers."},
        "Endpoint": {
            "type": ["object", "null"],
            "properties": {"IpAddress": _TEXT, "Port": {"type": "integer"}},
        },
        "LastHandshakeAt": {"type": ["string", "null"], "format": "date-time"},
        "ReceivedBytes": {"type": "integer"},
        "SentBytes": {"type": "integer"},
        "Session": {"type": "boolean", "description": "There is a session to send with."},
        "ClockAheadSeconds": {
            "type": ["integer", "null"],
            "description": "The greatest stamp of its handshakes is so far ahead of the gateway's clock.",
        },
        "ClockBehindSeconds": {
            "type": ["integer", "null"],
            "description": "Its handshakes are refused: their stamps are so far below its greatest one.",
        },
    },
    "required": [
        "PublicKey",
        "Configured",
        "Endpoint",
        "LastHandshakeAt",
        "ReceivedBytes",
        "SentBytes",
        "Session",
        "ClockAheadSeconds",
        "ClockBehindSeconds",
    ],
}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _resource_paths(kind: str, path: str) -> dict[str, Any]:
    one = _answer(f"{kind}View")
    body = {"required": True, "content": {"application/json": {"schema": _ref(kind)}}}
    lenient = _header(
        "Prefer",
        "`handling=lenient`: the document comes from a template. Unknown properties become Warnings, and a template's "
        "defaults hold for what it leaves out.",
    )
    match = _header("If-Match", "Only if it has this version.")
    key = _header("Idempotency-Key", "A repeated request with the same key has the first answer.")
    return {
        f"/v1/{path}": {
            "get": _operation(f"list{kind}", {"200": _answer(f"{kind}List")}, ()),
            "post": _operation(
                f"create{kind}", {"201": one}, ("400", "409", "413", "422", "503"), [key, lenient], body
            ),
        },
        f"/v1/{path}/{{name}}": {
            "parameters": [_NAME],
            "get": _operation(f"read{kind}", {"200": one}, ("404",)),
            "put": _operation(
                f"replace{kind}",
                {"200": one},
                ("400", "404", "409", "412", "413", "422", "503"),
                [match, lenient],
                body,
            ),
            "delete": _operation(
                f"delete{kind}",
                {"204": {"description": "It is gone."}},
                ("404", "409", "412", "422", "503"),
                [match],
            ),
        },
    }


def _peer_paths() -> dict[str, Any]:
    key = {**_NAME, "name": "key", "description": "The public key, percent-encoded."}
    problems = ("400", "404", "409", "413", "422", "503")
    many = {"type": "object", "properties": {"Peers": {"type": "array", "items": _ref("Peer")}}}
    one_or_many = {"anyOf": [_ref("Peer"), many]}
    body = {"required": True, "content": {"application/json": {"schema": one_or_many}}}
    after = {"name": "after", "in": "query", "schema": _TEXT, "description": "NextToken of the part before."}
    gone = {"description": "Its session is cut."}
    reset = {"description": "Its next handshake is answered whatever its clock says."}
    return {
        "/v1/listeners/{name}/peers": {
            "parameters": [_NAME],
            "get": _operation("listPeers", {"200": _answer("PeerList")}, ("400", "404"), [after]),
            "post": _operation("addPeer", {"201": _answer("Peer")}, problems, [], body),
        },
        "/v1/listeners/{name}/peers/{key}": {
            "parameters": [_NAME, key],
            "delete": _operation("removePeer", {"204": gone}, ("404", "409", "422", "503")),
        },
        "/v1/listeners/{name}/peers/{key}/reset": {
            "parameters": [_NAME, key],
            "post": _operation("resetPeer", {"204": reset}, ("404", "409", "422", "503")),
        },
    }


def _scheduled_paths() -> dict[str, Any]:
    """Entries that wait for their SendAt."""
    which = [
        {"name": name, "in": "query", "schema": {"type": "string"}, "description": description}
        for name, description in (
            ("PacketSource", "Those of this PacketSource."),
            ("MessageId", "Those of this message."),
        )
    ]
    pages = [
        {"name": "Limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1_000}},
        {"name": "NextToken", "in": "query", "schema": {"type": "string"}},
    ]
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/scheduled": {
            "get": _operation(
                "listScheduled", {"200": _answer("ScheduledList")}, ("400", "503"), [*which, *pages]
            ),
            "delete": _operation("cancelScheduled", {"200": _answer("Cancelled")}, ("400", "503"), which),
        },
        "/v1/scheduled/{number}": {
            "parameters": [number],
            "delete": _operation(
                "cancelOneScheduled", {"204": {"description": "It is not sent."}}, ("404", "503")
            ),
        },
    }


def _topic_paths() -> dict[str, Any]:
    topic = {"type": "object", "properties": {"Name": _TEXT}, "required": ["Name"]}
    made = {"type": "object", "properties": {"TopicArn": _TEXT}, "required": ["TopicArn"]}
    body = {"required": True, "content": {"application/json": {"schema": topic}}}
    created = {"description": "It is there.", "content": {"application/json": {"schema": made}}}
    gone = {"description": "It is gone."}
    problems = ("400", "409", "413", "422", "503")
    return {
        "/v1/topics": {"post": _operation("createTopic", {"201": created}, problems, [], body)},
        "/v1/topics/{name}": {
            "parameters": [{**_NAME, "description": "The topic's ARN."}],
            "delete": _operation("deleteTopic", {"204": gone}, ("409", "422", "503")),
        },
    }


def _other_paths() -> dict[str, Any]:
    source = _answer("PacketSourceView")
    message = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    changes = {"type": "object", "properties": {"Changes": {"type": "array", "items": _TEXT}}}
    health = {
        "description": "Every Listener is bound.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    not_yet = {"description": "Not every Listener is bound."}
    about = {
        "type": "object",
        "properties": {
            "Region": _TEXT,
            "Node": {"type": "integer"},
            "Domain": _TEXT,
            "Sns": {"type": ["object", "null"], "properties": {"Url": _TEXT}},
            "Emulator": {
                "type": ["object", "null"],
                "properties": {"Url": _TEXT, "Services": {"type": "array", "items": _TEXT}},
            },
            "RequireApproval": {"type": "boolean"},
        },
        "required": ["Region", "Node", "Domain", "Sns", "Emulator", "RequireApproval"],
    }
    this_node = {"description": "This node.", "content": {"application/json": {"schema": about}}}
    return {
        "/v1/gateway": {"get": _operation("about", {"200": this_node}, ())},
        **_peer_paths(),
        "/v1/packet-sources/{name}/approve": {
            "parameters": [_NAME],
            "post": _operation("approve", {"200": source}, ("404", "409", "422", "503")),
        },
        "/v1/packet-sources/{name}/reject": {
            "parameters": [_NAME],
            "post": _operation("reject", {"200": source}, ("404", "409", "422", "503")),
        },
        "/v1/packet-sources/{name}/messages": {
            "parameters": [_NAME],
            "post": _operation(
                "send", {"200": _answer("Outcome")}, ("404", "409", "413", "429", "503"), [], message
            ),
        },
        "/v1/draining": {"get": _operation("listDraining", {"200": _answer("DrainingList")}, ())},
        "/v1/draining/{name}": {
            "parameters": [_NAME],
            "delete": _operation(
                "discard",
                {"204": {"description": "Its queues are deleted, with what waited in them."}},
                ("404",),
            ),
        },
        **_scheduled_paths(),
        **_topic_paths(),
        "/v1/check": {
            "post": _operation(
                "check",
                {
                    "200": {
                        "description": "All of them would be taken. The warnings of each.",
                        "content": {
                            "application/json": {
                                "schema": {
                                    "type": "object",
                                    "properties": {
                                        "Warnings": {
                                            "type": "array",
                                            "items": {"type": "array", "items": _TEXT},
                                        }
                                    },
                                    "required": ["Warnings"],
                                }
                            }
                        },
                    }
                },
                ("400", "403", "409", "413", "422"),
                body={"required": True, "content": {"application/json": {"schema": _CHANGES}}},
            )
        },
        "/v1/reload": {
            "post": _operation(
                "reload",
                {
                    "200": {
                        "description": "What changed.",
                        "content": {"application/json": {"schema": changes}},
                    }
                },
                ("422",),
            )
        },
        "/v1/events": {
            "get": _operation(
                "events", {"200": _content("text/event-stream", "application/x-ndjson")}, ("400", "503")
            )
        },
        "/v1/openapi.json": {"get": _operation("describe", {"200": _content("application/json")}, ())},
        "/v1/schemas/{kind}": {
            "parameters": [{**_NAME, "name": "kind", "schema": {"enum": list(KINDS)}}],
            "get": _operation("schema", {"200": _content("application/schema+json")}, ("404",)),
        },
        "/metrics": {"get": _operation("metrics", {"200": _content("text/plain")}, ())},
        "/healthz": {"get": {"operationId": "health", "responses": {"200": health, "503": not_yet}}},
    }


def _operation(
    name: str,
    answers: dict[str, Any],
    problems: tuple[str, ...],
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    refused = {
        "description": "Refused.",
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }
    operation: dict[str, Any] = {
        "operationId": name,
        "responses": answers | dict.fromkeys(sorted({"401", "403", *problems}), refused),
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    return operation


def _answer(schema: str) -> dict[str, Any]:
    return {"description": "Done.", "content": {"application/json": {"schema": _ref(schema)}}}


def _content(*media_types: str) -> dict[str, Any]:
    return {"description": "Done.", "content": {one: {} for one in media_types}}


def _header(name: str, meaning: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": meaning,
        "schema": {"type": "string"},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
