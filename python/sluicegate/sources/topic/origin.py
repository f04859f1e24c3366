"""Where the messages of a queue come from, which decides what becomes of them (contract section 4.2)."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sluicegate.model.names import topic_region
from sluicegate.sources.topic.envelope import Confirmation, Notification
from sluicegate.sources.topic.regions import Regions, Verdict
from sluicegate.state import SourceQueue


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of one queue. `source`: the PacketSource for which it was made. `confirm` is called with each
    Confirmation that comes, wanted or not; None where nobody has to know."""

    source: str
    topic_arn: str
    regions: Regions
    confirm: Callable[[Confirmation], None] | None = None

    def judge(self, found: Notification) -> Verdict | tuple[str, str] | None:
        """The verdict on a message, or the refusal; None if the regions have to be listed first."""
        if found.topic_arn is None:
            return Verdict.SEND  # its attributes were stripped; what SNS's filter let through is ours
        if found.topic_arn != self.topic_arn:
            return (
                "MalformedMessage",
                f"it was published to {found.topic_arn[:300]}, not to {self.topic_arn}",
            )
        return self.regions.judge_at_once(found.egress_region)


def of_leftover(queue: SourceQueue, here: str, served: Callable[[], Awaitable[frozenset[str]]]) -> Origin:
    """The origin of a queue that is not named any more. `here` is the gateway's region, `served` lists the regions that
    the topic's messages go to.

    A message for the region that the gateway had is sent, and one for the region that it has now: its present queue
    may be younger than the message. What comes by both is one by its MessageId.
    """
    region = queue.arn.split(":")[3]
    filtered = "FilterPolicy" in (json.loads(queue.attributes) if queue.attributes else {})
    at_home = not filtered if queue.attributes else topic_region(queue.topic_arn) == region
    regions = Regions(region, at_home=at_home, refresh=served, added=lambda region: None, also=here)
    return Origin(queue.source, queue.topic_arn, regions)
