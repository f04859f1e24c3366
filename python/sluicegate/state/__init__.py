"""What must survive a restart: assigned ports, Listener ids, Tag keys, local topics (contract sections 1.1,
2, 4.2)."""

from .lock import StateError
from .store import State

__all__ = ["State", "StateError"]
