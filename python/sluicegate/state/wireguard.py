"""What the state keeps for WireGuard Listeners: key pairs that the gateway made, peers that the API added, where peers
are, and the high-water marks of stamps.

There may be a hundred thousand peers. So each is a row, read and written by itself, and never an object that stays.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sluicegate import _native
from sluicegate.state import stamps
from sluicegate.state.stamps import StampBlock, StampMark
from sluicegate.state.store import State
from sluicegate.state.vault import Vault

Memory = Mapping[str, Any]
"""`{"PublicKey", "Remote", "Local", "Recent"}` of a peer, as the native side gives and takes it."""

_CHUNK = 1000


class KeyPair(NamedTuple):
    """A private key in base64, which has its public key in it, and the `KeyRefreshToken` that it was made for. `kept`:
    it is in the state."""

    private: str
    token: str | None
    kept: bool

    def __repr__(self) -> str:
        return f"KeyPair(token={self.token!r})"


class SealedPair(NamedTuple):
    """A row of the table: the Listener's number, the sealed private key, and its token."""

    listener: int
    sealed: bytes
    token: str | None


def put_key_pair(db: sqlite3.Connection, row: SealedPair) -> None:
    """Write a row in place of the one that there may be."""
    db.execute("INSERT OR REPLACE INTO listener_keys (listener, sealed, token) VALUES (?, ?, ?)", row)


