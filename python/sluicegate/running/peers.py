"""What a WireGuard Listener has beside the others: its key, its peers, and what is remembered of them."""

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from sluicegate import _native
from sluicegate.events import EventLog
from sluicegate.events.native import NativeEvents
from sluicegate.events.times import iso_milliseconds
from sluicegate.model import Listener, Peer
from sluicegate.model.publickey import own_key_among
from sluicegate.running.documents import Refused
from sluicegate.state import KeyPair, StampBlock, StampMark, StateError, WireGuardTable
from sluicegate.state.stamps import mark_after
from sluicegate.state.wireguard import Memory

WRITE_SECONDS = 0.3
"""Seconds that changes are gathered before they are written: they must be on disk within a second (contract 5)."""
RETRY_SECONDS = 5.0
"""Seconds until the next attempt when the state could not be written."""
REFUSALS_RATE = 10
"""Most peers a second whose first refused packet, or whose clock, is reported."""


def own_key(listener: Listener, table: WireGuardTable) -> KeyPair:
    """The Listener's key pair: of the private key that it was given, else the one that the gateway made for it, or a
    new one if its `key_refresh_token` has changed. `StateError`."""
    if listener.private_key is not None:
        return KeyPair(listener.private_key.get_secret_value(), None, kept=True)
    return table.key_pair(listener.name, listener.key_refresh_token)


def refuse_own_key(listener: Listener, public_key: str) -> None:
    """Refuse a peer with the public key of its own Listener. Raises `Refused`."""
    keys = ((("peers", index, "public_key"), peer.public_key) for index, peer in enumerate(listener.peers))
    found = own_key_among(keys, public_key)
    if found is not None:
        raise Refused(found.of(Listener, listener.name))


def keyless(listeners: Iterable[Listener]) -> dict[str, str | None]:
    """The names of those for which the gateway makes a key, with their tokens."""
    wanted = (one for one in listeners if one.protocol == "wg" and one.private_key is None)
    return {one.name: one.key_refresh_token for one in wanted}


def reserve_stamps(
    listeners: Iterable[Listener], table: WireGuardTable, events: EventLog
) -> Mapping[str, StampBlock]:
    """The stamps of handshakes for Listeners that are to be opened, by public key: one write for all of them. Where the
    state cannot be written, that is reported, and handshakes go on by the clock, above the stamps of before. Blocks."""
    keys = set[str]()
    for listener in listeners:
        with suppress(StateError):  # reported when the Listener is opened
            if listener.protocol == "wg" and (pair := own_key(listener, table)).kept:
                keys.add(_native.public_key(pair.private))
    try:
        return table.reserve_stamps(keys)
    except StateError as error:
        detail = f"the stamps of handshakes with {len(keys)} keys: {error}"
        events.emit("PeersNotKept", Reason="WriteFailed", Detail=detail)
        return table.used_stamps(keys)


def wireguard_spec(
    listener: Listener, private_key: str, table: WireGuardTable, block: StampBlock
) -> orjson.Fragment:
    """The native side's view of a `wg` Listener, as JSON: there may be too many peers to hold them all as objects.

    `StateError`; blocks.
    """
    head = {
        "PrivateKey": private_key,
        "StampFloor": block.floor,
        "StampReserved": block.until,
        **_unknown(listener),
        "DecapsulatedDelivery": listener.decapsulated_delivery,
    }
    peers = [_items(peer_spec(peer) for peer in listener.peers)]
    peers += [
        _items(_spec_of(document, secret) for document, secret in some) for some in table.peers(listener.name)
    ]
    known = (memory for some in table.memories(listener.name) for memory in some)
    whole = b'%b,"Peers":[%b],"Known":[%b]}' % (
        orjson.dumps(head)[:-1],
        b",".join(filter(None, peers)),
        ",".join(known).encode(),
    )
    return orjson.Fragment(whole)


def peer_spec(peer: Peer) -> dict[str, object]:
    """The native side's view of a peer."""
    return {
        "PublicKey": peer.public_key,
        "AllowedIPs": peer.allowed_ips,
        "SharedSecret": secret_of(peer),
        "PersistentKeepaliveSeconds": peer.persistent_keepalive_seconds,
    }


def _spec_of(document: Mapping[str, Any], secret: str | None) -> dict[str, object]:
    """The native side's view of a peer that was kept as a document."""
    names = ("PublicKey", "AllowedIPs", "PersistentKeepaliveSeconds")
    return {name: document[name] for name in names} | {"SharedSecret": secret}


