"""Names of regions that are most likely mistyped: worth a warning, because a gateway's region may have any name."""

import difflib
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from sluicegate.model import DestinationSpec, Finding, GatewayConfig, Path
from sluicegate.model.names import topic_region

_LIKE_AWS = re.compile(r"[a-z]+(-[a-z]+)+-?[0-9]+")


def unknown_regions(gateway: GatewayConfig) -> Iterator[Finding]:
    """A finding for each region that has the form of AWS's and is none of them."""
    for place, region in _named(gateway):
        if _LIKE_AWS.fullmatch(region) and region not in aws_regions():
            near = difflib.get_close_matches(region, sorted(aws_regions()), n=1, cutoff=0.7)
            fix = f"did you mean {near[0]}?" if near else "correct it, unless it is a name of your own"
            yield Finding(place, f'AWS has no region "{region}"', fix)


@cache
def aws_regions() -> frozenset[str]:
    """The regions of every partition, as botocore lists them."""
    listed = json.loads(files("botocore").joinpath("data/partitions.json").read_bytes())
    return frozenset(region for partition in listed["partitions"] for region in partition["regions"])


def _named(gateway: GatewayConfig) -> Iterator[tuple[Path, str]]:
    yield ("region",), gateway.region
    for index, source in enumerate(gateway.packet_sources):
        if source.home_region is not None:
            yield ("packet_sources", index, "home_region"), source.home_region
        if source.sns_topic_source is not None:
            place: Path = ("packet_sources", index, "sns_topic_source", "topic_arn")
            yield place, topic_region(source.sns_topic_source.topic_arn)
    for index, listener in enumerate(gateway.listeners):
        for position, destination in enumerate(listener.destinations):
            targets = destination.targets() if isinstance(destination, DestinationSpec) else {}
            for region in targets:
                yield ("listeners", index, "destinations", position, "destination_arn", region), region
