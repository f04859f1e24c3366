//! Datagrams that wait for the socket, and how many of them may leave together.

use crate::{
    Now, dedup,
    pacing::Recipient,
    payload::Payload,
    session::wireguard::keys::{PeerId, PublicKey},
};
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// Stands where a peer's endpoint will be.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Where an entry goes.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// An address; `local` is the one to send from, where the Tag says.
    #[allow(missing_docs)]
    Remote { local: Option<IpAddr>, remote: SocketAddr },
    /// A WireGuard peer.
    Peer(ToPeer),
}

impl To {
    /// Who is sent to.
    #[inline]
    pub fn recipient(&self) -> Recipient {
        match self {
            To::Remote { remote, .. } => Recipient::Remote(*remote),
            To::Peer(to) => Recipient::Peer(to.peer),
        }
    }

    /// The same as text, for journals: an address with its port, or the public key of a peer.
    pub fn name(&self) -> String {
        match self {
            To::Remote { remote, .. } => remote.to_string(),
            To::Peer(to) => to.key.to_string(),
        }
    }
}

/// An entry's way to a peer.
#[derive(Clone, Copy, Debug)]
pub struct ToPeer {
    /// The peer's public key.
    pub key: PublicKey,
    /// The peer's short name.
    pub peer: PeerId,
    /// `Remote.Address` and `Remote.Port`: where to begin a handshake, if nothing better is known.
    pub given: Option<SocketAddr>,
    /// The plaintext is a packet that we have made: it is padded.
    pub pad: bool,
}

/// A datagram that waits for the socket.
#[derive(Debug)]
pub struct Outgoing {
    /// The entry that the datagram is of. None: the gateway itself sends it, for WireGuard or CoAP.
    pub(crate) entry: Option<EntryRef>,
    /// The peer that the payload is still to be sealed for. None in what waits for the socket.
    pub(crate) peer: Option<Box<ToPeer>>,
    /// Unix milliseconds after which it is not sent.
    pub(crate) expires_ms: u64,
    /// The address to send from, where one is known.
    pub local: Option<IpAddr>,
    /// The remote to send to.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub payload: Payload,
}

impl Outgoing {
    /// An entry's payload on its way to `to`.
    #[inline]
    pub(crate) fn new(entry: EntryRef, to: To, local: Option<IpAddr>, expires_ms: u64, payload: Payload) -> Outgoing {
        let (remote, peer) = match to {
            To::Remote { remote, .. } => (remote, None),
            To::Peer(to) => (NOWHERE, Some(Box::new(to))),
        };
        Outgoing { entry: Some(entry), peer, expires_ms, local, remote, payload }
    }

    /// What the gateway itself says to `to`.
    pub(crate) fn unasked(to: To, payload: Payload) -> Outgoing {
        let (local, remote, peer) = match to {
            To::Remote { local, remote } => (local, remote, None),
            To::Peer(to) => (None, NOWHERE, Some(Box::new(to))),
        };
        Outgoing { entry: None, peer, expires_ms: u64::MAX, local, remote, payload }
    }
}

/// The entry of a document that a packet is of.
#[derive(Debug)]
pub(crate) struct EntryRef {
    /// The place of the entry's document; `index` is the entry's place in it.
    pub document: usize,
    pub index: u32,
    /// The entry's `Id`, with the key of the `Id` in the source's window.
    pub id: Option<(String, dedup::Key)>,
    /// Which of the entry's `Remotes` it is for, if it has them. Boxed, because few entries do.
    pub one_of: Option<Box<OneOf>>,
    /// Size of the application's data.
    pub bytes: usize,
    /// How long it may wait, on the clock of [`Now::mono`].
    pub hold_until: u64,
}

/// One of an entry's `Remotes`.
#[derive(Debug)]
pub(crate) struct OneOf {
    /// Its place among them.
    pub index: u32,
    /// What the entry's `Id` becomes by it, if it has one: by that it is remembered.
    pub id: Option<String>,
}

/// What a segmentation offload can take at once.
#[derive(Clone, Copy, Debug)]
pub struct RunLimit {
    /// Datagrams.
    pub segments: usize,
    /// Bytes of one datagram.
    pub segment: usize,
    /// Bytes of all of them.
    pub bytes: usize,
}

/// The queue of one Listener, in the order in which they leave.
#[derive(Default)]
pub(crate) struct Queue(VecDeque<Outgoing>);

impl Queue {
    pub fn push(&mut self, outgoing: Outgoing) {
        self.0.push_back(outgoing);
    }

    pub fn pop(&mut self) -> Option<Outgoing> {
        self.0.pop_front()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps what the gateway itself sends only where `permitted` says so; entries have been judged.
    pub fn retain_protocol(&mut self, permitted: impl Fn(SocketAddr) -> bool) {
        self.0.retain(|outgoing| outgoing.entry.is_some() || permitted(outgoing.remote));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        self.0.iter()
    }

    /// How many datagrams from the front on may leave as one run: same way, same size, the last one possibly shorter.
    pub fn run(&self, now: Now, limit: RunLimit) -> usize {
        let Some(first) = self.0.front() else { return 0 };
        let segment = first.payload.len();
        if segment == 0 || segment > limit.segment {
            return 1;
        }
        let mut bytes = 0;
        let mut count = 0;
        for packet in self.0.iter().take(limit.segments) {
            let fits = packet.remote == first.remote
                && packet.local == first.local
                && packet.expires_ms > now.unix_ms
                && (1..=segment).contains(&packet.payload.len())
                && bytes + packet.payload.len() <= limit.bytes;
            if !fits {
                break;
            }
            bytes += packet.payload.len();
            count += 1;
            if packet.payload.len() < segment {
                break;
            }
        }
        count.max(1)
    }

    /// How many datagrams from the front on may leave by one call, at most `limit`: up to where a run begins.
    pub fn mixed(&self, now: Now, limit: usize) -> usize {
        let mut following = self.0.iter().skip(1);
        let alone = |packet: &&Outgoing| {
            packet.expires_ms > now.unix_ms && following.next().is_none_or(|next| next.remote != packet.remote)
        };
        self.0.iter().take(limit).take_while(alone).count().max(1)
    }
}