def secret_of(peer: Peer) -> str | None:
    """The pre-shared key of a peer; None if it has none."""
    return peer.shared_secret.get_secret_value() if peer.shared_secret else None


class PeerKeeper:
    """Writes down where a Listener's peers are, within a second of a change, and the mark of its key, when a handshake
    lies above it. Reports the first packet of each peer that its AllowedIPs refuse, and peers whose clock is not right.
    Belongs to the event loop."""

    def __init__(
        self, port: _native.Port, listener: str, public_key: str, table: WireGuardTable, events: EventLog
    ) -> None:
        self._port = port
        self._listener = listener
        self._public_key = public_key
        self._table = table
        self._events = events
        self._pending: dict[str, Memory] = {}
        self._mark: StampMark | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._refusals: NativeEvents | None = None

    def start(self) -> None:
        """Begin to write changes down, until `close`."""
        refusals = json.dumps({"Events": ["InnerSourceRefused", "PeerClockDiffers"], "Rate": REFUSALS_RATE})
        self._refusals = NativeEvents(self._port, refusals, self._events.forward)
        self._port.on_peer_changes(self._changed)

    def change(self, before: Listener, after: Listener) -> None:
        """Change the Listener's peers. Sessions of removed peers are cut at once; the others go on."""
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
        self._port.on_peer_changes(None)
        self._closing.set()
        if self._refusals is not None:
            self._refusals.close()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._write()

    def _changed(self) -> None:
        if self._task is None or self._task.done():
            self._port.on_peer_changes(None)
            self._task = asyncio.create_task(self._write_soon(), name=f"peers of {self._listener}")

    async def _write_soon(self) -> None:
        pause = WRITE_SECONDS
        while pause and not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
            written = await self._write()
            more = WRITE_SECONDS if self._pending or self._mark else 0.0
            pause = more if written else RETRY_SECONDS
        if not self._closing.is_set():
            self._port.on_peer_changes(self._changed)

    async def _write(self) -> bool:
        """Write the changes. False if the state could not be written: the changes then wait."""
        taken = json.loads(await asyncio.to_thread(self._port.peer_changes))
        self._pending |= {one["PublicKey"]: one for one in taken}
        writing, self._pending = self._pending, {}
        wanted = self._port.stamp_wanted()
        mark = mark_after(self._public_key, wanted) if wanted is not None else self._mark
        if not writing and mark is None:
            return True
        try:
            await asyncio.to_thread(self._table.remember, self._listener, list(writing.values()), mark)
        except StateError as error:
            self._pending, self._mark = writing | self._pending, mark
            what = f"the endpoints of {len(writing)} peers" if writing else "the stamps of handshakes"
            detail = f"{what}: {error}"
            self._events.emit("PeersNotKept", Listener=self._listener, Reason="WriteFailed", Detail=detail)
            return False
        self._mark = None
        if mark is not None:
            self._port.reserve_stamps(mark.until)
        return True


def _unknown(listener: Listener) -> dict[str, object]:
    secret = listener.unknown_peer_pre_shared_key
    return {
        "AllowUnknownPeers": listener.allow_unknown_peers,
        "UnknownPeerPreSharedKey": secret.get_secret_value() if secret else None,
    }


def peer_views(
    listener: Listener, table: WireGuardTable, statuses: Collection[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Peers as the API shows them: without secrets. `StateError`; blocks."""
    listed = {peer.public_key: peer for peer in listener.peers}
    keys = [one["PublicKey"] for one in statuses]
    added = table.peers_among(listener.name, [key for key in keys if key not in listed])
    documents = {key: listed[key].dump() for key in keys if key in listed} | added
    return [
        documents.get(one["PublicKey"], {"PublicKey": one["PublicKey"]}) | _status(one) for one in statuses
    ]


def _items(values: Iterable[object]) -> bytes:
    return orjson.dumps(list(values))[1:-1]


def _status(status: Mapping[str, Any]) -> dict[str, Any]:
    handshake = status["LastHandshakeMs"]
    return {
        "Configured": status["Configured"],
        "Endpoint": _endpoint(status["Endpoint"]),
        "LastHandshakeAt": iso_milliseconds(handshake / 1000) if handshake else None,
        "ReceivedBytes": status["ReceivedBytes"],
        "SentBytes": status["SentBytes"],
        "Session": status["Session"],
        "ClockAheadSeconds": status["StampAheadSeconds"],
        "ClockBehindSeconds": status["StampLacksSeconds"],
    }


def _endpoint(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    return {"IpAddress": host.strip("[]"), "Port": int(port)}
