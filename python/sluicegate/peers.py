"""What a WireGuard Listener has beside the others: its key, its peers, and what is remembered of them."""

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any

from . import _native
from .events import EventLog
from .events.times import iso_milliseconds
from .model import Listener, Peer
from .state import StateError, WireGuardTable
from .state.wireguard import Memory

WRITE_SECONDS = 0.3
"""How long changes are gathered before they are written: all of it must be on disk within a second (contract 5)."""
RETRY_SECONDS = 5.0
"""The same, after a disk refused."""


def own_key(listener: Listener, table: WireGuardTable) -> str:
    """The Listener's private key: the one it was given, else the one that the gateway made for it. `StateError`."""
    if listener.private_key is not None:
        return listener.private_key.get_secret_value()
    return table.private_key(listener.name)


def wireguard_spec(listener: Listener, table: WireGuardTable) -> dict[str, object]:
    """The native side's view of a `wg` Listener. `StateError`; blocks."""
    return {
        "PrivateKey": own_key(listener, table),
        "Peers": [peer_spec(peer) for peer in listener.peers],
        **_unknown(listener),
        "DecapsulatedDelivery": listener.decapsulated_delivery,
        "Known": known_peers(listener, table),
    }


def peer_spec(peer: Peer) -> dict[str, object]:
    """The native side's view of a peer."""
    return {
        "PublicKey": peer.public_key,
        "AllowedIPs": peer.allowed_ips,
        "SharedSecret": peer.shared_secret.get_secret_value() if peer.shared_secret else None,
        "PersistentKeepaliveSeconds": peer.persistent_keepalive_seconds,
    }


def known_peers(listener: Listener, table: WireGuardTable) -> list[Memory]:
    """What was remembered of peers that may still speak to the Listener. `StateError`; blocks."""
    memories = table.memories(listener.name)
    if listener.allow_unknown_peers:
        return memories
    keys = {peer.public_key for peer in listener.peers}
    table.forget(listener.name, [one["PublicKey"] for one in memories if one["PublicKey"] not in keys])
    return [one for one in memories if one["PublicKey"] in keys]


class PeerKeeper:
    """Writes down where a Listener's peers are, within a second of a change. Belongs to the event loop."""

    def __init__(self, port: _native.Port, listener: str, table: WireGuardTable, events: EventLog) -> None:
        self._port = port
        self._listener = listener
        self._table = table
        self._events = events
        self._pending: dict[str, Memory] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on, until `close`."""
        asyncio.get_running_loop().add_reader(self._port.peer_changes_fileno(), self._changed)

    def change(self, before: Listener, after: Listener) -> None:
        """Other peers from here on: sessions of those that are removed end at once, the others' go on."""
        old = {peer.public_key: peer for peer in before.peers}
        new = {peer.public_key: peer for peer in after.peers}
        removed = [key for key in old if key not in new]
        change: dict[str, object] = {
            "Remove": removed,
            "Set": [peer_spec(peer) for key, peer in new.items() if old.get(key) != peer],
        }
        if _unknown(before) != _unknown(after):
            change["Unknown"] = _unknown(after)
        if any(change.values()):
            self._port.change_peers(json.dumps(change))
            self._pending |= {key: {"PublicKey": key, "Remote": None} for key in removed}
            self._changed()

    async def close(self) -> None:
        """Write the last changes."""
        asyncio.get_running_loop().remove_reader(self._port.peer_changes_fileno())
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._write()

    def _changed(self) -> None:
        if self._task is None or self._task.done():
            asyncio.get_running_loop().remove_reader(self._port.peer_changes_fileno())
            self._task = asyncio.create_task(self._write_soon(), name=f"peers of {self._listener}")

    async def _write_soon(self) -> None:
        pause = WRITE_SECONDS
        while pause:
            await asyncio.sleep(pause)
            pause = 0 if await self._write() else RETRY_SECONDS
        asyncio.get_running_loop().add_reader(self._port.peer_changes_fileno(), self._changed)

    async def _write(self) -> bool:
        """False if the state refused; the changes wait then."""
        taken = json.loads(await asyncio.to_thread(self._port.peer_changes))
        self._pending |= {one["PublicKey"]: one for one in taken}
        writing, self._pending = self._pending, {}
        if not writing:
            return True
        try:
            await asyncio.to_thread(self._table.remember, self._listener, list(writing.values()))
        except StateError as error:
            self._pending = writing | self._pending
            detail = f"the endpoints of {len(writing)} peers: {error}"
            self._events.emit("PeersNotKept", Listener=self._listener, Reason="WriteFailed", Detail=detail)
            return False
        return True


def _unknown(listener: Listener) -> dict[str, object]:
    secret = listener.unknown_peer_pre_shared_key
    return {
        "AllowUnknownPeers": listener.allow_unknown_peers,
        "UnknownPeerPreSharedKey": secret.get_secret_value() if secret else None,
    }


def peer_views(listener: Listener, statuses: Collection[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every peer that is listed or there, as the API shows it: without secrets."""
    listed = {peer.public_key: peer.dump() for peer in listener.peers}
    by_key = {one["PublicKey"]: one for one in statuses}
    keys = [*listed, *(key for key in by_key if key not in listed)]
    return [listed.get(key, {"PublicKey": key}) | _status(by_key.get(key, {}), key in listed) for key in keys]


def _status(status: Mapping[str, Any], listed: bool) -> dict[str, Any]:
    handshake = status.get("LastHandshakeMs") or None
    return {
        "Configured": listed,
        "Endpoint": _endpoint(status.get("Endpoint")),
        "LastHandshakeAt": iso_milliseconds(handshake / 1000) if handshake else None,
        "ReceivedBytes": status.get("ReceivedBytes", 0),
        "SentBytes": status.get("SentBytes", 0),
        "Session": status.get("Session", False),
    }


def _endpoint(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    return {"IpAddress": host.strip("[]"), "Port": int(port)}
