"""What the model accepts and this version cannot run yet.

A gateway refuses to start with any of it: a filter that silently does not filter is worse than none. Each
feature is one line in a list below; the change that brings the feature deletes the line.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from sluicegate.model.base import Finding, Resource
from sluicegate.model.destination import DestinationSpec
from sluicegate.model.listener import Listener

_R = TypeVar("_R", bound=Resource)

LATER = "this version cannot do it yet"
LATER_VALUES = ("dtls", "webrtc", "coap")
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

_DESTINATION: list[tuple[str, Callable[[DestinationSpec], bool], str, str]] = [
    ("formatter", lambda r: r.formatter == "coap", "the formatter coap", "use base64, hex, utf8 or ascii"),
]


def unavailable(resource: Resource) -> list[Finding]:
    """What this version cannot do of `resource`, each with its place in it and the next step.

    Not of the objects inside of it: they are asked about by themselves (`model.base.Check`).
    """
    if isinstance(resource, Listener):
        return list(_apply(_LISTENER, resource))
    return list(_apply(_DESTINATION, resource)) if isinstance(resource, DestinationSpec) else []


def _apply(rules: list[tuple[str, Callable[[_R], bool], str, str]], resource: _R) -> Iterator[Finding]:
    for field, applies, what, fix in rules:
        if applies(resource):
            yield Finding(tuple(field.split(".")), f"{what}: {LATER}", fix)
