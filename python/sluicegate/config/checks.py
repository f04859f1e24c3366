"""What keeps a well-formed document from being run: the one check for `validate`, starts, reloads, the API and `apply`.

The model judges a document's form. What this version cannot do, what a Destination says of its ARN and arguments,
what a MessageSource says of its settings, and whether certificates can be used, is judged here, without side effects.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from sluicegate.aws import Aws
from sluicegate.destinations import DestinationContext
from sluicegate.destinations import check as check_destination
from sluicegate.http.tls import TlsError, server_context
from sluicegate.localcode import LocalCode, Outside
from sluicegate.model import (
    Check,
    DestinationSpec,
    Events,
    Finding,
    GatewayConfig,
    PacketSource,
    Resource,
    Tls,
    unavailable,
)
from sluicegate.model import Path as Place
from sluicegate.paths import obstacle
from sluicegate.sources import check as check_source
from sluicegate.state.check import check_state


def checks(base_dir: Path, region: str, local_code: LocalCode | None = None) -> Check:
    """The check for documents whose relative paths begin at `base_dir`, at a node in `region`.

    `local_code` bounds the paths of documents that came by the API; the configuration's have no bounds.
    """
    context = DestinationContext(
        listener="",
        region=region,
        base_dir=base_dir,
        events=_Nobody(),
        aws=Aws(region, None),
        local_code=local_code,
    )

    def check(resource: Resource) -> list[Finding]:
        found = unavailable(resource)
        if isinstance(resource, DestinationSpec):
            found += check_destination(resource, context)
        if isinstance(resource, PacketSource):
            bounds = local_code or resource.bounds
            found += check_source(resource, base_dir, bounds)
            found += _dead_letters(resource, base_dir, bounds)
        if isinstance(resource, Tls):
            found += _check_tls(resource, base_dir)
        if isinstance(resource, Events) and resource.file is not None:
            found += _unwritable(
                ("file",), "the file of events", base_dir / resource.file, makes_folders=True
            )
        if isinstance(resource, GatewayConfig):
            found += _state(resource, base_dir)
        return found

    return check


def _dead_letters(resource: PacketSource, base_dir: Path, local_code: LocalCode | None) -> list[Finding]:
    scheme, _, path = (resource.dead_letter_queue_arn or "").partition(":")
    if scheme != "file":
        return []
    place = ("dead_letter_queue_arn",)
    try:
        if local_code is not None:
            local_code.writable(base_dir / path)
    except Outside as error:
        return [Finding(place, error.cause, error.fix)]
    return _unwritable(
        place, "the file of dead letters", base_dir / path, makes_folders=local_code is not None
    )


def _unwritable(place: Place, what: str, path: Path, *, makes_folders: bool) -> list[Finding]:
    wrong = obstacle(path, makes_folders=makes_folders)
    fix = f"name a file that the gateway may write{_UNREPLACED if _has_variable(path) else ''}"
    return [] if wrong is None else [Finding(place, f"{what} {path} {wrong}", fix)]


def _state(gateway: GatewayConfig, base_dir: Path) -> list[Finding]:
    """What is wrong with the state, and other files that would be written into it."""
    state = base_dir / gateway.state
    if (wrong := check_state(state)) is not None:
        cause, fix = wrong
        return [Finding(("state",), cause, fix + (_UNREPLACED if _has_variable(state) else ""))]
    return [
        Finding(place, f"{path} is the gateway's state", "name another file: this one would be overwritten")
        for place, path in _written(gateway)
        if os.path.realpath(base_dir / path) == os.path.realpath(state)
    ]


def _written(gateway: GatewayConfig) -> Iterator[tuple[Place, str]]:
    """`(place, path)` of every file that is written beside the state."""
    if gateway.events.file is not None:
        yield ("events", "file"), gateway.events.file
    for index, source in enumerate(gateway.packet_sources):
        scheme, _, path = (source.dead_letter_queue_arn or "").partition(":")
        if scheme == "file":
            yield ("packet_sources", index, "dead_letter_queue_arn"), path
    for index, listener in enumerate(gateway.listeners):
        for position, destination in enumerate(listener.destinations):
            for arn in destination.targets().values() if isinstance(destination, DestinationSpec) else ():
                if arn.startswith("file:"):
                    yield ("listeners", index, "destinations", position, "destination_arn"), arn[5:]


def _has_variable(path: Path) -> bool:
    return any(part == "~" or "$" in part for part in path.parts)


_UNREPLACED = "; `~` and variables such as `$HOME` are not replaced"


def _check_tls(tls: Tls, base_dir: Path) -> list[Finding]:
    try:
        server_context(base_dir / tls.cert, base_dir / tls.key)
    except TlsError as error:
        return [error.finding]
    return []


class _Nobody:
    """Nothing happens while something is checked, and so there are no events."""

    def emit(self, event: str, /, **fields: object) -> None:
        """Forget it."""
