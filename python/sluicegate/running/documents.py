"""What a gateway is to run: the file's resources and the API's, checked as one (contract section 1).

The file owns what it names. What it does not name may be declared by the API, and lives in the state. Both are brought
together here and nowhere else, at a start, at a reload and at each call of the API, so that all three refuse the same.
"""

import copy
import dataclasses
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from pydantic import ValidationError

from sluicegate.config import Config
from sluicegate.config.checks import checks
from sluicegate.config.nodes import DEEPEST
from sluicegate.localcode import LocalCode, folders
from sluicegate.model import (
    DestinationArn,
    DestinationSpec,
    Finding,
    FindingsError,
    GatewayConfig,
    Listener,
    PacketSource,
    Path,
    Peer,
    Resource,
    findings,
    notes,
    unavailable,
    with_secrets,
)
from sluicegate.model.crosscheck import cross_check, with_names
from sluicegate.model.shared import declaring, not_one, resolved
from sluicegate.model.template_defaults import with_template_defaults
from sluicegate.sources.topic.drainage import DRAINING
from sluicegate.state import Decision, Stored

KINDS: dict[str, type[Resource]] = {
    "Listener": Listener,
    "DestinationArn": DestinationArn,
    "PacketSource": PacketSource,
}
PATHS = {"Listener": "listeners", "DestinationArn": "destination-arns", "PacketSource": "packet-sources"}
"""Where each kind is found under `/v1`."""

LOOPBACK = ("127.0.0.0/8", "::1/128")
MOST_VALUES = 30_000
"""Of a document of the API, which has at most 256 KiB."""

_SECTIONS: dict[str, type[Resource]] = {"listeners": Listener, "packet_sources": PacketSource}


class Refused(FindingsError):
    """A change, or a start, that cannot be. Nothing has been changed."""

    most = 100

    def __str__(self) -> str:
        return "; ".join(one.sentence for one in self.findings)

    def located(self, config: Config) -> list[Finding]:
        """Each with its place, in the file where the file names what it is about."""
        return [config.locate(one) for one in self.findings]


State = Literal["Active", "PendingApproval", "Rejected", "Disabled"]


@dataclass(slots=True)
class Desired:
    """What is to run, by name and in order: Listeners with all of their ARNs and with Destinations in place of names,
    PacketSources with their states."""

    listeners: dict[str, Listener] = field(default_factory=dict)
    packet_sources: dict[str, PacketSource] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    sources_of: dict[str, dict[str, PacketSource]] = field(default_factory=dict)
    """The PacketSources of each Listener that has some."""
    drains: dict[str, PacketSource] = field(default_factory=dict)
    """PacketSources that are not declared any more, and still send what waits in their queues on AWS."""
    able: dict[str, PacketSource] = field(default_factory=dict)
    """These, and those whose queues another one empties."""

    def copy(self) -> "Desired":
        """One that may be changed, while this one stays."""
        return Desired(
            dict(self.listeners),
            dict(self.packet_sources),
            dict(self.states),
            dict(self.sources_of),
            dict(self.drains),
            dict(self.able),
        )

    def put(self, part: "Desired") -> None:
        """Take over what `part` has, in place of what there was under these names."""
        self.listeners |= part.listeners
        for name, source in part.packet_sources.items():
            self._unlink(name)
            self.packet_sources[name] = source
            self.sources_of[source.listener_name] = {
                **self.sources_of.get(source.listener_name, {}),
                name: source,
            }
        self.states |= part.states

    def remove(self, kind: str, name: str) -> None:
        """Take a Listener or a PacketSource out, if it is there."""
        if kind == "Listener":
            self.listeners.pop(name, None)
        elif kind == "PacketSource":
            self._unlink(name)
            self.packet_sources.pop(name, None)
            self.states.pop(name, None)

    def sources(self, listener: str) -> list[tuple[PacketSource, str]]:
        """The PacketSources of a Listener, with their states; those that only drain come last."""
        found = [(one, str(self.states[name])) for name, one in self.sources_of.get(listener, {}).items()]
        return found + [(one, DRAINING) for one in self.drains.values() if one.listener_name == listener]

    def _unlink(self, source: str) -> None:
        before = self.packet_sources.get(source)
        if before is not None:
            left = {n: one for n, one in self.sources_of[before.listener_name].items() if n != source}
            self.sources_of[before.listener_name] = left
            if not left:
                del self.sources_of[before.listener_name]


