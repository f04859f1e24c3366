"""A template as the resources of one gateway: what each becomes, what it refers to, and what this machine lacks."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sluicegate.cfn.aws import AwsParts, Emulator
from sluicegate.cfn.bindings import Bindings
from sluicegate.cfn.egress import added, client_networks, options_for_nearby
from sluicegate.cfn.functions import FUNCTIONS, Lambdas
from sluicegate.cfn.includes import Includes
from sluicegate.cfn.parameters import Parameters
from sluicegate.cfn.placeholders import ACCOUNT_ID, Placeholder, fifo_property, made_name, name_property
from sluicegate.cfn.provider import (
    ATTRIBUTES,
    NO_RESOURCE,
    NOT_OURS,
    destination_name,
    document,
    is_destination,
    kind_of,
    meant_kind,
)
from sluicegate.cfn.reader import Items, Map, Place
from sluicegate.cfn.resolve import NO_VALUE, Resolver
from sluicegate.cfn.template import Declared, Template, TemplateError, references
from sluicegate.model import (
    DestinationArn,
    DestinationSpec,
    Finding,
    Listener,
    PacketSource,
)

VENDOR_DOMAIN = "proxylity.com"
LATER = "(known after it is made)"
TOPIC = "AWS::SNS::Topic"
_ALIASES = ("AWS::Lambda::Alias", "AWS::Lambda::Version")
_PERMISSIONS = (
    "AWS::IAM::Policy",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::RolePolicy",
    "AWS::Lambda::Permission",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
)
_SILENT = "AWS::CDK::Metadata"
"""A type that only tells AWS which version of a tool wrote the template. Its resource gets no note."""


@dataclasses.dataclass(frozen=True)
class Known:
    """A resource of the gateway that exists, with the values for `Ref` and `Fn::GetAtt`."""

    physical_id: str
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Item:
    """One resource to make. `document` is the body for the API; for a topic it holds the name alone."""

    logical_id: str
    kind: Literal["Listener", "DestinationArn", "PacketSource", "Topic"]
    document: dict[str, Any]

    @property
    def name(self) -> str:
        """The resource's name in the API."""
        if self.kind != "DestinationArn":
            return str(self.document["Name"])
        return f"{self.document.get('Destination', '')}@{self.document.get('IngressRegionKey', '')}"


