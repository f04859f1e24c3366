"""What all sources of a gateway on AWS share (contract section 4.2)."""

from pathlib import Path

from sluicegate.aws import Aws
from sluicegate.events import EventLog
from sluicegate.model import GatewayConfig
from sluicegate.sources.topic.ended import Ended
from sluicegate.sources.topic.leftovers import Leftovers
from sluicegate.state import State
from sluicegate.state.journal import Journal

ENDED_SECONDS = 4 * 86_400.0
"""MessageIds that have ended are remembered across restarts for as long as SQS keeps a message by default."""
ENDED_LIMIT = 200_000
"""At least so many of them, at most twice as many."""


class SnsSetting:
    """What all sources of a gateway share: of `config`, the region, the node, and where its state is."""

    def __init__(self, config: GatewayConfig, aws: Aws, state: State, events: EventLog) -> None:
        self.aws = aws
        self.state = state
        self.events = events
        self.region = config.region
        self.node = config.node
        self.reconcile_seconds = config.aws.reconcile_seconds
        self._journal = Journal(Path(f"{config.state}.messages"), seconds=ENDED_SECONDS, limit=ENDED_LIMIT)
        self.ended = Ended(self._journal, events, limit=ENDED_LIMIT)
        self.leftovers = Leftovers(aws, state, events, region=config.region, node=config.node)

    async def close(self) -> None:
        """Close what was opened here: not `aws`, not the state."""
        await self.leftovers.close()
        self._journal.close()