def local_code(config: Config, more: tuple[str, ...] = ()) -> LocalCode:
    """Where code and files of a document of the API may lie, and servers; `more` are folders of this document, whose
    code may call servers of this machine, and so may it."""
    allowed = folders(config.base_dir, config.gateway.local_code, more)
    networks = (*config.gateway.local_networks, *(LOOPBACK if more else ()))
    return LocalCode(allowed, (str(config.path.absolute()), config.gateway.state), networks)


def parse(
    kind: str,
    data: Any,
    config: Config,
    *,
    name: str = "",
    lenient: bool = False,
    more_code: tuple[str, ...] = (),
) -> tuple[Any, list[str]]:
    """`(resource, warnings)` of a document of the API; without a name of its own it gets `name`.

    `lenient`: it comes from a template. Unknown properties are warnings, and a template's defaults hold for what it
    leaves out. `more_code`: folders in which its code may lie beside those of the configuration. Raises `Refused`.
    """
    model = KINDS[kind]
    if not isinstance(data, Mapping):
        found = Finding((), "the body is not a JSON object", "send one resource as an object")
        raise Refused(found.of(model, name))
    _refuse_absurd(data, model, name)
    if "name" in model.model_fields and model.peek(data, "name") in (None, ""):
        data = {key: value for key, value in data.items() if model.spellings().get(key) != "name"} | {
            "name": name
        }
    if model is Listener:
        data = with_names({"listeners": [data]})["listeners"][0]
    bounds = local_code(config, more_code)
    context = {"check": checks(config.base_dir, config.gateway.region, bounds)}
    warnings: list[str] = []
    try:
        if lenient:
            resource, warnings = model.parse_lenient(data, context)
        else:
            resource = model.model_validate(data, context=context)
    except ValidationError as error:
        shown = str(model.peek(data, "name") or name)
        raise Refused(*(one.of(model, shown) for one in findings(error, model, data))) from None
    if isinstance(resource, Listener) and lenient:
        resource, said = with_template_defaults(resource)
        warnings += said
    return _within(resource, bounds), warnings


def parse_peer(data: Any, place: Path = ()) -> Peer:
    """A peer of a document of the API: at its `place` in a Listener, or by itself. Raises `Refused`."""
    model = Listener if place else Peer
    if not isinstance(data, Mapping):
        found = Finding(place, "the peer is not a JSON object", 'write it as {"PublicKey": "…"}')
        raise Refused(found.of(model, ""))
    _refuse_absurd(data, model, "")
    try:
        return Peer.model_validate(data)
    except ValidationError as error:
        name = str(Peer.peek(data, "name") or "")
        raise Refused(*(one.under(*place).of(model, name) for one in findings(error, Peer, data))) from None


def _refuse_absurd(data: Any, model: type[Resource], name: str) -> None:
    """Refuse a document that is too deep or has too many values, before anything else looks at it."""
    values, level = 0, [data]
    for _ in range(DEEPEST):
        inside = [one for one in level if isinstance(one, Mapping | list)]
        level = [value for one in inside for value in (one.values() if isinstance(one, Mapping) else one)]
        values += len(level)
        if values > MOST_VALUES:
            found = Finding((), f"the document has more than {MOST_VALUES:,} values", "send less at a time")
            raise Refused(found.of(model, name))
        if not level:
            return
    cause = f"lists and mappings lie in each other, more than {DEEPEST} deep"
    raise Refused(Finding((), cause, "remove what is too deep").of(model, name))


