//! Who may speak to a Listener, and what is known of each.
//!
//! Theory. A hundred thousand peers may be configured and a thousand be there. So what every peer has is small ([`Peer`],
//! about 110 bytes); what one has left behind that was there once is boxed ([`Seen`]); and keys, handshakes and timers
//! exist only while they are of use ([`Live`]).
//!
//! Peers that are not configured come in two kinds. Anybody can make key pairs and begin handshakes; who has begun one is a
//! *candidate*, until the first genuine packet shows that it could read our answer: that it holds the private key and the
//! pre-shared key, and receives at its address. Then it is a *guest*. Both are bounded, and the least recent leaves; so a
//! flood of candidates drives out candidates only.

use super::{
    keys::{PeerId, PublicKey, Secret, TAG},
    noise::{Initiated, TIMESTAMP},
    transport::Session,
};
use crate::{inner::Recent, spec::PeerSpec};
use hashlink::LinkedHashMap;
use ipnet::IpNet;
use slab::Slab;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

/// Unknown peers that have not shown yet that they could read our answer.
const CANDIDATES: usize = 4_096;
/// A moment that does not come.
pub const NEVER: u64 = u64::MAX;

/// Where a peer receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our address that the peer speaks to, where known.
    pub local: Option<IpAddr>,
}

/// Why a peer is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The peer is listed.
    Configured,
    /// The peer is unknown, and has shown nothing yet.
    Candidate,
    /// The peer is unknown, and has read our answer.
    Guest,
}

/// The state of a peer. The parts that not every peer has are boxed.
pub struct Peer {
    pub key: PublicKey,
    /// The peer's short name: a hash, and therefore not computed for each packet.
    pub id: PeerId,
    pub psk: Option<Box<Secret>>,
    /// Inner sources that it may use; empty: it may send anything, also what is no IP packet.
    pub allowed: Box<[IpNet]>,
    /// Seconds between keepalives that we send unasked; 0: none.
    pub keepalive: u16,
    pub kind: Kind,
    pub seen: Option<Box<Seen>>,
    pub live: Option<Box<Live>>,
}

/// The traces of a peer that has been there.
#[derive(Default)]
pub struct Seen {
    pub endpoint: Option<Endpoint>,
    /// True once it has been reported that the peer sends what its AllowedIPs refuse.
    pub refusal_reported: bool,
    /// True if an application gave the endpoint, and the peer has not been heard from there.
    pub offered: bool,
    pub recent: Recent,
    /// The timestamp of the peer's last initiation.
    pub timestamp: [u8; TIMESTAMP],
    /// The greatest one below it that came since, and was refused.
    pub refused_stamp: Option<[u8; TIMESTAMP]>,
    /// True once it has been reported that the peer's clock is ahead, or that its stamps are refused.
    pub ahead_reported: bool,
    pub behind_reported: bool,
    pub last_handshake_ms: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// True while the peer is in the list of changes.
    pub changed: bool,
}

/// Keys, a handshake, timers. Moments are on the clock of `Now::mono`, [`NEVER`] where nothing is due.
pub struct Live {
    /// The session that we send with.
    pub current: Option<Box<Session>>,
    /// The session before it: packets of it may still be on their way.
    pub previous: Option<Box<Session>>,
    /// The session that the peer began. We send with it once the peer has used it.
    pub next: Option<Box<Session>>,
    pub handshake: Option<Box<Handshake>>,
    /// The mac1 of the last handshake message that we sent: a cookie reply refers to it.
    pub last_mac1: [u8; TAG],
    /// The peer's cookie, and until when it is good.
    pub cookie: Option<([u8; TAG], u64)>,
    /// When a keepalive is due if nothing else is sent by then: the peer has sent and had nothing back.
    pub keepalive_at: u64,
    /// True if more has come since `keepalive_at` was set.
    pub another_keepalive: bool,
    /// When a handshake is due if nothing comes by then: we have sent and had nothing back.
    pub silent_at: u64,
    /// When a keepalive is due that we send unasked.
    pub persistent_at: u64,
    /// The moment that the queue of timers has for this peer: no later than any above.
    pub scheduled: u64,
}

/// Our own initiation, until it is answered.
pub struct Handshake {
    pub noise: Initiated,
    pub index: u32,
    pub began: u64,
    pub retry_at: u64,
    /// The answers that came to it, genuine or not.
    pub answers: u8,
}

impl Peer {
    fn new(key: PublicKey, kind: Kind) -> Peer {
        Peer { key, id: key.id(), psk: None, allowed: Box::default(), keepalive: 0, kind, seen: None, live: None }
    }

    pub fn seen(&mut self) -> &mut Seen {
        self.seen.get_or_insert_default()
    }

    pub fn endpoint(&self) -> Option<Endpoint> {
        self.seen.as_ref()?.endpoint
    }

    pub fn live(&mut self) -> &mut Live {
        self.live.get_or_insert_with(|| Box::new(Live::new()))
    }
}

impl Live {
    fn new() -> Live {
        Live {
            current: None,
            previous: None,
            next: None,
            handshake: None,
            last_mac1: [0; TAG],
            cookie: None,
            keepalive_at: NEVER,
            another_keepalive: false,
            silent_at: NEVER,
            persistent_at: NEVER,
            scheduled: NEVER,
        }
    }

    /// The session with this index of ours.
    pub fn session(&mut self, index: u32) -> Option<&mut Session> {
        let all = [&mut self.current, &mut self.next, &mut self.previous];
        all.into_iter().flatten().find(|session| session.local_index == index).map(|session| &mut **session)
    }

