"""The JSON Schema of the configuration file, for editors: what the file may say, and nothing that this version refuses.

The model's own schema knows fields, types and bounds. Added here: the other spellings, which are accepted and not
offered; scalars in quotes; forms (`pattern`) and examples of texts; and left out is what a later version brings.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sluicegate.destinations import schemes
from sluicegate.model import GatewayConfig, Resource
from sluicegate.model.support import LATER_VALUES

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_QUOTED = {
    "integer": r"^\s*[+-]?[0-9][0-9_]*(\.0*)?\s*$",
    "number": r"^\s*[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$",
    "boolean": "^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF|[01tfynTFYN])$",
}
"""A number or truth value as text."""
_NAME = "^[A-Za-z0-9][A-Za-z0-9 ._-]{0,254}$"
_REGION = "^[a-z0-9]+(-[a-z0-9]+)*$"
_KEY = "^[A-Za-z0-9+/]{43}=$"
_ROLE = "^arn:[a-z][a-z0-9-]*:iam:[a-z0-9-]*:[0-9]*:.+$"
_SERVER = r"^(localhost|[0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$"
_NETWORK = "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"
_TEXTS: dict[str, tuple[str | None, list[str]]] = {
    "Api.bind": (_SERVER, ["127.0.0.1:8080"]),
    "AssumedRole.arn": (_ROLE, ["arn:aws:iam::123456789012:role/NAME"]),
    "Aws.endpoint_url": (r"^https?://[^/\s]+", ["http://127.0.0.1:4566"]),
    "ClientRestrictions.domains": (None, ["device.example.com"]),
    "ClientRestrictions.networks": (_NETWORK, ["198.51.100.0/24", "2001:db8::/32"]),
    "CloudFormation.queue_url": (
        r"^https?://[^/\s]+/[0-9]{12}/[\w-]{1,80}$",
        ["https://sqs.us-east-1.amazonaws.com/123456789012/NAME"],
    ),
    "DestinationSpec.name": ("^[A-Za-z0-9-]{1,255}$", ["echo"]),
    "DestinationSpec.role": (_ROLE, ["arn:aws:iam::123456789012:role/NAME"]),
    "DestinationSpec.log_group_name": ("^(?!aws/)[A-Za-z0-9._/#-]{1,512}$", ["/devices/echo"]),
    "Events.file": (r"[^/\s]$", ["logs/events.ndjson"]),
    "GatewayConfig.region": (_REGION, ["us-east-1"]),
    "GatewayConfig.domain": ("^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$", ["ingress-1"]),
    "GatewayConfig.state": (r"[^/\s]$", ["./sluicegate.db"]),
    "GatewayConfig.ports": (r"^\s*[0-9]{1,5}\s*-\s*[0-9]{1,5}\s*$", ["20000-29999"]),
    "GatewayConfig.local_code": (r"\S", [".", "/srv/handlers"]),
    "GatewayConfig.local_networks": (_NETWORK, ["10.20.0.0/16"]),
    "GatewayConfig.loop_guard_exempt_networks": (_NETWORK, ["127.0.0.0/8"]),
    "Listener.name": (_NAME, ["decoder"]),
    "Listener.bind": (
        r"^([0-9.]+(:[0-9]{1,5})?|\[[0-9a-fA-F:.%]+\](:[0-9]{1,5})?|[0-9a-fA-F:]+)$",
        ["0.0.0.0:2048", "[::]:2048"],
    ),
    "Listener.role": (_ROLE, ["arn:aws:iam::123456789012:role/NAME"]),
    "Listener.log_group_name": ("^(?!aws/)[A-Za-z0-9._/#-]{1,512}$", ["/devices/decoder"]),
    "Listener.private_key": (_KEY, []),
    "Listener.unknown_peer_pre_shared_key": (_KEY, []),
    "PacketSource.name": (_NAME, ["replies"]),
    "PacketSource.listener_name": (None, ["decoder"]),
    "PacketSource.home_region": (_REGION, ["us-east-1"]),
    "PacketSource.dead_letter_queue_arn": (
        r"^(arn:aws[a-z-]*:sqs:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,80}|file:.*[^/])$",
        ["file:dead.ndjson", "arn:aws:sqs:us-east-1:123456789012:NAME"],
    ),
    "PacketSource.egress_networks": (_NETWORK, ["203.0.113.0/24"]),
    "Peer.public_key": (_KEY, ["D2ke7vUT1bwb0YjGpe6hqbSVOKBeqR0871LocHYlt0Y="]),
    "Peer.allowed_ips": (_NETWORK, ["10.60.0.2/32"]),
    "Peer.shared_secret": (_KEY, []),
    "Sns.bind": (_SERVER, ["127.0.0.1:4566"]),
    "SnsTopicSource.topic_arn": (
        r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?$",
        ["arn:aws:sns:us-east-1:000000000000:replies"],
    ),
    "SnsTopicSource.role": (_ROLE, ["arn:aws:iam::123456789012:role/NAME"]),
    "Tls.cert": (r"[^/\s]$", ["tls/server.pem"]),
    "Tls.key": (r"[^/\s]$", ["tls/server.key"]),
}
"""`MODEL.field` → the form of its text, and examples. The model says the same with words, and more of it."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the YAML file; completion offers its snake_case spelling."""
    schema = GatewayConfig.model_json_schema(by_alias=False)
    models = {model.__name__: model for model in _models(GatewayConfig, set())}
    for name, part in {"GatewayConfig": schema, **schema["$defs"]}.items():
        _complete(part, models[name])
    return {"$schema": _DRAFT, **schema, "title": "Sluicegate gateway"}


