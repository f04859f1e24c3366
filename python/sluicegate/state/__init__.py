"""What must survive a restart.

In SQLite: assigned ports, Listener ids, Tag keys, local topics, queues on AWS (contract sections 1.1, 2, 4.2),
resources that were declared by the API, decisions about PacketSources, and keys and peers of WireGuard Listeners.
Beside it, in files: the journal of what was sent, and keys of the API.
"""

from sluicegate.state.lock import StateError
from sluicegate.state.resources import Answer, Commit, Decision, ResourceTable, Stored, changed
from sluicegate.state.stamps import StampBlock, StampMark
from sluicegate.state.store import SourceQueue, State
from sluicegate.state.wireguard import KeyPair, SealedPair, WireGuardTable

__all__ = [
    "Answer",
    "Commit",
    "Decision",
    "KeyPair",
    "ResourceTable",
    "SealedPair",
    "SourceQueue",
    "StampBlock",
    "StampMark",
    "State",
    "StateError",
    "Stored",
    "WireGuardTable",
    "changed",
]
