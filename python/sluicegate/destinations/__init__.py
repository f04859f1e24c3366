"""What batches of packets are delivered to, found by the scheme of a `DestinationArn` (contract section 1.2)."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from sluicegate.destinations.base import (
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    EventSink,
    PacketBatch,
)
from sluicegate.model import DestinationSpec

__all__ = [
    "DeliveryError",
    "Destination",
    "DestinationContext",
    "DestinationError",
    "EventSink",
    "PacketBatch",
    "create",
    "schemes",
]

GROUP = "sluicegate.destinations"

# Ours are known without an installed distribution too: a source tree has no entry points.
_BUILT_IN = {
    "function": "sluicegate.destinations.function:FunctionDestination",
    "file": "sluicegate.destinations.file:FileDestination",
    "console": "sluicegate.destinations.console:ConsoleDestination",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def create(spec: DestinationSpec, arn: str, context: DestinationContext) -> Destination:
    """Parse and validate the Destination that `arn` names, without side effects.

    `arn` is one of the spec's (a Destination may have one for each region). Raises `DestinationError`.
    """
    name = spec.name or "destination"
    scheme, colon, target = arn.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise DestinationError(
            f"destination {name}: {arn!r} names no kind of Destination", f"begin it with one of {_listed()}"
        )
    key = scheme.lower()
    if key == "arn":
        parts = arn.split(":", 5)
        key, target = (parts[2] if len(parts) == 6 else ""), arn
    entry = _registry().get(key)
    if entry is None:
        what = f"the service {key!r} of {arn!r}" if scheme.lower() == "arn" else f"the scheme {scheme!r}"
        raise DestinationError(f"destination {name}: {what} is not known here", f"known are {_listed()}")
    return _load(key, entry).from_spec(name, target, spec.arguments or {}, context)


def schemes() -> list[str]:
    """The schemes (and ARN services) that this installation knows, sorted."""
    return sorted(_registry())


@cache
def _registry() -> dict[str, EntryPoint]:
    registry = {key: EntryPoint(key, value, GROUP) for key, value in _BUILT_IN.items()}
    registry.update({entry.name.lower(): entry for entry in entry_points(group=GROUP)})
    return registry


def _load(key: str, entry: EntryPoint) -> type[Destination]:
    module, _, attribute = entry.value.partition(":")
    try:
        found = getattr(import_module(module.strip()), attribute.strip())
    except (ImportError, AttributeError) as error:
        raise DestinationError(
            f"the Destination for {key!r} cannot be loaded from {entry.value} ({type(error).__name__})",
            "reinstall the package that provides it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Destination)):
        raise DestinationError(
            f"the Destination for {key!r}, {entry.value}, is not a subclass of Destination",
            "correct the entry point of the package that provides it",
        )
    return found


def _listed() -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes())
