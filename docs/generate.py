"""Writes docs/configuration.md and docs/resources.md from the models, and the tables of layers in docs/architecture.md
from the imports: `python docs/generate.py`.

`tests/unit/test_docs.py` fails while a file is not what this would write.
"""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from sluicegate.cfn.provider import ATTRIBUTES, IDENTITY
from sluicegate.model import (
    Api,
    AssumedRole,
    Aws,
    Batching,
    ClientRestrictions,
    CloudFormation,
    Coap,
    DestinationArn,
    DestinationSpec,
    Events,
    GatewayConfig,
    Listener,
    Multicast,
    PacketSource,
    Peer,
    RateLimit,
    Resource,
    Sns,
    SnsTopicSource,
    Tls,
    support,
)
from sluicegate.model.base import pascal_case
from sluicegate.model.described import descriptions
from sluicegate.running.documents import KINDS
from sluicegate.running.views import VIEWS

TARGET = Path(__file__).with_name("configuration.md")
RESOURCES = Path(__file__).with_name("resources.md")
DESTINATIONS = Path(__file__).parent / "reference/destinations"
ARCHITECTURE = Path(__file__).with_name("architecture.md")

_SECTIONS: list[tuple[str, str, type[Resource]]] = [
    ("The gateway", "Keys at the top of the file.", GatewayConfig),
    ("api", "", Api),
    ("sns", "Without this section there is no SNS endpoint.", Sns),
    ("api.tls, sns.tls", "", Tls),
    ("aws", "", Aws),
    (
        "cloudformation",
        "[Deploy with CloudFormation](cloudformation.md#the-provider-as-a-topic) says what it needs.",
        CloudFormation,
    ),
    ("events", "", Events),
    ("listeners[]", "", Listener),
    ("listeners[].multicast", "", Multicast),
    ("listeners[].client_restrictions", "", ClientRestrictions),
    ("listeners[].peers[]", "", Peer),
    ("listeners[].coap", "", Coap),
    ("listeners[].destinations[]", "", DestinationSpec),
    ("listeners[].destinations[].batching", "", Batching),
    ("listeners[].role, listeners[].destinations[].role", "Or the ARN alone, as text.", AssumedRole),
    ("packet_sources[]", "", PacketSource),
    ("packet_sources[].sns_topic_source", "", SnsTopicSource),
    ("packet_sources[].rate_limit", "", RateLimit),
]

# For keys that the model leaves to their names.
_MEANINGS = {
    "description": "Free text.",
    "name": "A name for people.",
    "listeners": "See `listeners[]`.",
    "packet_sources": "See `packet_sources[]`.",
    "packets_per_second": "Packets a second, to all remotes together.",
    "per_remote_packets_per_second": "Packets a second to each remote.",
}

_HEAD = """\
<!-- Written by docs/generate.py from the configuration model. Edit the model, not this file. -->
# Configuration

A configuration is one YAML file. [The README](../README.md#configuration-by-example) has an example of it,
and `examples/` has more. Three commands help to write one:

- `sluicegate validate FILE` prints every problem as `file:line:col: cause, fix`, without running anything.
- `sluicegate schema` prints a JSON Schema; editors with a YAML language server complete and check with it.
- `sluicegate dev` writes a small commented file where there is none.

Rules that hold everywhere:

- Keys may be written in snake_case or in PascalCase (`size_in_mb`, `SizeInMb`). The PascalCase spelling is
  the plain transliteration, except for those named below. The same key twice is an error, and so is a key
  that does not exist.
- Numbers and booleans may be quoted (`"10"`, `"true"`).
- Relative paths are relative to the file. A role is an ARN or `{ arn: …, duration: … }`.
- A network is `ADDRESS/PREFIX` without host bits; an address alone is that address.
- Quote whatever begins with `[` or holds `: `; in YAML it would mean something else.

What this version knows and cannot do yet is refused by `validate` and at the start: the
[last section](#known-and-not-available-yet) lists it. Keys that only serve what is refused (`peers`
and its like) have no effect until then.
"""

_TAIL = """\
## Known and not available yet

The model is complete, the gateway is not: these are refused with the line and column of the key.

| section | key | what cannot be done yet | instead |
|---|---|---|---|
"""


