"""The native data plane: Rust touches packets, Python touches batches (`docs/architecture.md`)."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import final

__all__ = [
    "Batch",
    "Completion",
    "Dataplane",
    "Events",
    "NativeError",
    "Port",
    "Reader",
    "brex_error",
    "brex_trace",
    "canonical_public_key",
    "format_tag_key",
    "generate_private_key",
    "public_key",
    "reasons",
    "seal",
    "special_purpose",
    "unseal",
]

class NativeError(Exception):
    """A Listener could not be opened. `args`: what was tried ("bind 0.0.0.0:2048"), and the kernel's errno or None."""

@final
class Dataplane:
    """One I/O thread that serves every Listener of this gateway.

    `spec_json`: `{"Node": int, "Region": str, "TagKeys": [{"Id": 0..15, "Key": "64 hex digits"}], "TagSeconds": int,
    "Answers": {"RefusePorts": [int], "LoopGuard": bool, "LoopExempt": [cidr], "PerSecond": float | null}}`; without
    `Answers` nothing is refused. The last key seals, every key opens. Raises `ValueError` for a spec that does not fit.
    """

    def __new__(cls, spec_json: str) -> Dataplane: ...
    def open(self, spec_json: str) -> Port:
        """Bind a Listener and start to serve it. `NativeError(attempt, errno)` when the kernel refuses."""

    @property
    def routes_error(self) -> str | None:
        """Why the kernel does not tell changes of its routes, or None: then it tells them. Otherwise the addresses of
        this machine, to which no Listener sends where another one listens, are looked up every 10 seconds."""

    def close(self) -> None:
        """Close every Port and end the thread. Safe to call twice."""

    def fileno(self) -> int:
        """Readable as long as `dispatch` has somebody to call: the one descriptor for everything that waits."""

    def set_waiting(self, entries: int) -> None:
        """So many entries wait for their `SendAt`, as known from before this start."""

    def leave_waiting(self, entries: int) -> None:
        """So many of them wait no more, and are not handed to a Port."""

    def dispatch(self) -> None:
        """Call each callback of `on_ready`, `on_completions` and `on_peer_changes` whose moment it is, once.

        A callback is called again and again until it has read what there is, or is taken back. One that raises keeps no
        other from its call; the first exception is raised afterwards."""