def restored(stored: Stored, config: Config) -> Any:
    """The resource that was stored. Raises `Refused` if this version cannot read or run it."""
    model = KINDS[stored.kind]
    document = with_secrets(copy.deepcopy(stored.document), stored.secrets)
    try:
        resource = model.model_validate(document, context={"check": unavailable})
    except ValidationError as error:
        raise Refused(*(one.of(model, stored.name) for one in findings(error, model))) from None
    return _within(resource, local_code(config, stored.local_code))


def _within(resource: Any, bounds: LocalCode) -> Any:
    """The resource, whose paths must observe `bounds` wherever they are opened."""
    for one in resource.destination_specs if isinstance(resource, Listener) else [resource]:
        one.within(bounds)
    return resource


def declared(config: Config, stored: Collection[Stored]) -> list[Resource]:
    """The file's resources, then the API's in the order of their creation. Raises `Refused` if one cannot be read, or
    if both declare one."""
    resources = [restored(one, config) for one in stored]
    refuse_owned(config, stored)
    return [*config.gateway.listeners, *config.gateway.packet_sources, *resources]


def desire(config: Config, resources: Collection[Resource], decisions: Mapping[str, Decision]) -> Desired:
    """What is to run where these resources are declared. Raises `Refused` with every reason that keeps them from
    running."""
    ours = config.gateway
    listeners = [one for one in resources if isinstance(one, Listener)]
    sources = [one for one in resources if isinstance(one, PacketSource)]
    listeners, found = _bound(listeners, [one for one in resources if isinstance(one, DestinationArn)])
    whole = ours.model_copy(update={"listeners": listeners, "packet_sources": sources})
    crossed = cross_check({"listeners": listeners, "packet_sources": sources, "sns": ours.sns})
    found += [dataclasses.replace(_of_resource(one, whole), conflict=True) for one in crossed]
    if found:
        raise Refused(*found)
    desired = Desired({one.name: one for one in resolved(listeners)})
    for one in sources:
        desired.packet_sources[one.name] = one
        desired.states[one.name] = _state(one, ours.require_approval, decisions.get(one.name))
        desired.sources_of.setdefault(one.listener_name, {})[one.name] = one
    return desired


def check_bound(config: Config, desired: Desired, put: Collection[Resource]) -> None:
    """Check new documents, and Destinations together with the ARNs that are bound to them. Raises `Refused`.

    A DestinationArn names a Destination of another document, and only both together can be judged. `desired` may be the
    part with which the new documents have to do.
    """
    check = checks(config.base_dir, config.gateway.region)
    found: list[Finding] = []
    fresh = {one.name for one in put if isinstance(one, Listener)}
    arns = [one for one in put if isinstance(one, DestinationArn)]
    for source in (one for one in put if isinstance(one, PacketSource)):
        found += [one.of(PacketSource, source.name) for one in check(source)]
    for listener in desired.listeners.values() if fresh or arns else ():
        for index, spec in enumerate(listener.destinations):
            assert isinstance(spec, DestinationSpec)  # noqa: S101  (what is desired has no names in their place)
            if listener.name in fresh:
                said = check(spec)
                found += [one.under("destinations", index).of(Listener, listener.name) for one in said]
            for bound in (one for one in arns if one.destination == spec.name):
                said = check(_bound_to(spec, {}, bound))
                found += [_of_binding(one, bound, listener, index) for one in said]
    if found:
        raise Refused(*dict.fromkeys(found))


def _of_binding(found: Finding, binding: DestinationArn, listener: Listener, index: int) -> Finding:
    """The finding at its place: in the DestinationArn, or in the Destination to which the ARN is bound."""
    if found.path[:1] == ("destination_arn",):
        return found.of(DestinationArn, binding.name, ("arn",))
    if found.path[:1] == ("arguments",) and binding.arguments is not None:
        return found.of(DestinationArn, binding.name)
    return found.under("destinations", index).of(Listener, listener.name)


def notes_about(desired: Desired, kind: str, name: str) -> list[str]:
    """Warnings about a resource for the client that asked for it, one sentence each."""
    source = desired.packet_sources.get(name) if kind == "PacketSource" else None
    listener = desired.listeners.get(source.listener_name if source else name)
    if listener is None or kind not in ("Listener", "PacketSource"):
        return []
    part = GatewayConfig.model_construct(listeners=[listener], packet_sources=[source] if source else [])
    said = [_of_resource(one, part) for one in notes(part.listeners, part.packet_sources)]
    return [f"{one.cause}: {one.fix}" for one in said if (one.kind, one.name) == (kind, name)]


