"""The state as a JSON document: for a backup that can be read, and for moving to another machine.

Without secrets an export has what can be shown: resources, decisions, assigned ports, topics, queues on AWS, where
WireGuard peers are, and how far the stamps of handshakes have come. With them it also has the secrets of resources, the
keys made for Listeners, and the Tag keys, in the clear.
"""

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sluicegate.state import stamps
from sluicegate.state.lock import StateError
from sluicegate.state.migrations import LATEST, version
from sluicegate.state.resources import Commit, Decision, ResourceTable, Stored
from sluicegate.state.stamps import StampMark
from sluicegate.state.store import SOURCE_DOCUMENTS, SOURCE_QUEUES, SourceQueue, State, failed
from sluicegate.state.vault import Vault
from sluicegate.state.wireguard import KeyPair, WireGuardTable, key_label, peer_label

FORMAT = 1


def export(path: Path, *, secrets: bool) -> dict[str, Any]:
    """The document. Reads beside a gateway that runs. Raises `StateError`."""
    path = path.resolve()
    if not path.is_file():
        raise StateError(
            f"there is no state at {path}, name the configuration or state of a gateway that has run"
        )
    try:
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return _document(db, path, secrets)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise failed(path, error) from error


def restore(state: State, document: Any) -> list[str]:
    """Write a document into an open state, in place of what it has of the same name; a line for each thing.

    Raises `StateError` if it is no such document.
    """
    if not isinstance(document, dict) or document.get("Format") != FORMAT:
        raise StateError(
            f"this is no export of a state (its Format is not {FORMAT}), use `sluicegate state export`"
        )
    try:
        stored = [
            Stored(
                one["Kind"],
                one["Name"],
                dict(one["Document"]),
                dict(one.get("Secrets") or {}),
                local_code=tuple(map(str, one.get("LocalCode", ()))),
            )
            for one in document["Resources"]
        ]
        decisions: dict[str, Decision | None] = {
            one["PacketSource"]: Decision(one["Listener"], one["Decision"], one["By"])
            for one in document["Decisions"]
        }
        ports = [(str(one["Name"]), int(one["Port"])) for one in document["Ports"]]
        attributes = dict(document.get("TopicAttributes", {}))
        topics = {str(arn): dict(attributes.get(arn, {})) for arn in document["Topics"]}
        queues = [SourceQueue(**one) for one in document.get("SourceQueues", ())]
        sources = {str(k): json.dumps(dict(v)) for k, v in document.get("SourceDocuments", {}).items()}
        keys = [(int(one["Id"]), bytes.fromhex(one["Key"])) for one in document.get("TagKeys", ())]
        own = [
            (str(one["Listener"]), one.get("PrivateKey"), one.get("KeyRefreshToken"))
            for one in document.get("WireGuardKeys", ())
        ]
        peers = [
            (str(one["Listener"]), dict(one["Peer"]), one.get("SharedSecret"))
            for one in document.get("WireGuardPeers", ())
        ]
        endpoints = [(str(one["Listener"]), list(one["Peers"])) for one in document.get("PeerEndpoints", ())]
        marks = [StampMark(str(one["PublicKey"]), int(one["Mark"])) for one in document.get("StampMarks", ())]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the export is damaged ({error}), make it anew with `sluicegate state export`"
        ) from None
    missing = [f"{one['Kind']} {one['Name']}" for one in document["Resources"] if one.get("SecretsLeftOut")]
    missing += [
        f"Listener {name}" for name, key, _ in own if key is None and f"Listener {name}" not in missing
    ]
    missing += [
        f"peer {one['Peer'].get('PublicKey')}"
        for one in document.get("WireGuardPeers", ())
        if one.get("SecretsLeftOut")
    ]
    if missing:
        raise StateError(
            f"the export leaves out the secrets of {', '.join(missing)}, make it anew with --secrets"
        )
    for name, port in ports:
        state.assign_port(name, port)
    for arn, attributes in topics.items():
        state.add_topic(arn, attributes)
    for queue in queues:
        state.keep_source_queue(queue)
    state.keep_source_documents(sources)
    if keys:
        state.replace_tag_keys(keys)
    table = ResourceTable(state)
    table.commit(Commit(put=stored, decide=decisions))
    wireguard = WireGuardTable(state, table.vault)
    for name, key, token in own:
        wireguard.keep_key_pair(name, KeyPair(str(key), token, kept=False))
    for name, peer, secret in peers:
        wireguard.remove_peer(name, peer["PublicKey"])
        wireguard.add_peers(name, [(peer, secret)])
    for name, memories in endpoints:
        wireguard.remember(name, memories)
    for mark in marks:
        wireguard.raise_mark(mark)
    return [
        *(f"{one.kind} {one.name}" for one in stored),
        *(f"port {port} of Listener {name}" for name, port in ports),
        *(f"topic {arn}" for arn in topics),
        *(f"queue {queue.arn}" for queue in queues),
        *(f"decision about PacketSource {name}" for name in decisions),
        *(f"key pair of Listener {name}" for name, _, _ in own),
        *(f"peer {peer['PublicKey']} of Listener {name}" for name, peer, _ in peers),
        *(["Tag keys"] if keys else []),
    ]


