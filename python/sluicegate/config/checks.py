"""What keeps a well-formed document from being run: the one check for `validate`, starts, reloads, the API and `apply`.

The model judges a document's form. What this version cannot do, what a Destination says of its ARN and arguments,
and what a MessageSource says of its settings, is judged here, without side effects.
"""

from pathlib import Path

from sluicegate.aws import Aws
from sluicegate.destinations import DestinationContext
from sluicegate.destinations import check as check_destination
from sluicegate.model import Check, DestinationSpec, Finding, PacketSource, Resource, unavailable
from sluicegate.sources import check as check_source


def checks(base_dir: Path, region: str) -> Check:
    """The check for documents whose relative paths begin at `base_dir`, at a node in `region`."""
    context = DestinationContext(
        listener="", region=region, base_dir=base_dir, events=_Nobody(), aws=Aws(region, None)
    )

    def check(resource: Resource) -> list[Finding]:
        found = unavailable(resource)
        if isinstance(resource, DestinationSpec):
            found += check_destination(resource, context)
        if isinstance(resource, PacketSource):
            found += check_source(resource)
        return found

    return check


class _Nobody:
    """Nothing happens while something is checked, and so there are no events."""

    def emit(self, event: str, /, **fields: object) -> None:
        """Forget it."""
