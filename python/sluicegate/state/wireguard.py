"""What the state keeps for WireGuard Listeners: key pairs that the gateway made, and where their peers are."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sluicegate import _native

from .store import State
from .vault import Vault

Memory = Mapping[str, Any]
"""`{"PublicKey", "Remote", "Local", "Recent"}` of a peer, as the native side gives and takes it."""


class WireGuardTable:
    """By the names of Listeners. What is kept of one goes when it is released. Raises `StateError`."""

    def __init__(self, state: State, vault: Vault) -> None:
        self._state = state
        self._vault = vault

    def private_key(self, listener: str) -> str:
        """The key that the gateway made for a Listener, in base64: at first use, and from then on the same."""
        number = self._state.listener_id(listener)
        rows = self._state.read("SELECT sealed FROM listener_keys WHERE listener = ?", number)
        if rows:
            return self._vault.unseal(rows[0][0], key_label(listener)).decode()
        made = _native.generate_private_key()
        self.keep_private_key(listener, made)
        return made

    def keep_private_key(self, listener: str, key: str) -> None:
        """This key in place of the one that there may be."""
        number = self._state.listener_id(listener)
        sealed = self._vault.seal(key.encode(), key_label(listener))
        self._state.write(
            lambda db: db.execute(
                "INSERT OR REPLACE INTO listener_keys (listener, sealed) VALUES (?, ?)", (number, sealed)
            )
        )

    def memories(self, listener: str) -> list[Memory]:
        """What was known of its peers."""
        number = self._state.listener_id(listener)
        rows = self._state.read("SELECT memory FROM peer_memories WHERE listener = ?", number)
        return [json.loads(memory) for (memory,) in rows]

    def remember(self, listener: str, memories: Iterable[Memory]) -> None:
        """Write down what has changed. One without `Remote` is forgotten."""
        number = self._state.listener_id(listener)
        kept, gone = [], []
        for one in memories:
            if one["Remote"] is None:
                gone.append((number, one["PublicKey"]))
            else:
                kept.append((number, one["PublicKey"], json.dumps(one)))

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM peer_memories WHERE listener = ? AND public_key = ?", gone)
            db.executemany(
                "INSERT OR REPLACE INTO peer_memories (listener, public_key, memory) VALUES (?, ?, ?)", kept
            )

        self._state.write(write)

    def forget(self, listener: str, keys: Collection[str]) -> None:
        """Of these peers nothing is known any more."""
        if keys:
            self.remember(listener, [{"PublicKey": key, "Remote": None} for key in keys])


def key_label(listener: str) -> str:
    """What a sealed key is sealed together with."""
    return f"WireGuard key of Listener {listener}"
