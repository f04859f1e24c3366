"""What must survive a restart: assigned ports, Listener ids, Tag keys, local topics, queues on AWS (contract
sections 1.1, 2, 4.2)."""

from .lock import StateError
from .store import SourceQueue, State

__all__ = ["SourceQueue", "State", "StateError"]