def _document(db: sqlite3.Connection, path: Path, secrets: bool) -> dict[str, Any]:
    found = version(db)
    if not found:
        raise StateError(f"{path} is not the state of a gateway, name its configuration or state file")
    if found != LATEST:
        raise StateError(
            f"the state {path} has the schema {found} and this version knows {LATEST}, start the gateway once first"
        )
    document: dict[str, Any] = {
        "Format": FORMAT,
        "Resources": _resources(db, path, secrets),
        "Decisions": [
            {"PacketSource": source, "Listener": listener, "Decision": decision, "By": by}
            for source, listener, decision, by in db.execute(
                "SELECT source, listener, decision, decided_by FROM approvals ORDER BY source"
            )
        ],
        "Ports": [
            {"Name": name, "Port": port}
            for name, port in db.execute(
                "SELECT name, port FROM listeners WHERE port IS NOT NULL AND released_at IS NULL ORDER BY id"
            )
        ],
        "Topics": [arn for (arn,) in db.execute("SELECT arn FROM topics ORDER BY created_at, rowid")],
        "TopicAttributes": {
            arn: json.loads(text)
            for arn, text in db.execute(
                "SELECT arn, attributes FROM topics WHERE attributes != '{}' ORDER BY arn"
            )
        },
        "WireGuardKeys": _listener_keys(db, path, secrets),
        "WireGuardPeers": _peers(db, path, secrets),
        "PeerEndpoints": _endpoints(db),
        "StampMarks": [{"PublicKey": one.public_key, "Mark": one.until} for one in stamps.marks(db)],
    }
    document["SourceQueues"] = [asdict(SourceQueue(*row)) for row in db.execute(SOURCE_QUEUES)]
    document["SourceDocuments"] = {name: json.loads(text) for name, text in db.execute(SOURCE_DOCUMENTS)}
    if secrets:
        rows = db.execute("SELECT id, key FROM tag_keys ORDER BY created_at, id")
        document["TagKeys"] = [{"Id": number, "Key": key.hex()} for number, key in rows]
    return document


def _resources(db: sqlite3.Connection, path: Path, secrets: bool) -> list[dict[str, Any]]:
    vault = Vault(path.with_name(path.name + ".key"))
    resources = []
    for kind, name, text, sealed, local_code in db.execute(
        "SELECT kind, name, document, secrets, local_code FROM resources ORDER BY rowid"
    ):
        one = {"Kind": kind, "Name": name, "Document": json.loads(text)}
        if folders := json.loads(local_code):
            one["LocalCode"] = folders
        if sealed and secrets:
            one["Secrets"] = json.loads(vault.unseal(sealed, f"{kind} {name}"))
        elif sealed:
            one["SecretsLeftOut"] = True
        resources.append(one)
    return resources


def _listener_keys(db: sqlite3.Connection, path: Path, secrets: bool) -> list[dict[str, Any]]:
    vault = Vault(path.with_name(path.name + ".key"))
    rows = db.execute(
        "SELECT name, sealed, token FROM listener_keys JOIN listeners ON listeners.id = listener ORDER BY id"
    )
    return [
        {
            "Listener": name,
            "PrivateKey": vault.unseal(sealed, key_label(name)).decode() if secrets else None,
            "KeyRefreshToken": token,
        }
        for name, sealed, token in rows
    ]


def _peers(db: sqlite3.Connection, path: Path, secrets: bool) -> list[dict[str, Any]]:
    vault = Vault(path.with_name(path.name + ".key"))
    found = []
    for name, key, text, sealed in db.execute(
        "SELECT name, public_key, document, secret FROM peers JOIN listeners ON listeners.id = listener "
        "ORDER BY id, public_key"
    ):
        one: dict[str, Any] = {"Listener": name, "Peer": json.loads(text)}
        if sealed and secrets:
            one["SharedSecret"] = vault.unseal(sealed, peer_label(name, key)).decode()
        elif sealed:
            one["SecretsLeftOut"] = True
        found.append(one)
    return found


def _endpoints(db: sqlite3.Connection) -> list[dict[str, Any]]:
    by_listener: dict[str, list[Any]] = {}
    for name, memory in db.execute(
        "SELECT name, memory FROM peer_memories JOIN listeners ON listeners.id = listener ORDER BY id, public_key"
    ):
        by_listener.setdefault(name, []).append(json.loads(memory))
    return [{"Listener": name, "Peers": memories} for name, memories in by_listener.items()]
