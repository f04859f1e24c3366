//! Per-packet events, made only while somebody watches (contract section 6).

use crate::{
    document::Origin,
    reason::{Reason, Rejected},
    session::wireguard::keys::PublicKey,
};
use std::net::{IpAddr, SocketAddr};

/// Which kinds somebody watches: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(pub u16);

impl Kinds {
    /// A datagram was admitted.
    pub const PACKET_RECEIVED: Kinds = Kinds(1);
    /// A datagram was refused.
    pub const PACKET_REJECTED: Kinds = Kinds(2);
    /// A handler's answer left.
    pub const REPLY_SENT: Kinds = Kinds(4);
    /// A sourced packet left.
    pub const PACKET_SOURCED: Kinds = Kinds(8);
    /// An ICMP error came back.
    pub const ICMP_ERROR: Kinds = Kinds(16);
    /// A peer sent what its AllowedIPs refuse, for the first time.
    pub const INNER_REFUSED: Kinds = Kinds(32);
    /// Answers to a remote are limited from now on.
    pub const LOOP_SUSPECTED: Kinds = Kinds(64);
    /// The kernel dropped datagrams.
    pub const KERNEL_DROPPED: Kinds = Kinds(128);
    /// A peer's clock is ahead, or its handshakes are refused because it was.
    pub const PEER_CLOCK: Kinds = Kinds(256);
    /// The kernel refused a datagram of the protocol's own.
    pub const PROTOCOL_SEND_FAILED: Kinds = Kinds(512);
    /// The address that packets were to leave from is gone.
    pub const LOCAL_ADDRESS_GONE: Kinds = Kinds(1_024);

    /// Each kind with the name of its event.
    pub const NAMES: [(Kinds, &'static str); 11] = [
        (Kinds::PACKET_RECEIVED, "PacketReceived"),
        (Kinds::PACKET_REJECTED, "PacketRejected"),
        (Kinds::REPLY_SENT, "ReplySent"),
        (Kinds::PACKET_SOURCED, "PacketSourced"),
        (Kinds::ICMP_ERROR, "IcmpError"),
        (Kinds::INNER_REFUSED, "InnerSourceRefused"),
        (Kinds::LOOP_SUSPECTED, "LoopSuspected"),
        (Kinds::KERNEL_DROPPED, "KernelDropped"),
        (Kinds::PEER_CLOCK, "PeerClockDiffers"),
        (Kinds::PROTOCOL_SEND_FAILED, "ProtocolSendFailed"),
        (Kinds::LOCAL_ADDRESS_GONE, "LocalAddressGone"),
    ];

    /// True if both have a kind in common.
    pub fn meets(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// All kinds of both.
    pub fn union(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// The event's name, for a single kind.
    pub fn name(self) -> &'static str {
        Kinds::NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// Something happened to one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// One kind.
    pub kind: Kinds,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// The other side.
    pub remote: Option<SocketAddr>,
    /// Payload size.
    pub bytes: Option<usize>,
    /// The fields that only this kind has.
    pub about: About,
}

/// Fields that only some kinds of events have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The packet's Tag.
    Received(String),
    /// Why the datagram was rejected.
    Rejected(Rejected),
    /// An entry of a document.
    Sent {
        /// The PacketSource or Destination that sent the document.
        origin: Origin,
        /// The document's id.
        document: String,
        /// The entry's place in it.
        index: u32,
        /// The place in the entry's `Remotes`, if it has them.
        remote_index: Option<u32>,
        /// The entry's own Id.
        id: Option<String>,
    },
    /// The kernel's name for the ICMP error.
    Icmp(&'static str),
    /// So many datagrams did not fit into the receive buffer.
    KernelDropped(u64),
    /// The peer, and the inner source of its packet, which is no IP packet if it has none.
    InnerRefused(PublicKey, Option<IpAddr>),
    /// The peer, and what its handshake tells of its clock.
    PeerClock(PublicKey, PeerClock),
    /// The remote has returned many answers in a row.
    Loop,
    /// Why a datagram of the protocol's own was not sent.
    ProtocolFailed(Reason, String),
    /// The address of this machine that is gone.
    LocalAddressGone(IpAddr),
}

/// What a peer's stamps tell of its clock, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerClock {
    /// A handshake was accepted whose stamp is so far ahead of our clock.
    Ahead(u64),
    /// A handshake was refused whose stamp is lower than the greatest one that the peer has used.
    Behind {
        /// How far it is below that one.
        lacks: u64,
        /// How far that one is ahead of our clock; 0 if it is not.
        ahead: u64,
    },
}
