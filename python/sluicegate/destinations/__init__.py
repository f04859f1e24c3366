"""What batches of packets are delivered to, found by the scheme of a `DestinationArn` (contract section 1.2)."""

from __future__ import annotations

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
from sluicegate.model import DestinationSpec, Finding, support

__all__ = [
    "DeliveryError",
    "Destination",
    "DestinationContext",
    "DestinationError",
    "EventSink",
    "PacketBatch",
    "check",
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

LATER = {
    "arn": "delivery to AWS services",
    "http": "delivery to web hooks",
    "https": "delivery to web hooks",
    "nats": "delivery to NATS",
}
"""Contract 1.2: what this version cannot do yet, unless a package does it."""


def check(spec: DestinationSpec, context: DestinationContext) -> list[Finding]:
    """What keeps packets from being delivered as `spec` says, for each of its ARNs, without side effects.

    Paths begin in `spec`: they lead to an ARN or into `arguments`.
    """
    single = not isinstance(spec.destination_arn, dict)
    found: list[Finding] = []
    for region, arn in spec.targets().items():
        try:
            create(spec, arn, context)
        except DestinationError as error:
            found.append(error.finding(("destination_arn",) if single else ("destination_arn", region)))
    return list(dict.fromkeys(found))


def create(spec: DestinationSpec, arn: str, context: DestinationContext) -> Destination:
    """Parse and validate the Destination that `arn` names, without side effects.

    `arn` is one of the spec's (a Destination may have one for each region). Raises `DestinationError`.
    """
    name = spec.name or "destination"
    scheme, _, target = arn.partition(":")
    key = scheme
    if scheme == "arn":
        parts = arn.split(":", 5)
        key, target = (parts[2] if len(parts) == 6 else ""), arn
    entry = _registry().get(key)
    if entry is None and scheme in LATER:
        service = f" ({key})" if scheme == "arn" else ""
        raise DestinationError(f"{LATER[scheme]}{service}: {support.LATER}", f"known are {_listed()}")
    if entry is None:
        cause = f'"{arn}" is not a destination: the scheme "{scheme}" is not known here'
        raise DestinationError(cause, f"known are {_listed()}")
    try:
        made = _load(key, entry).from_spec(name, target, spec.arguments or {}, context)
        if made.concurrency < 1:
            raise ValueError(f"concurrency is {made.concurrency}")
    except DestinationError:
        raise
    except Exception as error:
        cause = f"the Destination for {key!r}, {_origin(entry)}, failed to read this ({failure(error)})"
        raise DestinationError(cause, "report it to those who provide it") from error
    return made


def failure(error: BaseException) -> str:
    """An exception of somebody else's code, on one line."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    except (Exception, SystemExit) as error:  # its code runs, and may raise whatever it likes
        cause = f"the Destination for {key!r} cannot be loaded from {_origin(entry)} ({failure(error)})"
        raise DestinationError(cause, "reinstall the package that provides it") from error
    if not (isinstance(found, type) and issubclass(found, Destination)):
        raise DestinationError(
            f"the Destination for {key!r}, {_origin(entry)}, is not a subclass of Destination",
            "correct the entry point of the package that provides it",
        )
    return found


def _origin(entry: EntryPoint) -> str:
    return f"{entry.value} of the package {entry.dist.name}" if entry.dist else entry.value


def _listed() -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes())
