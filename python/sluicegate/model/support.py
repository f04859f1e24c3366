"""What the model accepts and this version cannot run yet.

A gateway refuses to start with any of it: a filter that silently does not filter is worse than none. Each
feature is one line in the list below; the change that brings the feature deletes the line.
"""

from collections.abc import Callable, Iterator

from sluicegate.model.base import Finding, Resource
from sluicegate.model.listener import Listener

LATER = "this version cannot do it yet"
LATER_VALUES = ("dtls", "webrtc")
"""Of the choices that the model knows, those that no message and no schema offers."""

_LISTENER: list[tuple[str, Callable[[Listener], bool], str, str]] = [
    (
        "protocol",
        lambda r: r.protocol == "dtls",
        "the protocol dtls",
        "use `protocol: udp` or `protocol: wg`",
    ),
    (
        "protocol",
        lambda r: r.protocol == "webrtc",
        "the protocol webrtc",
        "use `protocol: udp` or `protocol: wg`",
    ),
]


def unavailable(resource: Resource) -> list[Finding]:
    """What this version cannot do of `resource`, each with its place in it and the next step.

    Not of the objects inside of it: they are asked about by themselves (`model.base.Check`).
    """
    return list(_apply(resource)) if isinstance(resource, Listener) else []


def _apply(resource: Listener) -> Iterator[Finding]:
    for field, applies, what, fix in _LISTENER:
        if applies(resource):
            yield Finding(tuple(field.split(".")), f"{what}: {LATER}", fix)
