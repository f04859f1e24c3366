"""DestinationArn: binds one region's ARN to an existing Destination (contract section 1.2)."""

from typing import Annotated, Any

from pydantic import AfterValidator, PrivateAttr

from sluicegate.model.base import Resource, invalid
from sluicegate.model.destination import checked_target
from sluicegate.model.names import DestinationName, region_map_key


def _region_key(text: str) -> str:
    if not region_map_key(text):
        raise invalid(f'"{text}" is not a region', "use the form us-east-1, or `*` for every other region")
    return text


class DestinationArn(Resource):
    """Takes the place of an ARN that the Destination itself names for the same region."""

    destination: DestinationName
    """The Destination's name. Exactly one Listener declares one of this name."""
    ingress_region_key: Annotated[str, AfterValidator(_region_key)]
    """The region in which packets arrive, or `*` for every region without an ARN of its own."""
    arn: Annotated[str, AfterValidator(checked_target)]
    """As a Destination's `DestinationArn`."""
    arguments: dict[str, Any] | None = None
    """Options of the service behind `arn`, such as a function's `Environment`. Left out, the Destination's own hold."""

    _bounds: Any = PrivateAttr(default=None)

    def within(self, bounds: Any) -> None:
        """Note what the path in `arn` must observe (`localcode.LocalCode`)."""
        self._bounds = bounds

    @property
    def bounds(self) -> Any:
        """What the path in `arn` must observe."""
        return self._bounds

    @property
    def name(self) -> str:
        """`DESTINATION@REGION`: unique in the gateway."""
        return f"{self.destination}@{self.ingress_region_key}"
