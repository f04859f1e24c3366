"""Resources as the API shows them: the document as it was declared, with return values and state (contract 1.1-1.3).

The classes below are the only declaration of what the gateway gives back. The API answers with them, its description
(`api/openapi.py`) is made from them, and a test holds the CloudFormation provider's attributes to them.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from sluicegate.model import Resource
from sluicegate.running.listener import RunningListener
from sluicegate.running.registry import Declared, Registry
from sluicegate.sources.topic.leftovers import Leftover


class View(Resource):
    """What every resource has beside its document. A client may send all of it back: it is left out then."""

    id: str
    """The name; `Ref` gives it too."""
    version: str
    """As in ETag."""
    declared_by: Literal["File", "Api"]
    """The file owns what it names."""
    warnings: list[str] | None = None
    """What whoever asked for it should know. Only in the answer to a request that made or changed it."""


class ListenerView(View):
    """Attributes of protocols that the Listener does not speak are empty text: templates read some unconditionally."""

    domain: str = ""
    """The bare label of the endpoint."""
    address: str = ""
    """The address that is bound."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """The UDP port."""
    destination_names: list[str]
    """The names of the Destinations, in their order: a list, for `Fn::Select` and `Fn::Join`."""
    wire_guard_public_key: str = ""
    """The public key of a `wg` Listener, in base64."""
    dtls_server_certificate: str = ""
    """The certificate of a `dtls` or `webrtc` Listener, as PEM."""
    web_rtc_fingerprint: str = ""
    """SHA-256 of the certificate of a `webrtc` Listener, in hex with colons."""
    web_rtc_sctp_port: int | Literal[""] = ""
    """The SCTP port of a `webrtc` Listener."""
    web_rtc_channel_id: int | Literal[""] = ""
    """The data channel of a `webrtc` Listener."""
    web_rtc_signaling_mode: str = ""
    """`none` or `public` of a `webrtc` Listener."""
    web_rtc_signaling_token: str = ""
    """The bearer token of public signaling."""
    web_rtc_signaling_url: str = ""
    """The URL of public signaling."""
    domain_addresses: dict[str, list[str]] | None = None
    """The addresses that each of `ClientRestrictions.Domains` admits now."""
    domain_problems: dict[str, str] | None = None
    """What is wrong with some of these names."""


class DrainingView(Resource):
    """A queue on AWS that no PacketSource names any more (contract section 4.2)."""

    packet_source: str
    """The PacketSource that it was made for."""
    state: Literal["Draining", "Waiting"]
    """What waits is sent; or nobody sends it, and `Detail` says why."""
    queue: str
    """Its ARN."""
    topic: str
    """The ARN of its topic."""
    subscribed: bool
    """True while its subscription is not ended: messages go on coming."""
    sent_by: str | None = None
    """The PacketSource that sends what waits."""
    messages: int | None = None
    """How many SQS counted in it, at the last time that it was asked."""
    detail: str
    """What it waits for, and what can be done."""


class PacketSourceView(View):
    """A PacketSource and what becomes of its messages."""

    state: Literal["Active", "PendingApproval", "Rejected", "Disabled"]
    """Messages are taken while it is `Active`."""
    subscription: Literal["Subscribed", "Pending", "Failed"] | None = None
    """Of one that is Active. Pending and Failed are tried again."""
    subscription_problem: str | None = None
    """Why its topic's messages do not come."""
    draining: list[DrainingView] | None = None
    """Queues of before that it empties, or that wait for it."""


class DestinationArnView(View):
    """A DestinationArn: its own properties are its return values as well."""

    name: str
    """`DESTINATION@REGION`."""


VIEWS: dict[str, type[View]] = {
    "Listener": ListenerView,
    "PacketSource": PacketSourceView,
    "DestinationArn": DestinationArnView,
}


def returned(kind: str) -> set[str]:
    """The keys that a view adds to the document of a resource."""
    return {str(field.alias) for field in VIEWS[kind].model_fields.values()}


def shown(registry: Registry, one: Declared) -> dict[str, Any]:
    """One resource."""
    common = {"id": one.resource.name, "version": one.version, "declared_by": one.owner}
    return {**one.resource.dump(), **VIEWS[one.kind](**common, **_values(registry, one)).dump()}


def draining(registry: Registry) -> list[dict[str, Any]]:
    """Every queue on AWS that no PacketSource names any more."""
    return [_draining(registry, one).dump() for one in registry.leftovers.shown()]


def _draining(registry: Registry, one: Leftover) -> DrainingView:
    assigned = one.assigned
    return DrainingView(
        packet_source=one.queue.source,
        state="Draining" if assigned.taker is not None else "Waiting",
        queue=one.queue.arn,
        topic=one.queue.topic_arn,
        subscribed=one.unsubscribed_at is None,
        sent_by=assigned.taker,
        messages=one.quiet_watch.counted,
        detail=registry.leftovers.problem(one),
    )


def _values(registry: Registry, one: Declared) -> dict[str, Any]:
    name = one.resource.name
    match one.kind:
        case "Listener":
            return _listener(registry.runtime.listeners[name])
        case "PacketSource":
            return {
                "state": registry.desired.states[name],
                **_subscription(registry, name),
                **_left(registry, name),
            }
        case _:
            return {"name": name}


def _listener(running: RunningListener) -> dict[str, Any]:
    host, port = running.port.local_address
    return {
        "domain": running.node.domain,
        "address": host,
        "port": port,
        "destination_names": [destination.name for destination in running.resource.destination_specs],
        "wire_guard_public_key": running.public_key,
        **_domains(running),
    }


def _domains(running: RunningListener) -> dict[str, Any]:
    """Of a Listener with `Domains`: the addresses that they stand for now, and what keeps them from having any."""
    domains = running.node.domains
    if not running.resource.client_restrictions.domains:
        return {}
    return {
        "domain_addresses": domains.addresses(running.resource),
        "domain_problems": domains.problems(running.resource) or None,
    }


def _left(registry: Registry, source: str) -> dict[str, Any]:
    found = [
        _draining(registry, one)
        for one in registry.leftovers.shown()
        if source in (one.queue.source, one.assigned.taker)
    ]
    return {"draining": found} if found else {}


def _subscription(registry: Registry, source: str) -> dict[str, Any]:
    """Of a PacketSource that is Active: whether its topic's messages come, and why not."""
    found = registry.runtime.source(source)
    if found is None:
        return {}
    running, at = found
    place = running.sources[at]
    if place.state != "Active" or place.inlet is None:
        return {}
    return {
        "subscription": place.inlet.subscription,
        "subscription_problem": place.inlet.subscription_problem or None,
    }
