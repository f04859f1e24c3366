"""What a gateway is to run: the file's resources and the API's, checked as one (contract section 1).

The file owns what it names. What it does not name may be declared by the API, and lives in the state. Both are brought
together here and nowhere else, at a start, at a reload and at each call of the API, so that all three refuse the same.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from sluicegate.config import Config
from sluicegate.functions.check import check_target
from sluicegate.model import (
    DestinationArn,
    Finding,
    GatewayConfig,
    Listener,
    PacketSource,
    Path,
    Peer,
    Resource,
    findings,
    notes,
    pointer,
    unavailable,
    with_secrets,
)
from sluicegate.model.crosscheck import cross_check, with_names
from sluicegate.model.template_defaults import with_template_defaults
from sluicegate.state import Decision, Stored

KINDS: dict[str, type[Resource]] = {
    "Listener": Listener,
    "DestinationArn": DestinationArn,
    "PacketSource": PacketSource,
}
PATHS = {"Listener": "listeners", "DestinationArn": "destination-arns", "PacketSource": "packet-sources"}
"""Where each kind is found under `/v1`."""

_MODELS: dict[str, type[Resource]] = {**KINDS, "Peer": Peer}

_SECTIONS = {"listeners": "Listener", "packet_sources": "PacketSource"}


@dataclass(frozen=True, slots=True)
class Complaint:
    """What keeps a resource from being run. `path` leads into it; `kind` "" is the gateway itself.

    `conflict`: it is right by itself, and does not go with something else that is there.
    """

    kind: str
    name: str
    path: Path
    cause: str
    fix: str
    conflict: bool = False

    @property
    def pointer(self) -> str:
        """The place in the PascalCase document."""
        return pointer(_MODELS.get(self.kind, GatewayConfig), self.path)


class Refused(Exception):
    """A change, or a start, that cannot be: `complaints` says why. Nothing has been changed."""

    def __init__(self, *complaints: Complaint) -> None:
        super().__init__("; ".join(f"{one.cause}, {one.fix}" for one in complaints))
        self.complaints = list(complaints)

    def of_api(self, config: Config) -> list[Complaint]:
        """Those about resources that the file does not name."""
        owned = file_owned(config)
        return [one for one in self.complaints if one.kind and (one.kind, one.name) not in owned]

    def lines(self, config: Config) -> list[str]:
        """One line each: `file:line:col: cause, fix`, or the resource of the API with the place in it."""
        return [_line(one, config) for one in self.complaints]


State = Literal["Active", "PendingApproval", "Rejected", "Disabled"]


@dataclass(frozen=True, slots=True)
class Desired:
    """What is to run: Listeners with all of their ARNs, PacketSources with their states, in order."""

    listeners: list[Listener]
    packet_sources: list[PacketSource]
    states: dict[str, State]


def parse(
    kind: str, data: Any, config: Config, *, name: str = "", lenient: bool = False
) -> tuple[Any, list[str]]:
    """`(resource, warnings)` of a document of the API; without a name of its own it gets `name`.

    `lenient`: it comes from a template. Unknown properties are warnings, and a template's defaults hold for what it
    leaves out. Raises `Refused`.
    """
    model = KINDS[kind]
    context = {"check_target": lambda target: check_target(config.base_dir, target)}
    if not isinstance(data, Mapping):
        raise Refused(
            Complaint(kind, name, (), "the body is not a JSON object", "send one resource as an object")
        )
    if "name" in model.model_fields and model.peek(data, "name") in (None, ""):
        data = {key: value for key, value in data.items() if model.spellings().get(key) != "name"} | {
            "name": name
        }
    warnings: list[str] = []
    try:
        if lenient:
            resource, warnings = model.parse_lenient(data, context)
        else:
            resource = model.model_validate(data, context=context)
    except ValidationError as error:
        shown = str(model.peek(data, "name") or name)
        raise Refused(
            *(Complaint(kind, shown, one.path, one.cause, one.fix) for one in findings(error, model))
        ) from None
    if isinstance(resource, Listener):
        resource = with_names({"listeners": [resource]})["listeners"][0]
        if lenient:
            resource, said = with_template_defaults(resource)
            warnings += said
    return resource, warnings


def parse_peer(data: Any, place: Path = ()) -> Peer:
    """A peer of a document of the API: at its `place` in a Listener, or by itself. Raises `Refused`."""
    kind = "Listener" if place else "Peer"
    if not isinstance(data, Mapping):
        cause = "the peer is not a JSON object"
        raise Refused(Complaint(kind, "", place, cause, 'write it as {"PublicKey": "…"}'))
    try:
        return Peer.model_validate(data)
    except ValidationError as error:
        name = str(Peer.peek(data, "name") or "")
        raise Refused(
            *(Complaint(kind, name, (*place, *one.path), one.cause, one.fix) for one in findings(error, Peer))
        ) from None


def restored(stored: Stored) -> Any:
    """The resource that was stored. Raises `Refused` if this version cannot read it."""
    model = KINDS[stored.kind]
    document = with_secrets(copy.deepcopy(stored.document), stored.secrets)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise Refused(
            *(
                Complaint(stored.kind, stored.name, one.path, one.cause, one.fix)
                for one in findings(error, model)
            )
        ) from None


def desire(config: Config, stored: Sequence[Stored], decisions: Mapping[str, Decision]) -> Desired:
    """What is to run. Raises `Refused` with everything that keeps it from running."""
    ours = config.gateway
    declared = {kind: [restored(one) for one in stored if one.kind == kind] for kind in KINDS}
    refuse_owned(config, stored)
    listeners = [*ours.listeners, *declared["Listener"]]
    sources = [*ours.packet_sources, *declared["PacketSource"]]
    listeners, complaints = _bound(listeners, declared["DestinationArn"])
    whole = ours.model_copy(update={"listeners": listeners, "packet_sources": sources})
    found = cross_check({"listeners": listeners, "packet_sources": sources})
    complaints += [_complaint(one, whole, conflict=True) for one in found]
    complaints += [_complaint(one, whole) for one in unavailable(whole)]
    if complaints:
        raise Refused(*complaints)
    states = {one.name: _state(one, ours.require_approval, decisions.get(one.name)) for one in sources}
    return Desired(listeners, sources, states)


def notes_about(desired: Desired, kind: str, name: str) -> list[str]:
    """What whoever asked for a resource should know of it, a sentence each."""
    resources: dict[str, Sequence[Any]] = {
        "listeners": desired.listeners,
        "packet_sources": desired.packet_sources,
    }
    return [
        f"{one.cause}: {one.fix}"
        for one in notes(desired.listeners, desired.packet_sources)
        if _SECTIONS[str(one.path[0])] == kind and resources[str(one.path[0])][int(one.path[1])].name == name
    ]


def refuse_owned(config: Config, stored: Iterable[Stored]) -> None:
    """The file owns what it names: raises `Refused` for what is declared by the API too."""
    owned = file_owned(config)
    complaints = []
    for one in stored:
        if (one.kind, one.name) not in owned:
            continue
        cause = f'the {one.kind} "{one.name}" is declared by {config.path} and by the API'
        fix = (
            f"rename it in the file, or delete it from the API (DELETE /v1/{PATHS[one.kind]}/{one.name}; "
            f"while no gateway runs: sluicegate state remove {config.path} {one.kind} {one.name})"
        )
        complaints.append(Complaint(one.kind, one.name, ("name",), cause, fix, conflict=True))
    if complaints:
        raise Refused(*complaints)


def file_owned(config: Config) -> set[tuple[str, str]]:
    """`(kind, name)` of what the file names."""
    owned = {("Listener", one.name) for one in config.gateway.listeners}
    return owned | {("PacketSource", one.name) for one in config.gateway.packet_sources}


def _bound(
    listeners: list[Listener], bindings: list[DestinationArn]
) -> tuple[list[Listener], list[Complaint]]:
    """The Listeners with the ARNs that DestinationArn resources bind to their Destinations."""
    by_destination: dict[str, dict[str, str]] = {}
    for one in bindings:
        by_destination.setdefault(one.destination, {})[one.ingress_region_key] = one.arn
    known = {destination.name for listener in listeners for destination in listener.destinations}
    names = ", ".join(sorted(known)) or "none"
    complaints = [
        Complaint(
            "DestinationArn",
            one.name,
            ("destination",),
            f'there is no Destination named "{one.destination}"',
            f"declare it in a Listener first, or use one of: {names}",
            conflict=True,
        )
        for one in bindings
        if one.destination not in known
    ]
    return [_with_arns(listener, by_destination) for listener in listeners], complaints


def _with_arns(listener: Listener, bindings: Mapping[str, Mapping[str, str]]) -> Listener:
    if not any(destination.name in bindings for destination in listener.destinations):
        return listener
    destinations = [
        one.model_copy(update={"destination_arn": one.targets() | dict(bindings[one.name])})
        if one.name in bindings
        else one
        for one in listener.destinations
    ]
    return listener.model_copy(update={"destinations": destinations})


def _state(source: PacketSource, require_approval: bool, decision: Decision | None) -> State:
    # Another Listener is another way out: what was decided for the one says nothing about the other.
    decided = decision.decision if decision and decision.listener == source.listener_name else None
    if decided == "Rejected":
        return "Rejected"
    if require_approval and decided is None:
        return "PendingApproval"
    return "Active" if source.enabled else "Disabled"


def _complaint(found: Finding, whole: GatewayConfig, *, conflict: bool = False) -> Complaint:
    section, *rest = found.path or ("",)
    kind = _SECTIONS.get(str(section))
    if kind is None or not rest or not isinstance(rest[0], int):
        return Complaint("", "", found.path, found.cause, found.fix)
    items: Sequence[Any] = getattr(whole, str(section))
    return Complaint(kind, items[rest[0]].name, tuple(rest[1:]), found.cause, found.fix, conflict)


def _line(one: Complaint, config: Config) -> str:
    fix = f", {one.fix}" if one.fix else ""
    if one.kind == "":
        return str(config.locate(Finding(one.path, one.cause, one.fix))).removesuffix(", ")
    for section, kind in _SECTIONS.items():
        names = [item.name for item in getattr(config.gateway, section)]
        if kind == one.kind and one.name in names:
            path = (section, names.index(one.name), *one.path)
            return str(config.locate(Finding(path, one.cause, one.fix))).removesuffix(", ")
    return f"the API's {one.kind} {one.name}{one.pointer and ' at ' + one.pointer}: {one.cause}{fix}"
