"""What the model accepts and this version cannot run yet.

A gateway refuses to start with any of it: a filter that silently does not filter is worse than none. Each
feature is one line in a list below; the change that brings the feature deletes the line.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from sluicegate.model.base import Finding, Path, Resource
from sluicegate.model.destination import DestinationSpec, Target, parse_target
from sluicegate.model.gateway import GatewayConfig
from sluicegate.model.listener import Listener

_R = TypeVar("_R", bound=Resource)

_LATER = "this version cannot do it yet"

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
    (
        "filter_expression",
        lambda r: r.filter_expression is not None,
        "filtering",
        "remove it and filter in the handler",
    ),
]

_TARGETS: list[tuple[Callable[[Target], bool], str]] = [
    (lambda t: t.kind == "aws", "delivery to AWS services"),
    (lambda t: t.kind == "http", "delivery to web hooks"),
    (lambda t: t.kind == "nats", "delivery to NATS"),
]
_TARGET_FIX = "use function:PATH, file:PATH.ndjson or console:"


def unavailable(config: GatewayConfig) -> list[Finding]:
    """Everything in `config` that this version cannot run, each with its place and the next step; empty if it
    can."""
    found: list[Finding] = []
    for index, listener in enumerate(config.listeners):
        path: Path = ("listeners", index)
        found += _apply(_LISTENER, listener, path)
        for position, destination in enumerate(listener.destinations):
            if isinstance(destination, str):
                continue  # it is looked at where it is declared
            inner = (*path, "destinations", position)
            found += _apply(_DESTINATION, destination, inner)
            found += _targets(destination, inner)
    return found


def _targets(destination: DestinationSpec, path: Path) -> Iterator[Finding]:
    single = not isinstance(destination.destination_arn, dict)
    for region, text in destination.targets().items():
        place = (*path, "destination_arn") if single else (*path, "destination_arn", region)
        target = parse_target(text)
        for applies, what in _TARGETS:
            if applies(target):
                service = f" ({text.split(':')[2]})" if target.kind == "aws" else ""
                yield _finding(place, what + service, _TARGET_FIX)


def _apply(
    rules: list[tuple[str, Callable[[_R], bool], str, str]], resource: _R, path: Path
) -> Iterator[Finding]:
    for field, applies, what, fix in rules:
        if applies(resource):
            yield _finding((*path, *field.split(".")), what, fix)


def _finding(path: Path, what: str, fix: str) -> Finding:
    return Finding(path, f"{what}: {_LATER}", fix)