def refuse_owned(config: Config, stored: Iterable[Stored]) -> None:
    """The file owns what it names: raises `Refused` for what is declared by the API too."""
    owned = file_owned(config)
    found = []
    for one in stored:
        if (one.kind, one.name) not in owned:
            continue
        cause = f'the {one.kind} "{one.name}" is declared by {config.path} and by the API'
        fix = (
            f"rename it in the file, or delete it from the API (DELETE {resource_url(one.kind, one.name)}; "
            f"while no gateway runs: {removal(config, one.kind, one.name)})"
        )
        found.append(Finding(("name",), cause, fix, conflict=True).of(KINDS[one.kind], one.name))
    if found:
        raise Refused(*found)


def resource_url(kind: str, name: str) -> str:
    """The API's path of one resource."""
    return f"/v1/{PATHS[kind]}/{quote(name, safe='')}"


def removal(config: Config, kind: str, name: str) -> str:
    """The command that removes a resource of the API while no gateway runs."""
    return shlex.join(["sluicegate", "state", "remove", str(config.path), kind, name])


def file_owned(config: Config) -> set[tuple[str, str]]:
    """`(kind, name)` of each resource that the file declares."""
    owned = {("Listener", one.name) for one in config.gateway.listeners}
    return owned | {("PacketSource", one.name) for one in config.gateway.packet_sources}


def _bound(listeners: list[Listener], bindings: list[DestinationArn]) -> tuple[list[Listener], list[Finding]]:
    """The Listeners with the ARNs that DestinationArn resources bind to their Destinations."""
    by_destination: dict[str, dict[str, DestinationArn]] = {}
    found = []
    declared = declaring(listeners)
    for one in bindings:
        by_destination.setdefault(one.destination, {})[one.ingress_region_key] = one
        problem = not_one(one.destination, declared)
        if problem is not None:
            found.append(Finding(("destination",), *problem, conflict=True).of(DestinationArn, one.name))
    return [_with_arns(listener, by_destination) for listener in listeners], found


def _with_arns(listener: Listener, bindings: Mapping[str, Mapping[str, DestinationArn]]) -> Listener:
    if not any(destination.name in bindings for destination in listener.destination_specs):
        return listener
    destinations = [
        _bound_to(
            one,
            one.targets(),
            *bindings[one.name].values(),
        )
        if isinstance(one, DestinationSpec) and one.name in bindings
        else one
        for one in listener.destinations
    ]
    return listener.model_copy(update={"destinations": destinations})


def _bound_to(spec: DestinationSpec, targets: dict[str, str], *bindings: DestinationArn) -> DestinationSpec:
    """The Destination with these ARNs, and with those of `bindings` in their place, which came by the API, whoever
    declared the Destination."""
    bound = {one.ingress_region_key: one.arn for one in bindings}
    changed = spec.bound_to(targets | bound)
    for one in bindings:
        changed.within(one.bounds, one.arn)
        if one.arguments is not None:
            changed.take_arguments(one.ingress_region_key, one.arguments)
    return changed


def _state(source: PacketSource, require_approval: bool, decision: Decision | None) -> State:
    # A decision is about one Listener, whose address the packets have. It says nothing about another Listener.
    decided = decision.decision if decision and decision.listener == source.listener_name else None
    if decided == "Rejected":
        return "Rejected"
    if require_approval and decided is None:
        return "PendingApproval"
    return "Active" if source.enabled else "Disabled"


def _of_resource(found: Finding, whole: GatewayConfig) -> Finding:
    """A finding about the gateway as one about the resource that it lies in, if it lies in one."""
    match found.path:
        case ("listeners" | "packet_sources" as section, int() as index, *rest):
            return found.of(_SECTIONS[section], getattr(whole, section)[index].name, tuple(rest))
    return found
