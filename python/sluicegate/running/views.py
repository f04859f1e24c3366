"""Resources as the API shows them: the document as it was declared, with return values and state (contract 1.1-1.3)."""

from typing import Any

from sluicegate.running.listener import RunningListener
from sluicegate.running.registry import Declared, Registry

READ_ONLY = {
    "Listener": (
        "Id",
        "Domain",
        "Address",
        "Port",
        "DestinationNames",
        "WireGuardPublicKey",
        "DtlsServerCertificate",
        "DomainAddresses",
        "DomainProblems",
    ),
    "PacketSource": ("Id", "State", "Subscription", "SubscriptionProblem"),
    "DestinationArn": ("Id", "Name"),
}
"""What a view adds to the document, beside `Version`, `DeclaredBy` and `Warnings`. A client may send it back."""
COMMON = ("Version", "DeclaredBy", "Warnings")


def shown(registry: Registry, one: Declared) -> dict[str, Any]:
    """One resource."""
    document = {**one.resource.dump(), "Id": one.resource.name}
    match one.kind:
        case "Listener":
            document |= _listener(registry.runtime.listeners[one.resource.name])
        case "PacketSource":
            document["State"] = registry.desired.states[one.resource.name]
            document |= _subscription(
                registry.runtime.listeners[one.resource.listener_name], one.resource.name
            )
        case _:
            document["Name"] = one.resource.name
    return document | {"Version": one.version, "DeclaredBy": one.owner}


def _listener(running: RunningListener) -> dict[str, Any]:
    host, port = running.port.local_address
    return {
        "Domain": running.node.domain,
        "Address": host,
        "Port": port,
        "DestinationNames": [destination.name for destination in running.resource.destination_specs],
        "WireGuardPublicKey": running.public_key,
        "DtlsServerCertificate": "",
        **_domains(running),
    }


def _domains(running: RunningListener) -> dict[str, Any]:
    """Of a Listener with `Domains`: the addresses that they stand for now, and what keeps them from having any."""
    domains = running.node.domains
    if not running.resource.client_restrictions.domains:
        return {}
    problems = domains.problems(running.resource)
    shown = {"DomainAddresses": domains.addresses(running.resource)}
    return shown | {"DomainProblems": problems} if problems else shown


def _subscription(running: RunningListener, source: str) -> dict[str, Any]:
    """Of a PacketSource that is Active: whether its topic's messages come, and why not."""
    for _, place in running.live_sources:
        if place.resource.name == source and place.state == "Active" and place.inlet is not None:
            problem = place.inlet.subscription_problem
            shown = {"Subscription": place.inlet.subscription}
            return shown | {"SubscriptionProblem": problem} if problem else shown
    return {}
