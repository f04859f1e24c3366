"""Destinations that several Listeners deliver to (contract section 1.2).

Example: the Listener `a` declares the Destination `log`, and the Listener `b` has the string `log` among its
Destinations. Both then deliver to the same service with the same settings; each has a queue, batches and counters of
its own. A string always names a Destination that a Listener declares, so strings never form a chain.
"""

from collections.abc import Iterable, Mapping, Sequence

from sluicegate.model.destination import DestinationSpec
from sluicegate.model.listener import Listener
from sluicegate.model.text import some


def declaring(listeners: Iterable[Listener]) -> dict[str, list[str]]:
    """Names of Destinations → names of the Listeners that declare one of this name."""
    found: dict[str, list[str]] = {}
    for listener in listeners:
        for destination in listener.destination_specs:
            found.setdefault(destination.name, []).append(listener.name)
    return found


def not_one(name: str, declared: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """`(cause, fix)` where `name` does not name exactly one Destination; `declared` as `declaring` gives it."""
    listeners = declared.get(name, ())
    if not listeners:
        return (
            f'there is no Destination named "{name}"',
            f"declare it in a Listener first, or use one of: {some(declared) or 'none'}",
        )
    if len(listeners) > 1:
        named = some([f'"{listener}"' for listener in listeners], " and ")
        return (
            f'the Destination "{name}" is declared by the Listeners {named}, and it is not known which is meant',
            "give one of them another name",
        )
    return None


def resolved(listeners: Sequence[Listener]) -> list[Listener]:
    """The Listeners with the Destination in place of each string that names it. Every string names exactly one."""
    specs = {destination.name: destination for one in listeners for destination in one.destination_specs}
    return [
        listener
        if len(listener.destination_specs) == len(listener.destinations)
        else listener.model_copy(
            update={
                "destinations": [
                    entry if isinstance(entry, DestinationSpec) else specs[entry]
                    for entry in listener.destinations
                ]
            }
        )
        for listener in listeners
    ]
