"""Resources that were declared by the API, and what operators decided about PacketSources."""

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sluicegate.state.store import State
from sluicegate.state.vault import Vault
from sluicegate.state.wireguard import SealedPair, put_key_pair

ANSWER_SECONDS = 86_400.0
"""How long the first answer to an `Idempotency-Key` is kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One resource: its PascalCase document without secrets, and these by JSON pointer. `version` 0: not written."""

    kind: str
    name: str
    document: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    version: int = 0
    local_code: tuple[str, ...] = ()
    """Folders in which this resource's code and files may lie, beside those of the configuration."""


class Decision(NamedTuple):
    """What was decided about a PacketSource: `Approved` or `Rejected`, for this Listener, by whom."""

    listener: str
    decision: str
    by: str


class Answer(NamedTuple):
    """The first answer to a request; `request` is its fingerprint."""

    request: str
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Commit:
    """What one change writes, all of it or nothing."""

    put: list[Stored] = field(default_factory=list)
    delete: list[tuple[str, str]] = field(default_factory=list)
    """`(kind, name)`"""
    decide: dict[str, Decision | None] = field(default_factory=dict)
    """By PacketSource; None forgets the decision."""
    key_pairs: list[SealedPair] = field(default_factory=list)
    """Of WireGuard Listeners that have new ones from this change on."""


class ResourceTable:
    """What `State` keeps of resources. Every method is one transaction."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.vault = Vault(state.path.with_name(state.path.name + ".key"))

    def all(self) -> list[Stored]:
        """In the order in which they were created. `StateError` when secrets cannot be unsealed."""
        rows = self._state.read(
            "SELECT kind, name, version, document, secrets, local_code FROM resources ORDER BY rowid"
        )
        return [self._stored(*row) for row in rows]

    def has(self, kind: str, name: str) -> bool:
        """True if it was declared by the API."""
        return bool(self._state.read("SELECT 1 FROM resources WHERE kind = ? AND name = ?", kind, name))

    def decisions(self) -> dict[str, Decision]:
        """By PacketSource."""
        rows = self._state.read("SELECT source, listener, decision, decided_by FROM approvals")
        return {source: Decision(*rest) for source, *rest in rows}

    def commit(self, change: Commit) -> dict[tuple[str, str], int]:
        """Write a change; the versions of what was put."""
        sealed = [(one, self._sealed(one)) for one in change.put]

        def write(db: sqlite3.Connection) -> dict[tuple[str, str], int]:
            versions = {(one.kind, one.name): _put(db, one, secrets) for one, secrets in sealed}
            db.executemany("DELETE FROM resources WHERE kind = ? AND name = ?", change.delete)
            for pair in change.key_pairs:
                put_key_pair(db, pair)
            for source, decision in change.decide.items():
                db.execute("DELETE FROM approvals WHERE source = ?", (source,))
                if decision is not None:
                    db.execute(
                        "INSERT INTO approvals (source, listener, decision, decided_by) VALUES (?, ?, ?, ?)",
                        (source, *decision),
                    )
            return versions

        return self._state.write(write)

    def answer(self, owner: str, key: str) -> Answer | None:
        """The first answer that `owner` got for a request with this `Idempotency-Key`."""
        rows = self._state.read(
            "SELECT request, status, headers, body FROM answers WHERE owner = ? AND key = ? AND at > ?",
            owner,
            key,
            time.time() - ANSWER_SECONDS,
        )
        return Answer(rows[0][0], rows[0][1], json.loads(rows[0][2]), rows[0][3]) if rows else None

    def keep_answer(self, owner: str, key: str, answer: Answer) -> None:
        """Keep it for a day."""
        now = time.time()

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM answers WHERE at <= ?", (now - ANSWER_SECONDS,))
            db.execute(
                "INSERT OR REPLACE INTO answers (owner, key, request, status, headers, body, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (owner, key, answer.request, answer.status, json.dumps(answer.headers), answer.body, now),
            )

        self._state.write(write)

    def forget_answer(self, owner: str, key: str) -> None:
        """It was refused: the next request with this key is judged anew."""
        self._state.write(
            lambda db: db.execute("DELETE FROM answers WHERE owner = ? AND key = ?", (owner, key))
        )

    def _sealed(self, one: Stored) -> bytes | None:
        if not one.secrets:
            return None
        return self.vault.seal(json.dumps(one.secrets).encode(), _about(one.kind, one.name))

    def _stored(
        self, kind: str, name: str, version: int, document: str, secrets: bytes | None, local_code: str
    ) -> Stored:
        unsealed = json.loads(self.vault.unseal(secrets, _about(kind, name))) if secrets else {}
        return Stored(kind, name, json.loads(document), unsealed, version, tuple(json.loads(local_code)))


def _put(db: sqlite3.Connection, one: Stored, secrets: bytes | None) -> int:
    (version,) = db.execute("UPDATE versions SET last = last + 1 RETURNING last").fetchone()
    db.execute(
        "INSERT INTO resources (kind, name, version, document, secrets, local_code) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version, document = excluded.document, "
        "secrets = excluded.secrets, local_code = excluded.local_code, updated_at = CURRENT_TIMESTAMP",
        (
            one.kind,
            one.name,
            version,
            json.dumps(one.document, ensure_ascii=False),
            secrets,
            json.dumps(one.local_code),
        ),
    )
    return int(version)


def _about(kind: str, name: str) -> str:
    return f"{kind} {name}"


def changed(stored: Iterable[Stored], change: Commit) -> list[Stored]:
    """`stored` as it will be after `change`."""
    gone = set(change.delete)
    after = {(one.kind, one.name): one for one in stored if (one.kind, one.name) not in gone}
    return list((after | {(one.kind, one.name): one for one in change.put}).values())