@final
class Port:
    """One Listener's socket. Its state belongs to the I/O thread; every call here is a message to it.

    Spec: `{"Id": int, "Name": str, "Domain": str, "Bind": "ip:port", "DualStack": bool,
    "Multicast": {"Groups": [ip], "Interface": int}, "ClientNetworks": [cidr],
    "SessionIdleSeconds": float, "SessionLimit": int, "RingBytes": int,
    "Destinations": [{"Name", "Formatter", "Count", "TimeoutSeconds", "SizeBytes", "QueueBytes", "Bound": bool,
    "Removed": bool}],
    "Sources": [{"Name", "EgressNetworks": [cidr], "DefaultTtlSeconds": float | null, "HoldSeconds": float,
    "RateLimit": {"PacketsPerSecond", "Burst", "PerRemotePacketsPerSecond"} | null, "RequireSession": bool,
    "DedupSeconds": float, "DedupLimit": int, "Removed": bool}],
    "WireGuard": {"PrivateKey": base64, "Peers": [{"PublicKey", "AllowedIPs": [cidr], "SharedSecret": base64 | null,
    "PersistentKeepaliveSeconds": int}], "AllowUnknownPeers": bool, "UnknownPeerPreSharedKey": base64 | null,
    "DecapsulatedDelivery": bool, "Known": [what `peer_changes` gave], "StampFloor": int, "StampReserved": int} |
    null, "Coap": {"Deduplicate": bool, "AcknowledgeAfter": float | null} | null}`; `Removed`, `WireGuard`, `Coap` and
    the stamps may be left out. Handshakes have stamps above `StampFloor`, and up to `StampReserved` (Unix nanoseconds)
    without asking.
    """

    @property
    def local_address(self) -> tuple[str, int]:
        """`(ip, port)` as bound."""

    @property
    def receive_buffer(self) -> tuple[int, int]:
        """`(asked, given)`: bytes of the socket's receive buffer. The kernel gives less where `net.core.rmem_max` is
        lower and the process has no CAP_NET_ADMIN."""

    def reader(self, destination: int) -> Reader:
        """The queue of ready batches of the Destination with this index in the spec."""

    def reply(self, destination: int, request_id: str, body: bytes) -> bool:
        """Queue a handler's answer (`{"Replies": [...]}`, contract section 3). False: the ring is full, try later."""

    def submit(self, messages: Sequence[_Submission]) -> int:
        """Queue sourced messages in order; how many were taken. The rest did not fit into the ring: try later."""

    def submit_due(self, messages: Sequence[tuple[_Submission, tuple[int, Sequence[str], bool]]]) -> int:
        """Queue entries whose `SendAt` has come, each alone and flat in its body: `(its index in its message, the Ids
        that were given with it, True if it is late)`. Of `Remotes`, those that are null are left out. Late ones wait
        for their turn for longer than `HoldSeconds`."""

    def on_completions(self, callback: _Callback | None) -> None:
        """Call `callback` while `completions` or `sent_ids` has something; room in a full ring comes free with the
        former. None: no more."""

    def completions(self) -> list[Completion]:
        """Every message and reply document of which all entries have ended since the last call."""

    def sent_ids(self) -> list[tuple[int, str]]:
        """`(source, id)` of the entries that were sent since the last call, for the journal (contract 4.3), also of
        messages that have not ended. Ask after `completions`: then those of each completion are among them."""

    def remember(self, ids: Sequence[tuple[int, str, float]]) -> None:
        """`(source, id, seconds ago)` of entries sent before this start, oldest first: duplicates from now on. Less
        than 0 seconds: it is to be sent later."""

    def update(self, spec_json: str) -> None:
        """Put this spec in the place of the one before; the socket stays (`Bind`, `DualStack` and `WireGuard` are not
        looked at: `change_peers` changes peers),
        and so do sessions, counters, queues and remembered Ids of everything that stays.

        Everybody calls Destinations and PacketSources by their places in the spec, so each keeps its own: new ones come
        at the end or where a removed one was of which nothing is left. A Destination that becomes `Removed` gets no
        more packets, and its Reader reports `closed` once it has been read empty. `ValueError` if that is not kept;
        then nothing has changed.
        """

    def peers(self, after: str | None, limit: int) -> bytes:
        """The peers of a `wg` Listener that are listed or there, in the order of their keys, at most `limit` from the
        one that follows `after` on (`ValueError` if that is no key): a JSON list of `{"PublicKey", "Configured": bool,
        "Endpoint": "ip:port" | null, "LastHandshakeMs": Unix milliseconds or 0, "ReceivedBytes", "SentBytes",
        "Session": bool, "StampAheadSeconds": int | null, "StampLacksSeconds": int | null}`. The last two: how far the
        peer's greatest stamp is ahead of this machine's clock, and how far the handshakes that were refused since are
        below that stamp."""

    def change_peers(self, change_json: str) -> None:
        """Change the peers of a `wg` Listener; sessions of those that stay go on, those of removed ones end at once.

        `{"Set": [peer], "Remove": [public key], "ForgetStamps": [public key], "Unknown": {"AllowUnknownPeers": bool,
        "UnknownPeerPreSharedKey": str | null} | null}`, peers as in the spec. The handshakes of those in `ForgetStamps`
        may have any stamp again.
        """

    def on_peer_changes(self, callback: _Callback | None) -> None:
        """Call `callback` while `peer_changes` or `stamp_wanted` has something. None: no more."""

    def peer_changes(self) -> bytes:
        """What is to be kept of peers over a restart and has changed since the last call, as a JSON list for `Known`.
        One without `Remote` is to be forgotten. Also after the Port's end."""

    def stamp_wanted(self) -> int | None:
        """The greatest stamp that handshakes of a `wg` Listener wanted since the last call and that is not reserved, in
        Unix nanoseconds. They go on meanwhile, with lower ones."""

    def reserve_stamps(self, until: int) -> None:
        """Let handshakes with this Listener's key have all stamps up to `until` (Unix nanoseconds), which is written
        down."""

    def events(self, filter_json: str) -> Events:
        """Watch this Listener's packets until the result is closed. Costs nothing while nobody does.

        Filter: `{"Events": [name] | null, "Remotes": [cidr] | null, "Port": int | null, "Rate": events per second}`;
        names are PacketReceived, PacketRejected, ReplySent, PacketSourced, IcmpError, InnerSourceRefused,
        LoopSuspected, KernelDropped, PeerClockDiffers, ProtocolSendFailed and LocalAddressGone.
        """

    def stats(self) -> str:
        """Counters as JSON; monotonic since `open`. Shape: `docs/architecture.md`, "Counters"."""

    def stop(self) -> None:
        """Take what has arrived, close the open batches, and receive no more; sending goes on. Each Reader reports
        `closed` once it has been read empty."""

    def close(self, drain_seconds: float) -> None:
        """`stop`, then send what is queued for at most `drain_seconds`; what is left fails. Closes the socket.

        Blocks (without the interpreter's lock)."""

_Callback = Callable[[], object]
"""Called by `Dataplane.dispatch`. It is held until it is taken back or the `Dataplane` is closed, and the garbage
collector does not see it: take it back."""