class WireGuardTable:
    """By the names of Listeners. What is kept of one goes when it is released. Raises `StateError`."""

    def __init__(self, state: State, vault: Vault) -> None:
        self._state = state
        self._vault = vault

    # The Listener's own key

    def key_pair(self, listener: str, token: str | None = None) -> KeyPair:
        """The key that the gateway made for a Listener: at first use, and from then on the same while `token` is.

        Another `token` (None stands for the one that there was) gives a pair that is not `kept` yet: whoever begins to
        use it keeps it.
        """
        number = self._state.listener_id(listener)
        rows = self._state.read("SELECT sealed, token FROM listener_keys WHERE listener = ?", number)
        if rows and token in (None, rows[0][1]):
            private = self._vault.unseal(rows[0][0], key_label(listener)).decode()
            return KeyPair(private, rows[0][1], kept=True)
        made = KeyPair(_native.generate_private_key(), token, kept=False)
        if rows:
            return made
        self.keep_key_pair(listener, made)
        return made._replace(kept=True)

    def make_key_pairs(self, listeners: Mapping[str, str | None]) -> None:
        """Make and keep a pair, as `key_pair` does at first use, for each that has none: in one transaction. By the
        names of Listeners, with their tokens."""
        if not listeners:
            return
        numbers, _ = self._state.listener_ids(list(listeners))
        have = {number for (number,) in self._state.read("SELECT listener FROM listener_keys")}
        rows = [
            self.sealed(name, KeyPair(_native.generate_private_key(), token, kept=False))
            for name, token in listeners.items()
            if numbers[name] not in have
        ]

        def put(db: sqlite3.Connection) -> None:
            for row in rows:
                put_key_pair(db, row)

        if rows:
            self._state.write(put)

    def keep_key_pair(self, listener: str, pair: KeyPair) -> None:
        """This pair in place of the one that there may be."""
        row = self.sealed(listener, pair)
        self._state.write(lambda db: put_key_pair(db, row))

    def sealed(self, listener: str, pair: KeyPair) -> SealedPair:
        """A pair as it is written."""
        return SealedPair(
            self._state.listener_id(listener),
            self._vault.seal(pair.private.encode(), key_label(listener)),
            pair.token,
        )

    # Stamps of handshakes

    def reserve_stamps(self, public_keys: Collection[str]) -> Mapping[str, StampBlock]:
        """The stamps that handshakes with these keys may use from now on, by key: one transaction."""
        if not public_keys:
            return {}
        return self._state.write(lambda db: stamps.reserve(db, public_keys, stamps.now_ns()))

    def used_stamps(self, public_keys: Collection[str]) -> Mapping[str, StampBlock]:
        """Where nothing can be reserved: the stamps of before, and none above them."""
        floors = dict(self._state.read("SELECT public_key, mark FROM stamp_marks"))
        return {key: StampBlock(floors[key], floors[key]) for key in public_keys if key in floors}

    def raise_mark(self, mark: StampMark) -> None:
        """Write a mark, unless a greater one is there."""
        self._state.write(lambda db: stamps.raise_mark(db, mark))

    # Peers that the API added

    def add_peers(self, listener: str, peers: Iterable[tuple[dict[str, Any], str | None]]) -> None:
        """Keep peers: each a PascalCase document and its pre-shared key. None of them may be there."""
        number = self._state.listener_id(listener)
        rows = [
            (number, document["PublicKey"], json.dumps(document), self._sealed(listener, document, secret))
            for document, secret in peers
        ]
        self._state.write(
            lambda db: db.executemany(
                "INSERT INTO peers (listener, public_key, document, secret) VALUES (?, ?, ?, ?)", rows
            )
        )

    def remove_peer(self, listener: str, public_key: str) -> bool:
        """Forget a peer and where it was; False if there is none."""
        number = self._state.listener_id(listener)

        def write(db: sqlite3.Connection) -> bool:
            gone = (number, public_key)
            db.execute("DELETE FROM peer_memories WHERE listener = ? AND public_key = ?", gone)
            return db.execute("DELETE FROM peers WHERE listener = ? AND public_key = ?", gone).rowcount > 0

        return self._state.write(write)

    def peers_among(self, listener: str, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """Documents, without secrets, of those that are there, by public key."""
        number = self._state.listener_id(listener)
        found: dict[str, dict[str, Any]] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), _CHUNK):
            some = wanted[start : start + _CHUNK]
            marks = ", ".join("?" * len(some))
            query = f"SELECT public_key, document FROM peers WHERE listener = ? AND public_key IN ({marks})"  # noqa: S608
            found |= {key: json.loads(text) for key, text in self._state.read(query, number, *some)}
        return found

    def peers(self, listener: str) -> Iterator[list[tuple[dict[str, Any], str | None]]]:
        """All of them with their pre-shared keys, some at a time."""
        number, last = self._state.listener_id(listener), ""
        query = (
            "SELECT public_key, document, secret FROM peers "
            "WHERE listener = ? AND public_key > ? ORDER BY public_key LIMIT ?"
        )
        while rows := self._state.read(query, number, last, _CHUNK):
            last = rows[-1][0]
            yield [
                (
                    json.loads(text),
                    self._vault.unseal(sealed, peer_label(listener, key)).decode() if sealed else None,
                )
                for key, text, sealed in rows
            ]

    # Where peers are

    def memories(self, listener: str) -> Iterator[list[str]]:
        """What was known of its peers as JSON, some at a time."""
        number, last = self._state.listener_id(listener), ""
        query = (
            "SELECT public_key, memory FROM peer_memories "
            "WHERE listener = ? AND public_key > ? ORDER BY public_key LIMIT ?"
        )
        while rows := self._state.read(query, number, last, _CHUNK):
            last = rows[-1][0]
            yield [memory for _, memory in rows]

    def remember(self, listener: str, memories: Iterable[Memory], mark: StampMark | None = None) -> None:
        """Write down what has changed, and the mark of the Listener's key if there is one. A memory without `Remote` is
        forgotten. One transaction."""
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
            if mark is not None:
                stamps.raise_mark(db, mark)

        self._state.write(write)

    def _sealed(self, listener: str, document: Mapping[str, Any], secret: str | None) -> bytes | None:
        if secret is None:
            return None
        return self._vault.seal(secret.encode(), peer_label(listener, document["PublicKey"]))


def key_label(listener: str) -> str:
    """What a Listener's key is sealed together with."""
    return f"WireGuard key of Listener {listener}"


def peer_label(listener: str, public_key: str) -> str:
    """What a peer's pre-shared key is sealed together with."""
    return f"pre-shared key of peer {public_key} of Listener {listener}"