    /// When there is something to do.
    pub fn due(&self) -> u64 {
        let sessions = [&self.current, &self.previous, &self.next];
        let ends = sessions.into_iter().flatten().map(|session| session.ends());
        let retry = self.handshake.iter().map(|handshake| handshake.retry_at);
        let timers = [self.keepalive_at, self.silent_at, self.persistent_at];
        ends.chain(retry).chain(timers).min().unwrap_or(NEVER)
    }

    /// All indices by which the other side may call this peer.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        let sessions = [&self.current, &self.previous, &self.next].into_iter().flatten();
        sessions.map(|session| session.local_index).chain(self.handshake.iter().map(|handshake| handshake.index))
    }
}

/// The networks to which a peer is restricted: none where its AllowedIPs hold both whole families, in whatever parts.
fn restriction(allowed: &[IpNet]) -> Box<[IpNet]> {
    let whole = |net: &IpNet| net.prefix_len() == 0;
    let free = allowed.len() > 1 && IpNet::aggregate(&allowed.to_vec()).iter().filter(|net| whole(net)).count() == 2;
    if free { Box::default() } else { allowed.into() }
}

/// All peers of a Listener. A peer's place in the table is its name inside, until it is removed.
pub struct PeerTable {
    peers: Slab<Peer>,
    places: HashMap<PeerId, u32, ahash::RandomState>,
    /// Places of peers, by the whole key.
    keys: HashMap<PublicKey, u32, ahash::RandomState>,
    /// Least recent in front.
    candidates: LinkedHashMap<u32, (), ahash::RandomState>,
    guests: LinkedHashMap<u32, (), ahash::RandomState>,
    guest_limit: usize,
}

impl PeerTable {
    pub fn new(guest_limit: usize) -> PeerTable {
        PeerTable {
            peers: Slab::new(),
            places: HashMap::default(),
            keys: HashMap::default(),
            candidates: LinkedHashMap::with_hasher(ahash::RandomState::new()),
            guests: LinkedHashMap::with_hasher(ahash::RandomState::new()),
            guest_limit: guest_limit.max(1),
        }
    }

    /// Adds or changes a configured peer; its sessions go on.
    pub fn configure(&mut self, spec: &PeerSpec) -> u32 {
        let place = self.enter(spec.public_key, Kind::Configured);
        self.candidates.remove(&place);
        self.guests.remove(&place);
        let peer = &mut self.peers[place as usize];
        peer.kind = Kind::Configured;
        peer.psk = spec.shared_secret.clone().map(Box::new);
        peer.allowed = restriction(&spec.allowed_ips);
        if let Some(seen) = &mut peer.seen {
            seen.refusal_reported = false;
        }
        peer.keepalive = spec.persistent_keepalive_seconds;
        place
    }

    /// Makes a place for an unknown peer, and says who must leave for it.
    pub fn admit(&mut self, key: PublicKey, kind: Kind) -> (u32, Option<u32>) {
        let place = self.enter(key, kind);
        let leaves = match kind {
            Kind::Candidate => Self::arrive(&mut self.candidates, place, CANDIDATES),
            Kind::Guest => Self::arrive(&mut self.guests, place, self.guest_limit),
            Kind::Configured => None,
        };
        (place, leaves)
    }

    /// A candidate has become a guest; says who must leave for it.
    pub fn promote(&mut self, place: u32) -> Option<u32> {
        let peer = &mut self.peers[place as usize];
        if peer.kind != Kind::Candidate {
            return None;
        }
        peer.kind = Kind::Guest;
        self.candidates.remove(&place);
        Self::arrive(&mut self.guests, place, self.guest_limit)
    }

    /// A guest was heard.
    pub fn touch(&mut self, place: u32) {
        if self.peers[place as usize].kind == Kind::Guest {
            self.guests.to_back(&place);
        }
    }

    /// Takes a peer out.
    pub fn remove(&mut self, place: u32) -> Peer {
        let peer = self.peers.remove(place as usize);
        self.places.remove(&peer.id);
        self.keys.remove(&peer.key);
        self.candidates.remove(&place);
        self.guests.remove(&place);
        peer
    }

    pub fn find(&self, id: &PeerId) -> Option<u32> {
        self.places.get(id).copied()
    }

    pub fn find_key(&self, key: &PublicKey) -> Option<u32> {
        self.keys.get(key).copied()
    }

    pub fn get(&self, place: u32) -> &Peer {
        &self.peers[place as usize]
    }

    pub fn get_mut(&mut self, place: u32) -> &mut Peer {
        &mut self.peers[place as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().map(|(_, peer)| peer)
    }

    /// The places of all unknown peers.
    pub fn unknown(&self) -> Vec<u32> {
        self.candidates.keys().chain(self.guests.keys()).copied().collect()
    }

    fn enter(&mut self, key: PublicKey, kind: Kind) -> u32 {
        let peer = Peer::new(key, kind);
        if let Some(&place) = self.places.get(&peer.id) {
            return place;
        }
        let id = peer.id;
        let place = self.peers.insert(peer) as u32;
        self.places.insert(id, place);
        self.keys.insert(key, place);
        place
    }

    fn arrive(list: &mut LinkedHashMap<u32, (), ahash::RandomState>, place: u32, limit: usize) -> Option<u32> {
        list.insert(place, ());
        if list.len() > limit { list.pop_front().map(|(place, ())| place) } else { None }
    }
}
