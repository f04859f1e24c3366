"""The public Python face of Sluicegate, a self-hosted UDP gateway: what a user's own code imports.

Datagrams arrive as batches of JSON at Destinations; messages published to an SNS topic leave as datagrams from the
Listener's own address and port. A Destination of your own is a class and an entry point:
`docs/write-a-destination.md`. `docs/architecture.md` is the map of this package.

    >>> import sluicegate
    >>> issubclass(sluicegate.MemoryDestination, sluicegate.Destination)
    True
"""

TYPE_CHECKING = False
"""True for type checkers. Not from `typing`, which takes 8 ms: every command imports this module."""

if TYPE_CHECKING:
    from sluicegate.aws.errors import AwsError
    from sluicegate.destinations.base import (
        Arguments,
        DeliveryError,
        Destination,
        DestinationContext,
        DestinationError,
        Expression,
        PacketBatch,
    )
    from sluicegate.destinations.memory import MemoryDestination
    from sluicegate.egress.message import Outcome
    from sluicegate.model.base import Resource
    from sluicegate.sources.base import MessageSource, SourceContext, SourceError
    from sluicegate.sources.memory import MemorySource
    from sluicegate.threads import Threads

__version__ = "0.1.0"

__all__ = [
    "Arguments",
    "AwsError",
    "DeliveryError",
    "Destination",
    "DestinationContext",
    "DestinationError",
    "Expression",
    "MemoryDestination",
    "MemorySource",
    "MessageSource",
    "Outcome",
    "PacketBatch",
    "Resource",
    "SourceContext",
    "SourceError",
    "Threads",
    "__version__",
]

if not TYPE_CHECKING:
    # `sluicegate --help` must not pay for pydantic and the like.
    _HOMES = {
        "sluicegate.aws.errors": ("AwsError",),
        "sluicegate.destinations.base": (
            "Arguments",
            "DeliveryError",
            "Destination",
            "DestinationContext",
            "DestinationError",
            "Expression",
            "PacketBatch",
        ),
        "sluicegate.destinations.memory": ("MemoryDestination",),
        "sluicegate.egress.message": ("Outcome",),
        "sluicegate.model.base": ("Resource",),
        "sluicegate.sources.base": ("MessageSource", "SourceContext", "SourceError"),
        "sluicegate.sources.memory": ("MemorySource",),
        "sluicegate.threads": ("Threads",),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME})
