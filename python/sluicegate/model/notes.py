"""What is accepted and does less than a user may think: worth a line, no refusal.

`validate` shows these as warnings; the API, CloudFormation and `apply` answer with them.
"""

from collections.abc import Iterator, Sequence

from sluicegate.model.base import Finding
from sluicegate.model.destination import DestinationSpec
from sluicegate.model.listener import Listener
from sluicegate.model.packet_source import PacketSource


def notes(listeners: Sequence[Listener], sources: Sequence[PacketSource]) -> list[Finding]:
    """Notes about these resources of one gateway, with paths from its root."""
    return [*_without_metrics(listeners), *_without_networks(listeners, sources)]


def _without_metrics(listeners: Sequence[Listener]) -> Iterator[Finding]:
    for index, listener in enumerate(listeners):
        measured: list[tuple[Listener | DestinationSpec, tuple[str | int, ...]]] = [(listener, ())]
        measured += [
            (destination, ("destinations", position))
            for position, destination in enumerate(listener.destinations)
            if isinstance(destination, DestinationSpec)
        ]
        for resource, inner in measured:
            if resource.metrics_enabled:
                yield Finding(
                    ("listeners", index, *inner, "metrics_enabled"),
                    f'the {resource.kind()} "{resource.name}" publishes no metrics to CloudWatch yet',
                    "read `/metrics` of the API until a later version does it",
                )


def _without_networks(listeners: Sequence[Listener], sources: Sequence[PacketSource]) -> Iterator[Finding]:
    """A Listener that admits no network gives its PacketSources none to send to (contract 1.3)."""
    closed = {one.name for one in listeners if not one.client_restrictions.networks}
    for index, source in enumerate(sources):
        if source.egress_networks is None and source.listener_name in closed:
            yield Finding(
                ("packet_sources", index, "egress_networks"),
                f'the PacketSource "{source.name}" sends to sessions and Tags alone, because its Listener '
                f'"{source.listener_name}" admits no networks',
                'list where else it may send in its EgressNetworks, for example ["203.0.113.0/24"]',
            )
