"""What must survive a restart: assigned ports, Listener ids, Tag keys, local topics, queues on AWS (contract sections
1.1, 2, 4.2), resources that were declared by the API, decisions about PacketSources, and keys and peers of WireGuard
Listeners."""

from .lock import StateError
from .resources import Answer, Commit, Decision, ResourceTable, Stored, changed
from .store import SourceQueue, State
from .wireguard import WireGuardTable

__all__ = [
    "Answer",
    "Commit",
    "Decision",
    "ResourceTable",
    "SourceQueue",
    "State",
    "StateError",
    "Stored",
    "WireGuardTable",
    "changed",
]