def _models(model: type[Resource], seen: set[type[Resource]]) -> Iterator[type[Resource]]:
    seen.add(model)
    yield model
    for field in model.model_fields:
        inner = model.child(field)
        if inner is not None and inner not in seen:
            yield from _models(inner, seen)


def _complete(schema: dict[str, Any], model: type[Resource]) -> None:
    """Put into the schema of one model what its own has not."""
    fields: dict[str, Any] = schema["properties"]
    for name, field in fields.items():
        pattern, examples = _TEXTS.get(f"{model.__name__}.{name}", (None, []))
        _loosen(field, pattern)
        if examples:
            field["examples"] = [examples[:1]] if _is_list(field) else examples
    if model.__name__ == "DestinationSpec":
        _know_schemes(fields["destination_arn"])
    if model.__name__ == "Listener":
        one = fields.pop("protocol")
        choice = {"enum": one.pop("enum"), "type": one.pop("type")}
        listed = {"type": "array", "items": choice, "minItems": 1, "maxItems": 1}
        fields["protocol"] = {"anyOf": [choice, listed], "examples": ["wg"], **one}
    schema["patternProperties"] = {
        f"^({'|'.join(others)})$": _unexplained(fields[name])
        for name, others in _other_spellings(model).items()
        if name in fields
    }
    needed = [[name] for name in schema.pop("required", ())]
    if model.__name__ == "PacketSource":
        needed.append(["sns_topic_source", "message_source"])
    if needed:
        schema["allOf"] = [{"anyOf": _either(names, model)} for names in needed]


def _either(names: list[str], model: type[Resource]) -> list[dict[str, Any]]:
    others = _other_spellings(model)
    return [{"required": [one]} for name in names for one in (name, *others.get(name, ()))]


def _other_spellings(model: type[Resource]) -> Mapping[str, list[str]]:
    """Field → its keys in other spellings."""
    found: dict[str, list[str]] = {}
    for key, field in model.spellings().items():
        if key != field:
            found.setdefault(field, []).append(key)
    return found


def _unexplained(field: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in field.items()
        if key not in ("title", "description", "default", "examples")
    }


def _is_list(field: dict[str, Any]) -> bool:
    return field.get("type") == "array" or any(one.get("type") == "array" for one in field.get("anyOf", ()))


def _loosen(schema: dict[str, Any], pattern: str | None) -> None:
    """Take scalars in quotes too, and only values that this version can do; texts have the form `pattern`."""
    kind = schema.get("type")
    if kind in _QUOTED:
        schema |= {"type": [kind, "string"], "pattern": _QUOTED[kind]}
    if kind == "string" and pattern is not None and "pattern" not in schema:
        schema["pattern"] = pattern
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value not in LATER_VALUES]
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        _loosen(inner, pattern)


def _know_schemes(schema: dict[str, Any]) -> None:
    """Editors are to know the schemes and ARN services that this installation knows."""
    known = "|".join(re.sub(r"([+.])", r"\\\1", scheme) for scheme in schemes())
    pattern = f"^(?:(?:{known})(?::|$)|arn:[^:]+:(?:{known}):)"
    schema["examples"] = ["function:handlers/echo.py:handler", "file:packets.ndjson", "console:"]
    for form in schema["anyOf"]:
        if form.get("type") == "string":
            form["pattern"] = pattern
        elif form.get("type") == "object":
            form["additionalProperties"] = {"type": "string", "pattern": pattern}