def render() -> str:
    """The text of docs/configuration.md."""
    schema = GatewayConfig.model_json_schema(by_alias=False)
    parts = [_HEAD]
    for title, note, model in _SECTIONS:
        properties = schema if model is GatewayConfig else schema["$defs"][model.__name__]
        parts.append("\n".join(_section(title, note, model, properties, schema["$defs"])))
    parts.append(_TAIL + "\n".join(_unavailable()) + "\n")
    return "\n".join(parts)


def _section(
    title: str, note: str, model: type[Resource], schema: dict[str, Any], definitions: dict[str, Any]
) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    about = _sentence(f"{schema.get('description', '')} {note}")
    if about and model is not GatewayConfig:
        yield from (about, "")
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for name, described in schema["properties"].items():
        default = "**required**" if name in schema.get("required", ()) else _default(model.model_fields[name])
        meaning = _meaning(name, described, definitions)
        spelled = _other_spellings(name, model)
        if spelled:
            meaning += f" Also written {', '.join(spelled)}."
        yield f"| `{name}` | {_value(described)} | {default} | {meaning} |"
    yield ""


def _value(described: dict[str, Any]) -> str:
    choices = [choice for choice in described.get("anyOf", [described]) if choice.get("type") != "null"]
    return " or ".join(dict.fromkeys(_kind(choice) for choice in choices))


def _kind(choice: dict[str, Any]) -> str:
    if "enum" in choice:
        return ", ".join(f"`{value}`" for value in choice["enum"])
    if "$ref" in choice:
        return "section"
    kind = {"integer": "whole number", "string": "text", "array": "list", "object": "map"}.get(
        choice["type"], choice["type"]
    )
    if kind == "list":
        items = choice["items"].get("anyOf", [choice["items"]])
        if "$ref" in items[0]:
            kind = "list of sections" + " or names" * (len(items) > 1)
    low = f"≥ {choice['minimum']}" if "minimum" in choice else ""
    low = f"> {choice['exclusiveMinimum']}" if "exclusiveMinimum" in choice else low
    high = f"≤ {choice['maximum']}" if "maximum" in choice else ""
    bounds = ", ".join(filter(None, (low, high)))
    return f"{kind}, {bounds}" if bounds else kind


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Resource):
        return "its defaults"
    if value in (None, "", [], {}):
        return "none"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _meaning(name: str, described: dict[str, Any], definitions: dict[str, Any]) -> str:
    text = described.get("description") or _MEANINGS.get(name)
    if text is None:
        reference = next(part["$ref"] for part in described.get("anyOf", [described]) if "$ref" in part)
        text = definitions[reference.rpartition("/")[2]]["description"]
    return _sentence(text)


def _other_spellings(name: str, model: type[Resource]) -> list[str]:
    """Accepted keys that are neither the field's name nor its plain transliteration."""
    plain = {name, "".join(part.capitalize() for part in name.split("_"))}
    return [f"`{key}`" for key, field in model.spellings().items() if field == name and key not in plain]


def _sentence(text: str) -> str:
    """One line; without references to a specification that the reader does not have."""
    text = re.sub(r" \((contract|reference)[^)]*\)", "", " ".join(text.split()))
    return text.replace("|", "\\|").strip()


def _unavailable() -> Iterator[str]:
    for key, _, what, instead in support._LISTENER:
        yield f"| listeners[] | `{key}` | {what} | {instead} |"


# The resources, for CloudFormation and the API.

_KINDS: dict[str, tuple[type[Resource], list[tuple[str, type[Resource]]]]] = {
    "Listener": (
        Listener,
        [
            ("Multicast", Multicast),
            ("ClientRestrictions", ClientRestrictions),
            ("Destinations[]", DestinationSpec),
            ("Destinations[].Batching", Batching),
            ("Role", AssumedRole),
            ("Peers[]", Peer),
            ("Coap", Coap),
        ],
    ),
    "DestinationArn": (DestinationArn, []),
    "PacketSource": (PacketSource, [("SnsTopicSource", SnsTopicSource), ("RateLimit", RateLimit)]),
}
_RESOURCES_HEAD = """\
<!-- Written by docs/generate.py from the models. Edit the models, not this file. -->
# Resources

The same resources in CloudFormation, in the [API](api.md) and, in snake_case, in the [configuration](configuration.md).
[Deploy with CloudFormation](cloudformation.md) and [Run an existing template locally](templates.md) use them.

- The CloudFormation types are `Custom::SluicegateListener`, `Custom::SluicegateDestinationArn` and
  `Custom::SluicegatePacketSource`; `Custom::ProxylityUdpGatewayListener` and its two siblings mean the same.
- In CloudFormation each has two properties more: `ServiceToken` (the provider) and `ApiKey` (a key of the gateway, for
  one that asks for keys).
- Numbers and booleans may be text (`"10"`, `"true"`), as CloudFormation sends them. Properties that do not exist are
  ignored with a warning; the API refuses them unless asked otherwise (`Prefer: handling=lenient`).
- Every return value always answers: one that does not apply is empty text.
- "Replaced" means that CloudFormation makes a new resource and deletes the old one. Everything else changes in place:
  sockets, sessions and ports stay, except that another `Bind` binds the Listener anew.
"""