@dataclasses.dataclass(frozen=True)
class Note:
    """A difference between a resource here and on AWS, with its consequence."""

    logical_id: str
    type: str
    line: int
    text: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a template is applied.

    `made_dir` is the directory for inline code and dead letters. `environment` has variables for every function that
    does not set them. `egress_networks` are added to those of each PacketSource. `nearby` are the networks of this
    machine, for a note on a PacketSource without networks. `includes` has local files for the locations of
    `AWS::Include`. `use_aws`: what the template names at AWS is called. `topics`: the gateway has topics of its own.
    `emulator`: it delivers there what it would deliver to AWS.
    `binds` has the `Bind` of Listeners by their logical ids or names.
    """

    name: str
    region: str
    made_dir: Path
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    egress_networks: tuple[str, ...] = ()
    nearby: tuple[str, ...] = ()
    includes: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    use_aws: bool = False
    binds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    topics: bool = True
    emulator: Emulator | None = None


class Stack:
    """The gateway's part of `template`. Whoever makes a resource adds it to `known`; `notes` grow with `items`."""

    def __init__(
        self, template: Template, parameters: Mapping[str, str], settings: Settings, known: dict[str, Known]
    ) -> None:
        self._template = template
        self._settings = settings
        self.known = known
        self.notes: list[Note] = []
        self._client_networks: dict[str, list[Any]] = {}
        """The networks that the Listeners made so far admit, by their names."""
        pseudo = {
            "AWS::AccountId": ACCOUNT_ID,
            "AWS::Partition": "aws",
            "AWS::Region": settings.region,
            "AWS::StackId": f"arn:aws:cloudformation:{settings.region}:{ACCOUNT_ID}:stack/{settings.name}/local",
            "AWS::StackName": settings.name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        included = Includes(template.path.parent, settings.includes, settings.region)
        self._resolver = Resolver(template, Parameters(template, parameters), pseudo, self, included.content)
        self._lambdas = Lambdas(
            template,
            self._resolver,
            settings.made_dir,
            settings.environment,
            name=lambda declared: self._placeholder(declared).name,
            is_made=self._is_here,
            note=self._note,
        )
        self._aws = AwsParts(
            template,
            settings.made_dir,
            use_aws=settings.use_aws,
            topics=settings.topics,
            emulator=settings.emulator,
            note=self._note,
        )
        topics = {
            declared.logical_id
            for declared in template.resources.values()
            if declared.type == TOPIC and settings.topics
        }
        self._bindings = Bindings(self._lambdas, self._aws, settings.region, topics, note=self._note)

    @property
    def code(self) -> Mapping[Path, str]:
        """Inline code of functions, still to be written: file → text."""
        return self._lambdas.code

    def items(self) -> Iterator[Item]:
        """The resources to make, in order. Make each before asking for the next, which may refer to it (`known`)."""
        self._refuse_destinations()
        self._refuse_binds()
        for declared in self._template.order():
            if not self._resolver.holds(declared.condition, declared.place):
                continue
            kind = kind_of(declared.type)
            if kind == "Listener":
                yield Item(declared.logical_id, "Listener", self._listener(declared))
            elif kind == "PacketSource":
                yield Item(declared.logical_id, "PacketSource", self._packet_source(declared))
            elif kind == "DestinationArn":
                bound = self._destination_arn(declared)
                if bound is not None:
                    yield Item(declared.logical_id, "DestinationArn", bound)
            elif declared.type == TOPIC and self._settings.topics:
                name = self._placeholder(declared).name
                yield Item(declared.logical_id, "Topic", {"Name": name})
        self._note_the_rest()

    def _refuse_destinations(self) -> None:
        """Refuse, before anything is made, a Destination that stands by itself: no Listener would serve it."""
        for declared in self._template.resources.values():
            if is_destination(declared.type) and self._resolver.holds(declared.condition, declared.place):
                cause, fix = NO_RESOURCE
                raise self._template.refused(declared.place, f"{declared.logical_id}: {cause}", fix)

    def _refuse_binds(self) -> None:
        """Refuse, before anything is made, a `Bind` for a Listener that the template does not have."""
        unknown = set(self._settings.binds)
        for declared in self._template.resources.values() if unknown else ():
            if kind_of(declared.type) == "Listener" and self._resolver.holds(
                declared.condition, declared.place
            ):
                unknown -= {declared.logical_id, self._name(declared)}
        if unknown:
            cause = f"--bind {min(unknown)}: this stack has no such Listener"
            fix = "name one by its logical id, as in --bind Entry=127.0.0.1:2048"
            raise self._template.refused(self._template.root.place, cause, fix)

    def warn(self, logical_id: str, text: str) -> None:
        """Add a warning of the gateway about a resource to `notes`."""
        self._note(self._template.resources[logical_id], text)

    @property
    def name(self) -> str:
        """The stack's name."""
        return self._settings.name

    @property
    def made_dir(self) -> Path:
        """The directory for inline code and dead letters."""
        return self._settings.made_dir

    @property
    def folders(self) -> list[str]:
        """Where its code and files lie: the directory of the apply, and the roots of its functions' code."""
        made = self.made_dir.absolute()
        roots = [one for one in self._lambdas.folders if not one.is_relative_to(made)]
        return [str(one) for one in (made, *roots)]

    def located(self, found: Finding, logical_id: str, pointer: str) -> Finding:
        """A finding of the API at its place in the template: at `pointer`, or the nearest that the template has."""
        declared = self._template.resources[logical_id]
        place: Place = declared.place
        node: Any = declared.properties
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, Map) and key in node:
                place, node = node.keys_at[key], node[key]
            elif isinstance(node, Items) and key.isdecimal() and int(key) < len(node):
                place, node = node.places[int(key)], node[int(key)]
            else:
                break
        return dataclasses.replace(found, file=self._template.file, line=place.line, col=place.col)

    def outputs(self) -> dict[str, str]:
        """The template's outputs as text. An output that cannot be resolved says why."""
        section = self._template.outputs
        found: dict[str, str] = {}
        for name, raw in section.items():
            if not isinstance(raw, Map) or "Value" not in raw:
                continue
            try:
                if not self._resolver.holds(raw.get("Condition"), raw.place):
                    continue
                value = self._resolver.value(raw["Value"], raw.places["Value"])
            except TemplateError as error:
                found[name] = f"(not here: {error.findings[0].cause})"
                continue
            found[name] = ",".join(value) if isinstance(value, list) else str(value)
        return found

    def output_listeners(self) -> dict[str, list[str]]:
        """The Listeners that each output speaks of, by logical id: those it refers to. One that refers to none and
        names the vendor's host, as commands in a readme do, speaks of all."""
        resources = self._template.resources
        every = [name for name, declared in resources.items() if kind_of(declared.type) == "Listener"]
        found = {}
        for name, raw in self._template.outputs.items():
            of = [one for one in dict.fromkeys(references(raw)) if one in every]
            found[name] = of or (every if VENDOR_DOMAIN in json.dumps(raw, default=str).lower() else [])
        return found

    # References (resolve.References)

    def ref(self, logical_id: str) -> str:
        """The value of `Ref`. `Function.Alias` and `Function.Version` (SAM) give the function's ARN."""
        name, _, part = logical_id.partition(".")
        declared = self._template.resources[name]
        if kind_of(declared.type):
            return self._known(declared).physical_id
        if declared.type in _ALIASES:
            return Placeholder(FUNCTIONS[0], self._lambdas.aliased(declared), self._settings.region).arn
        placeholder = self._placeholder(declared)
        return placeholder.arn if part else placeholder.ref

    def attribute(self, logical_id: str, name: str) -> str | list[str]:
        """The value of `Fn::GetAtt`. Raises `LookupError` for an attribute that a gateway's resource does not have."""
        declared = self._template.resources[logical_id]
        if not kind_of(declared.type):
            return self._placeholder(declared).attribute(name)
        has = ATTRIBUTES[kind_of(declared.type) or ""]
        if name not in has:
            raise LookupError(
                f"{logical_id} ({declared.type}) has no attribute {name}", f"it has: {', '.join(has)}"
            )
        # The record of an `apply` by an earlier version may lack attributes.
        value = self._known(declared).attributes.get(name, "")
        return [str(item) for item in value] if isinstance(value, list) else str(value)

    def _known(self, declared: Declared) -> Known:
        found = self.known.get(declared.logical_id)
        return found if found is not None else self._expected(declared)

    def _expected(self, declared: Declared) -> Known:
        """The values that are sure before a resource is made: its name, and the names of a Listener's Destinations."""
        kind = kind_of(declared.type)
        name = self._name(declared)
        later = dict.fromkeys(ATTRIBUTES[kind or ""], LATER)
        if kind == "DestinationArn":
            return Known(LATER, later)
        later |= {"Id": name, "Name": name}
        if kind == "PacketSource":
            return Known(name, later)
        raws = self._raw_destinations(declared)
        names = [self._destination_name(declared, raw, at) for at, raw in enumerate(raws)]
        return Known(name, {**later, "DestinationNames": names})

    # Resources of the gateway

    def _listener(self, declared: Declared) -> dict[str, Any]:
        properties = self._aws.spelled(declared, Listener, self._resolver.properties(declared.properties))
        made = document(
            "Listener", properties, self._name(declared), self._settings.name, declared.logical_id
        )
        for key in (declared.logical_id, str(made["Name"])):
            if key in self._settings.binds:
                made["Bind"] = self._settings.binds[key]
        self._client_networks[str(made["Name"])] = client_networks(made)
        self._aws.leave_out(declared, made)
        given = made.get("Destinations") or []
        if not isinstance(given, list):
            return made  # the gateway refuses it and says why
        # Text names a Destination of another Listener. Anything else the gateway refuses, and says why.
        destinations = [
            self._aws.spelled(declared, DestinationSpec, one) if isinstance(one, dict) else one
            for one in given
        ]
        for destination in (one for one in destinations if isinstance(one, dict)):
            self._bindings.bind(declared, destination)
            self._aws.leave_out(declared, destination)
        return {**made, "Destinations": destinations}

    def _packet_source(self, declared: Declared) -> dict[str, Any]:
        properties = self._aws.spelled(declared, PacketSource, self._resolver.properties(declared.properties))
        made = document(
            "PacketSource", properties, self._name(declared), self._settings.name, declared.logical_id
        )
        networks = self._settings.egress_networks
        if networks:
            of_listener = self._client_networks.get(str(PacketSource.peek(made, "listener_name")), ())
            made["EgressNetworks"] = added(made, of_listener, networks)
        elif PacketSource.peek(made, "egress_networks") is None and self._settings.nearby:
            self._note(
                declared,
                "it sends to no private or loopback address, except in answers; to clients on this machine and its "
                f"networks with {options_for_nearby(self._settings.nearby)}",
            )
        self._aws.leave_source(declared, made)
        return made

    def _destination_arn(self, declared: Declared) -> dict[str, Any] | None:
        properties = self._aws.spelled(
            declared, DestinationArn, self._resolver.properties(declared.properties)
        )
        made = {key: value for key, value in properties.items() if key not in NOT_OURS}
        made.setdefault("IngressRegionKey", self._settings.region)
        return made if self._bindings.bind_resource(declared, made) else None

    def _raw_destinations(self, declared: Declared) -> list[Any]:
        """The Destinations that a Listener will have, not resolved; empty where they cannot be known."""
        raw = declared.properties.get("Destinations")
        if isinstance(raw, Map):  # a function that gives a list of names
            names = self._resolver.value(raw, raw.place)
            return names if isinstance(names, list) else []
        if not isinstance(raw, Items):
            return []
        chosen = map(self._resolver.chosen, raw)
        return [item for item in chosen if item is not NO_VALUE]

    def _name(self, declared: Declared) -> str:
        key = (
            "Name"
            if "Name" in declared.properties or kind_of(declared.type) != "Listener"
            else "ListenerName"
        )
        raw = declared.properties.get(key)
        value = self._resolver.value(raw, declared.properties.places[key]) if raw is not None else None
        if isinstance(value, str):
            return value
        # Two stacks of one template must not share a name, so the stack's name is a part of it.
        return f"{self._settings.name}-{declared.logical_id}"

    def _destination_name(self, declared: Declared, raw: Any, position: int) -> str:
        if isinstance(raw, str):
            return raw
        value = None
        if isinstance(raw, Map) and "Name" in raw:
            value = self._resolver.value(raw["Name"], raw.places["Name"])
        elif isinstance(raw, Map) and len(raw) == 1:
            # This may be a function that gives the name of a Destination elsewhere.
            value = self._resolver.value(raw, raw.place)
        if isinstance(value, str) and value:
            return value
        return destination_name(self._settings.name, declared.logical_id, position)

    def _placeholder(self, declared: Declared) -> Placeholder:
        name = self._given(declared, name_property(declared.type))
        if not isinstance(name, str):
            fifo = str(self._given(declared, fifo_property(declared.type))).lower() == "true"
            name = made_name(declared.type, self._settings.name, declared.logical_id, fifo=fifo)
        return Placeholder(declared.type, name, self._settings.region)

    def _given(self, declared: Declared, key: str | None) -> Any:
        """The value of a property; None where the template has none."""
        raw = declared.properties.get(key) if key else None
        return self._resolver.value(raw, declared.properties.places[key]) if key and raw is not None else None

    # Notes

    def _is_here(self, declared: Declared) -> bool:
        return kind_of(declared.type) is not None or (declared.type == TOPIC and self._settings.topics)

    def _note_the_rest(self) -> None:
        """Note the consequence for each resource that is not made here and belongs to the template itself."""
        for declared in self._template.resources.values():
            if (
                declared.implied
                or declared.type == _SILENT
                or self._is_here(declared)
                or not self._resolver.holds(declared.condition, declared.place)
            ):
                continue
            text = self._consequence(declared)
            if text:
                self._note(declared, text)

    def _consequence(self, declared: Declared) -> str:
        if declared.type in FUNCTIONS:
            if declared.logical_id in self._lambdas.invoked:
                return ""
            return "it is not run: no Destination delivers to it, and nothing else invokes functions here"
        if declared.type == "AWS::IAM::Role":
            return "its ARN is a placeholder that nobody assumes: calls are made in the gateway's own name"
        if declared.type in _PERMISSIONS:
            return "it has no effect: nobody is asked for permission here"
        if declared.type in _ALIASES:
            return "it stands for the function's code as it is now"
        users = sorted(
            other.logical_id
            for other in self._template.resources.values()
            if declared.logical_id in references(other.properties)
        )
        used = f"; {', '.join(users)} get a placeholder for it" if users else ""
        meant = meant_kind(declared.type)
        return f"it is not made here{f', did you mean the type {meant}?' if meant else ''}{used}"

    def _note(self, declared: Declared, text: str) -> None:
        note = Note(declared.logical_id, declared.type, declared.place.line, text)
        if note not in self.notes:
            self.notes.append(note)