_Submission = tuple[str, float | None, int, bytes, tuple[str, str] | None]
"""`(message_id, published_at, source, body, refusal)`: `published_at` in Unix seconds or None; `source` is the index in
the spec; with a `refusal` `(reason, detail)` every entry of the body fails so, and nothing is sent."""

@final
class Reader:
    def on_ready(self, callback: _Callback | None) -> None:
        """Call `callback` while `read` has something, and for good once closed. None: no more."""

    def read(self, limit: int) -> list[Batch]:
        """Up to `limit` ready batches, oldest first. Never blocks."""

    @property
    def closed(self) -> bool:
        """True when the Port is closed and everything has been read."""

@final
class Batch:
    """Packets of one Destination, formatted."""

    @property
    def count(self) -> int: ...
    def body(self) -> bytes:
        """The packets as one JSON object, `{"Messages":[…]}` (contract section 2)."""

    def records(self) -> list[bytes]:
        """The packets, each as one JSON RequestPacket."""

    def lines(self) -> bytes:
        """The packets as NDJSON: one JSON RequestPacket a line."""

    def values(self, name: str) -> list[str | None]:
        """What the expression of the argument `name` says of each packet; None for null, and where the batch was begun
        without that expression."""

@final
class Events:
    """Events of one Listener (contract section 6) as lines of JSON, filtered, at most `Rate` a second. What was left
    out is told by an `EventsSkipped` with its number in `Suppressed`."""

    def on_ready(self, callback: _Callback | None) -> None:
        """Call `callback` while `read` has something, and for good once the Listener is gone. None: no more."""

    def read(self) -> bytes:
        """Whole lines since the last call. Never blocks."""

    @property
    def closed(self) -> bool:
        """True when the Listener is gone and everything has been read."""

    def close(self) -> None:
        """Stop watching. Safe to call twice."""

@final
class Completion:
    """A message (or a handler's answer) of which every entry has ended:
    `entries == sent + duplicates + len(failures) + len(scheduled)`."""

    @property
    def message_id(self) -> str: ...
    @property
    def source(self) -> int | None:
        """Index of the PacketSource, None for a handler's answer."""

    @property
    def destination(self) -> int | None:
        """Index of the Destination whose handler answered, None for a sourced message."""

    @property
    def entries(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def failures(self) -> list[tuple[int | None, str, str]]:
        """`(index of the entry or None for the whole body, reason of contract 4.5, detail)`."""

    @property
    def scheduled(self) -> list[tuple[int, int | None, int, str | None]]:
        """`(index, place in Remotes or None, SendAt in Unix milliseconds, Id by which it is remembered or None)` of
        what is to be sent later: to be kept, and handed to `submit_due` then."""

    @property
    def remote_indexes(self) -> list[int | None]:
        """For each failure its place in the entry's `Remotes`, None where the entry failed as a whole; empty if none
        has such a place."""

def seal(key: bytes, plain: bytes, about: str) -> bytes:
    """`plain` sealed under a key of 32 bytes (AES-256-GCM); `about` says what it is, and is sealed with it."""

def unseal(key: bytes, sealed: bytes, about: str) -> bytes:
    """What `seal` sealed. `ValueError` under another key, for another `about`, or when it was altered."""

def generate_private_key() -> str:
    """A new WireGuard private key in base64."""

def public_key(private_key: str) -> str:
    """The public key that belongs to it. `ValueError` if it is no key."""

def canonical_public_key(key: str) -> str | None:
    """The spelling of a public key that `wg pubkey` prints: X25519 reads up to four as one key (RFC 7748, section 5).
    None for a key of low order, all zeros among them: it belongs to no private key. `ValueError` if it is no key."""

def brex_error(text: str) -> tuple[int, str, str] | None:
    """What is wrong with a BREX expression (`docs/reference/brex.md`): the column from 1, cause, fix. None: nothing."""

def brex_trace(
    text: str, packet: bytes, formatter: str
) -> tuple[list[tuple[str, str | None]], str | None, bool | None, bool]:
    """What a BREX expression says of a packet: its parts with their values, its value, whether that counts as true, and
    whether the packet would have cost too much. None is null; bytes are shown in `formatter`. `ValueError` if it is no
    expression."""

def reasons() -> dict[str, list[str]]:
    """The words under which a Listener counts: `Failed` (entries and replies that were not sent, contract 4.5),
    `Dropped`, `IcmpErrors`, and `Rejected`, with those of `wg` Listeners apart as `RejectedByWireGuard`, and those
    of Listeners with `Coap` as `RejectedByCoap`."""

def special_purpose(address: IPv4Address | IPv6Address) -> tuple[str, bool] | None:
    """What is special about an address, as the end of "it is …", and True if answers go there as to any client (private
    networks, loopback); None for an ordinary address (contract 4.4)."""

def format_tag_key() -> str:
    """A new random Tag key: 64 hex digits."""