def render_resources() -> str:
    """The text of docs/resources.md."""
    parts = [_RESOURCES_HEAD]
    for kind, (model, inner) in _KINDS.items():
        schema = model.model_json_schema(by_alias=False)
        parts.append("\n".join(_resource(kind, kind, model, schema, schema.get("$defs", {}), level=2)))
        for title, part in inner:
            described = schema["$defs"][part.__name__]
            parts.append("\n".join(_resource(kind, title, part, described, schema["$defs"], level=3)))
        parts.append("\n".join(_return_values(kind)))
    return "\n".join(parts).rstrip() + "\n"


def _resource(
    kind: str,
    title: str,
    model: type[Resource],
    schema: dict[str, Any],
    definitions: dict[str, Any],
    *,
    level: int,
) -> Iterator[str]:
    yield f"{'#' * level} {title}"
    yield ""
    about = _sentence(schema.get("description", ""))
    if about:
        yield from (about, "")
    replaced = IDENTITY[kind] if level == 2 else ()
    yield "| property | value | default | meaning |"
    yield "|---|---|---|---|"
    for name, described in schema["properties"].items():
        alias = model.model_fields[name].alias or name
        default = "**required**" if name in schema.get("required", ()) else _default(model.model_fields[name])
        if kind == "DestinationArn" and name == "ingress_region_key":
            default = "the stack's region"
        meaning = _in_pascal_case(_meaning(name, described, definitions))
        if alias in replaced:
            meaning += " Replaced when changed."
        yield f"| `{alias}` | {_value(described)} | {default} | {meaning} |"
    yield ""


def _attribute(kind: str, name: str) -> str:
    if (kind, name) == ("DestinationArn", "Id"):
        return "`DESTINATION@REGION`; `Ref` gives it too."
    for model in (VIEWS[kind], KINDS[kind]):
        for field, text in descriptions(model).items():
            if field in model.model_fields and model.model_fields[field].alias == name:
                return text
    raise LookupError(f"{kind}.{name} is declared nowhere")


def _return_values(kind: str) -> Iterator[str]:
    yield f"### Return values of a {kind}"
    yield ""
    yield "| attribute | meaning |"
    yield "|---|---|"
    for name in ATTRIBUTES[kind]:
        yield f"| `{name}` | {_sentence(_attribute(kind, name))} |"
    yield ""


def _in_pascal_case(text: str) -> str:
    """The model speaks of its fields; these pages of properties."""
    models = [model for kind, inner in _KINDS.values() for model in (kind, *(part for _, part in inner))]
    fields = {name for model in models for name in model.model_fields}

    def spelled(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        return f"`{'.'.join(map(pascal_case, parts))}`" if fields.issuperset(parts) else match[0]

    return re.sub(r"`([a-z_]+(?:\.[a-z_]+)*)`", spelled, text)


def render_architecture() -> str:
    """The page as it is, with the tables of layers made anew."""
    page = ARCHITECTURE.read_text()
    for name in ("layers", "layers_rust"):
        before, begin, rest = page.partition(f"<!-- {name}: written by docs/generate.py -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        table = runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["table"]()
        page = before + begin + table + end + after
    return page


def render_destinations() -> dict[str, str]:
    """The text of each page of docs/reference/destinations, by its name."""
    made: dict[str, str] = {}
    for script in DESTINATIONS.parent.glob("*destinations.py"):
        made |= runpy.run_path(str(script))["pages"]()
    return made


if __name__ == "__main__":
    for page, text in render_destinations().items():
        (DESTINATIONS / page).write_text(text)
    ARCHITECTURE.write_text(render_architecture())
    TARGET.write_text(render())
    RESOURCES.write_text(render_resources())
