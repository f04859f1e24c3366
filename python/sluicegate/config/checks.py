"""What keeps a well-formed document from being run: the one check for `validate`, starts, reloads, the API and `apply`.

The model judges a document's form. What this version cannot do, what a Destination says of its ARN and arguments,
what a MessageSource says of its settings, and whether certificates can be used, is judged here, without side effects.
"""

from collections.abc import Callable
from contextlib import suppress
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
from sluicegate.regular import require_appendable, require_regular
from sluicegate.sources import check as check_source


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
            found += _check_file(("file",), base_dir / resource.file, require_appendable)
        if isinstance(resource, GatewayConfig):
            found += _check_file(("state",), base_dir / resource.state, _require_state)
        return found

    return check


def _dead_letters(resource: PacketSource, base_dir: Path, local_code: LocalCode | None) -> list[Finding]:
    scheme, _, path = (resource.dead_letter_queue_arn or "").partition(":")
    if scheme != "file" or local_code is None:
        return []
    try:
        local_code.writable(base_dir / path)
    except Outside as error:
        return [Finding(("dead_letter_queue_arn",), error.cause, error.fix)]
    return []


def _check_tls(tls: Tls, base_dir: Path) -> list[Finding]:
    try:
        server_context(base_dir / tls.cert, base_dir / tls.key)
    except TlsError as error:
        return [error.finding]
    return []


def _check_file(field: tuple[str], path: Path, require: Callable[[Path], None]) -> list[Finding]:
    try:
        require(path)
    except OSError as error:
        return [Finding(field, f"{path} cannot be used: {error.strerror}", "name another file")]
    return []


def _require_state(path: Path) -> None:
    with suppress(FileNotFoundError):
        require_regular(path.stat(), path)


class _Nobody:
    """Nothing happens while something is checked, and so there are no events."""

    def emit(self, event: str, /, **fields: object) -> None:
        """Forget it."""
