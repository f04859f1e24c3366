//! What a session makes of a packet: one that has arrived, and one that is to leave.

use crate::{
    coap::exchange::Way,
    inner::Inner,
    outgoing::{To, ToPeer},
    reason::Rejected,
    session::wireguard::keys::{PeerId, PublicKey},
    tag::{PeerAddress, ReturnAddress, TagKeys, TagSealer, TagText},
};
use std::net::{IpAddr, SocketAddr};

/// What became of a datagram.
pub enum Arrived<'a> {
    /// A packet for Destinations.
    Packet(Delivery<'a>),
    /// The protocol's own, or answered by us.
    Protocol,
    /// Nothing to deliver.
    Refused(Rejected),
    /// This peer sent what its AllowedIPs refuse: this inner source, or what is no IP packet.
    RefusedInner(PeerId, Option<IpAddr>),
}

/// A packet for Destinations.
pub struct Delivery<'a> {
    /// The peer that sent the packet, where the sender is more than an address.
    pub peer: Option<FromPeer>,
    /// The payload that Destinations get.
    pub payload: &'a [u8],
}

/// The peer that sent a packet.
pub struct FromPeer {
    /// The peer's name in messages.
    pub key: PublicKey,
    /// The peer's short name.
    pub id: PeerId,
    /// The packet's inner addresses, if the payload was taken out of one.
    pub inner: Option<Inner>,
}

impl Delivery<'_> {
    /// How to answer the packet, which came from `remote` to `local`.
    pub fn way_back(&self, local: IpAddr, remote: SocketAddr) -> Way {
        match &self.peer {
            None => Way { to: To::Remote { local: Some(local), remote }, inner: None },
            Some(FromPeer { key, id, inner }) => {
                Way { to: To::Peer(ToPeer { key: *key, peer: *id, given: None, pad: false }), inner: *inner }
            }
        }
    }

    /// The Tag that answers the packet: it leads to the peer, or else to `address`.
    pub fn seal_tag(&self, sealer: &mut TagSealer, keys: &TagKeys, address: &ReturnAddress) -> TagText {
        let &ReturnAddress { listener, node, expires, .. } = address;
        match self.peer {
            None => sealer.seal(keys, address),
            Some(FromPeer { id, inner, .. }) => {
                sealer.seal_peer(keys, &PeerAddress { listener, node, expires, peer: id, inner })
            }
        }
    }
}

/// When a packet may leave.
pub enum Departure {
    /// At once.
    Now,
    /// When there is a session with this peer.
    AfterHandshake(PeerId),
}
