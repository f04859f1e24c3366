"""What must survive a restart: assigned ports, Listener ids, Tag keys, local topics (contract sections 1.1,
2, 4.2), resources that were declared by the API, decisions about PacketSources, and keys and peers of WireGuard
Listeners."""

from .lock import StateError
from .resources import Answer, Commit, Decision, ResourceTable, Stored, changed
from .store import State
from .wireguard import WireGuardTable

__all__ = [
    "Answer",
    "Commit",
    "Decision",
    "ResourceTable",
    "State",
    "StateError",
    "Stored",
    "WireGuardTable",
    "changed",
]
