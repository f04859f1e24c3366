//! WireGuard: many peers behind one socket (contract section 5; the protocol: WireGuard whitepaper, and its kernel
//! implementation where that is silent).
//!
//! Theory. [`WireGuard`] is a state machine without socket and clock. What it wants to send itself (handshakes, cookies,
//! keepalives) waits in [`poll_transmit`](WireGuard::poll_transmit); applications' packets are sealed by
//! [`seal`](WireGuard::seal) at the moment they leave, never before, so that no sealed packet outlives its session. It
//! holds no packets: without a session `seal` begins a handshake and says [`Sealed::Wait`], and the caller tries again
//! on [`HandshakeOutcome::Ready`].
//!
//! All peers share one ordered queue of timers, with at most one entry for each that has anything under way. An entry may
//! be early, never late: traffic only moves moments backwards, and does not touch the queue for it.

mod cookie;
mod data;
mod handshake;
pub mod keys;
pub mod message;
pub mod noise;
mod peer_clock;
mod peers;
mod replay;
pub mod stamps;
mod timers;
mod transport;

pub use keys::{PeerId, PublicKey, Secret};
pub use message::OVERHEAD;
pub use peers::{Endpoint, Kind};
pub use stamps::Stamps;

use crate::{
    Now,
    event::PeerClock,
    inner::{self, Recent},
    reason::Rejected,
    spec::{PeerMemory, PeerSpec, WireGuardSpec},
};
use cookie::Guard;
use keys::Identity;
use peers::{Live, PeerTable};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use stamps::StampsByKey;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

/// A datagram that the protocol itself sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The address to send it to, and the one to send it from.
    pub endpoint: Endpoint,
    /// The UDP payload.
    pub datagram: Vec<u8>,
}

/// What became of a datagram that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A packet of this peer; its plaintext is in the caller's buffer.
    Packet(PeerId),
    /// The datagram was the protocol's own.
    Protocol,
    /// The datagram was not valid, or not allowed.
    Refused(Rejected),
}

/// What became of a packet that is to go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// The sealed packet, which may leave.
    Datagram(Transmit),
    /// A handshake is under way. Try again on [`HandshakeOutcome::Ready`].
    Wait,
    /// There is no session, and nobody knows where the peer is.
    NoEndpoint,
    /// There is no such peer.
    UnknownPeer,
}

/// What became of a handshake that packets wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// There is a session to send with.
    Ready(PeerId),
    /// The peer has not answered for 90 s.
    GaveUp(PeerId),
    /// The peer has been removed.
    Gone(PeerId),
}

/// The protocol's counters of one Listener.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct WireGuardCounters {
    /// Handshake and cookie messages that were read and accepted.
    pub handshake_messages: u64,
    pub keepalives_received: u64,
    /// Sessions that both sides have used.
    pub sessions: u64,
    pub initiations_sent: u64,
    pub responses_sent: u64,
    pub cookies_sent: u64,
    pub keepalives_sent: u64,
    /// Handshakes that were given up.
    pub unanswered: u64,
    /// Inner ICMP echo requests; filled in by the Listener.
    pub echoes_answered: u64,
    /// Peers with keys or a handshake, now.
    pub live_peers: u64,
}

/// The status of one peer, for people.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct PeerStatus {
    pub public_key: PublicKey,
    /// True unless the peer is an unknown one.
    pub configured: bool,
    pub endpoint: Option<SocketAddr>,
    /// The last handshake, in Unix milliseconds; 0: none since the start.
    pub last_handshake_ms: u64,
    /// Bytes of session datagrams, sealed as they came.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// True if there is a session to send with.
    pub session: bool,
    /// Seconds by which the peer's greatest stamp is ahead of our clock, where that is more than a minute and a half.
    pub stamp_ahead_seconds: Option<u64>,
    /// Seconds that the handshakes lack which were refused since the last one, because their stamps are too low.
    pub stamp_lacks_seconds: Option<u64>,
}

/// One Listener's end of all its tunnels.
pub struct WireGuard {
    us: Identity,
    random: SystemRandom,
    peers: PeerTable,
    /// Places of peers, by the indices that we gave to their sessions and handshakes.
    indices: HashMap<u32, u32, ahash::RandomState>,
    timers: BTreeSet<(u64, u32)>,
    guard: Guard,
    /// The pre-shared key of unknown peers; zeros mean that they need none. None: unknown peers are refused.
    unknown: Option<Secret>,
    /// The timestamps of our initiations.
    stamps: Arc<Stamps>,
    clock_report: Option<(PublicKey, PeerClock)>,
    transmits: VecDeque<Transmit>,
    outcomes: VecDeque<HandshakeOutcome>,
    changes: Vec<u32>,
    forgotten: Vec<PublicKey>,
    counters: WireGuardCounters,
}

impl WireGuard {
    /// Makes the state for a resource. At most `guests` unknown peers are remembered. Persistent keepalives are due at
    /// once.
    pub fn new(spec: &WireGuardSpec, guests: usize) -> WireGuard {
        let now = Now { mono: 0, unix_ms: 0 };
        let mut made = WireGuard {
            us: Identity::new(&spec.private_key),
            random: SystemRandom::new(),
            peers: PeerTable::new(guests),
            indices: HashMap::default(),
            timers: BTreeSet::new(),
            guard: Guard::new(),
            unknown: None,
            stamps: Arc::new(Stamps::new(spec.stamp_floor, spec.stamp_reserved)),
            clock_report: None,
            transmits: VecDeque::new(),
            outcomes: VecDeque::new(),
            changes: Vec::new(),
            forgotten: Vec::new(),
            counters: WireGuardCounters::default(),
        };
        made.set_unknown(spec.allow_unknown_peers, spec.unknown_peer_pre_shared_key.as_ref());
        spec.peers.iter().for_each(|peer| made.set_peer(now, peer));
        spec.known.iter().for_each(|memory| made.recall(now, memory));
        made
    }

    /// The Listener's public key.
    pub fn public_key(&self) -> PublicKey {
        self.us.public
    }

    /// The stamps of its handshakes.
    pub fn stamps(&self) -> &Arc<Stamps> {
        &self.stamps
    }

    /// Takes its stamps from where all Listeners with this key take them.
    pub fn share_stamps(&mut self, all: &StampsByKey) {
        self.stamps = all.join(self.us.public, self.stamps.clone());
    }

    /// Adds or changes a peer. Its session goes on; a new pre-shared key holds from the next handshake on.
    pub fn set_peer(&mut self, now: Now, spec: &PeerSpec) {
        if !self.can_be_peer(&spec.public_key) {
            return; // said with its place by whoever reads configurations
        }
        let place = self.peers.configure(spec);
        self.arm_persistent(now, place);
    }

    /// False for a key with which no handshake can succeed: our own, or a weak one.
    fn can_be_peer(&self, key: &PublicKey) -> bool {
        !key.is_weak() && key.canonical() != self.us.public
    }

    /// True if this key may be an unknown peer's: such a peer has no second name by another spelling of its key.
    fn can_be_guest(&self, key: &PublicKey) -> bool {
        self.unknown.is_some() && key.canonical() == *key && self.can_be_peer(key)
    }

    /// Removes a peer and cuts its session. True if there was one.
    pub fn remove_peer(&mut self, key: &PublicKey) -> bool {
        let place = self.peers.find(&key.id());
        place.inspect(|&place| self.remove(place)).is_some()
    }

    /// Sets whether unknown peers are let in, and the pre-shared key that they need. If either changes, all unknown
    /// peers are removed.
    pub fn set_unknown(&mut self, allow: bool, psk: Option<&Secret>) {
        let psk = allow.then(|| psk.cloned().unwrap_or(Secret([0; keys::KEY])));
        let same = psk.as_ref().map(|psk| psk.0) == self.unknown.as_ref().map(|psk| psk.0);
        if !same {
            self.peers.unknown().into_iter().for_each(|place| self.remove(place));
            self.unknown = psk;
        }
    }

    /// True if unknown peers are let in.
    pub fn admits_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// Takes over what was known of a peer before this start.
    pub fn recall(&mut self, now: Now, memory: &PeerMemory) {
        let place = match self.peers.find(&memory.public_key.id()) {
            Some(place) => place,
            None if self.can_be_guest(&memory.public_key) => {
                let (place, leaves) = self.peers.admit(memory.public_key, Kind::Guest);
                leaves.into_iter().for_each(|place| self.remove(place));
                place
            }
            None => return,
        };
        let seen = self.peers.get_mut(place).seen();
        seen.endpoint = memory.remote.map(|remote| Endpoint { remote, local: memory.local });
        seen.offered = false;
        seen.recent = memory.recent;
        self.arm_persistent(now, place);
    }

    /// The peer with this key, if there is one.
    pub fn find(&self, key: &PublicKey) -> Option<PeerId> {
        self.peers.find_key(key).map(|place| self.peers.get(place).id)
    }

    /// Makes room for an unknown peer that we are to speak to first. None where unknown peers are refused.
    pub fn invite(&mut self, key: PublicKey) -> Option<PeerId> {
        let id = key.id();
        if self.peers.find(&id).is_some() {
            return Some(id);
        }
        if !self.can_be_guest(&key) {
            return None;
        }
        let (_, leaves) = self.peers.admit(key, Kind::Candidate);
        leaves.into_iter().for_each(|place| self.remove(place));
        Some(id)
    }

    /// The peer's key.
    pub fn key_of(&self, id: &PeerId) -> Option<PublicKey> {
        self.peers.find(id).map(|place| self.peers.get(place).key)
    }

    /// The endpoint at which the peer receives, if it is known.
    pub fn endpoint_of(&self, id: &PeerId) -> Option<Endpoint> {
        self.peers.get(self.peers.find(id)?).endpoint()
    }

    /// True if there is a session to send with.
    pub fn has_session(&self, now: Now, id: &PeerId) -> bool {
        let live = self.peers.find(id).and_then(|place| self.peers.get(place).live.as_deref());
        live.is_some_and(|live| live.current.as_ref().is_some_and(|session| session.can_send(now)))
    }

    /// True if the peer's endpoint is one that it has shown itself, by a genuine packet from there; not one that an
    /// application gave.
    pub fn has_shown_itself(&self, id: &PeerId) -> bool {
        let seen = self.peers.find(id).and_then(|place| self.peers.get(place).seen.as_deref());
        seen.is_some_and(|seen| seen.endpoint.is_some() && !seen.offered)
    }

    /// Takes an endpoint that an application gives, unless the peer has shown one itself.
    pub fn offer_endpoint(&mut self, id: &PeerId, remote: SocketAddr) {
        let Some(place) = self.peers.find(id) else { return };
        let seen = self.peers.get_mut(place).seen();
        if seen.endpoint.is_none_or(|endpoint| seen.offered && endpoint.remote != remote) {
            (seen.endpoint, seen.offered) = (Some(Endpoint { remote, local: None }), true);
        }
    }

    /// Judges what the peer has sent by its `AllowedIPs` (contract section 5; none listed: anything is right). Yields its
    /// key, and true if it may send IP packets only.
    pub fn judge_inner(&self, id: &PeerId, plaintext: &[u8]) -> Result<(PublicKey, bool), Rejected> {
        let place = self.peers.find(id).ok_or(Rejected::NoSession)?;
        let peer = self.peers.get(place);
        if peer.allowed.is_empty() {
            return Ok((peer.key, false));
        }
        let source = inner::claimed_source(plaintext);
        match source.is_some_and(|source| peer.allowed.iter().any(|net| net.contains(&source))) {
            true => Ok((peer.key, true)),
            false => Err(Rejected::RefusedInnerSource),
        }
    }

    /// True once for each peer: it is to be reported that its packets are refused. Yields its key.
    pub fn reports_refusal(&mut self, id: &PeerId) -> Option<PublicKey> {
        let place = self.peers.find(id)?;
        let peer = self.peers.get_mut(place);
        let reported = std::mem::replace(&mut peer.seen().refusal_reported, true);
        (!reported).then_some(peer.key)
    }

    /// The inner addresses that the peer used last.
    pub fn recent(&self, id: &PeerId) -> Recent {
        let seen = self.peers.find(id).and_then(|place| self.peers.get(place).seen.as_deref());
        seen.map_or(Recent::None, |seen| seen.recent)
    }

    /// Remembers the inner addresses that the peer uses.
    pub fn set_recent(&mut self, id: &PeerId, recent: Recent) {
        if let Some(place) = self.peers.find(id)
            && self.peers.get_mut(place).seen().recent != recent
        {
            self.peers.get_mut(place).seen().recent = recent;
            self.changed(place);
        }
    }

    /// The next datagram that the protocol wants to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Queues a datagram that [`seal`](Self::seal) has made, behind the protocol's own.
    pub fn transmit(&mut self, transmit: Transmit) {
        self.transmits.push_back(transmit);
    }

    /// The next outcome of a handshake for which packets may wait.
    pub fn poll_outcome(&mut self) -> Option<HandshakeOutcome> {
        self.outcomes.pop_front()
    }

    /// What must be kept over a restart and has changed since the last call: at most one entry for each peer. An entry
    /// without `Remote` means: forget the peer.
    pub fn take_changes(&mut self) -> Vec<PeerMemory> {
        let forgotten = std::mem::take(&mut self.forgotten).into_iter();
        let mut changes: Vec<PeerMemory> = forgotten.map(PeerMemory::nothing).collect();
        for place in std::mem::take(&mut self.changes) {
            let peer = self.peers.get_mut(place);
            let public_key = peer.key;
            let seen = peer.seen();
            seen.changed = false;
            let (remote, local) = (seen.endpoint.map(|endpoint| endpoint.remote), seen.endpoint.and_then(|e| e.local));
            changes.push(PeerMemory { public_key, remote, local, recent: seen.recent });
        }
        changes
    }

    /// The status of every peer, except unknown ones that have shown nothing yet.
    pub fn status(&self, now: Now) -> impl Iterator<Item = PeerStatus> {
        let known = self.peers.iter().filter(|peer| peer.kind != Kind::Candidate);
        known.map(move |peer| {
            let seen = peer.seen.as_deref();
            let session = peer.live.as_ref().and_then(|live| live.current.as_deref());
            PeerStatus {
                public_key: peer.key,
                configured: peer.kind == Kind::Configured,
                endpoint: peer.endpoint().map(|endpoint| endpoint.remote),
                last_handshake_ms: seen.map_or(0, |seen| seen.last_handshake_ms),
                received_bytes: seen.map_or(0, |seen| seen.received_bytes),
                sent_bytes: seen.map_or(0, |seen| seen.sent_bytes),
                session: session.is_some_and(|session| session.can_send(now)),
                stamp_ahead_seconds: seen.and_then(|seen| seen.ahead(now)),
                stamp_lacks_seconds: seen.and_then(|seen| seen.lacks()),
            }
        })
    }

    /// The protocol's counters.
    pub fn counters(&self) -> &WireGuardCounters {
        &self.counters
    }

    /// Puts the peer into the list of changes, unless it has shown nothing yet.
    fn changed(&mut self, place: u32) {
        let peer = self.peers.get_mut(place);
        if peer.kind != Kind::Candidate && !std::mem::replace(&mut peer.seen().changed, true) {
            self.changes.push(place);
        }
    }

    fn remove(&mut self, place: u32) {
        let peer = self.peers.remove(place);
        peer.live.iter().for_each(|live| self.retire(place, live));
        if peer.seen.as_ref().is_some_and(|seen| seen.changed) {
            self.changes.retain(|&changed| changed != place);
        }
        if peer.kind == Kind::Guest {
            self.forgotten.push(peer.key);
        }
        self.outcomes.push_back(HandshakeOutcome::Gone(peer.id));
    }

    /// Forgets the timer and the indices of a peer whose keys and handshake are dropped.
    fn retire(&mut self, place: u32, live: &Live) {
        self.timers.remove(&(live.scheduled, place));
        for index in live.indices() {
            self.indices.remove(&index);
        }
        self.counters.live_peers -= 1;
    }

    fn index_for(&mut self, place: u32) -> Option<u32> {
        let mut bytes = [0; 4];
        loop {
            self.random.fill(&mut bytes).ok()?;
            let index = u32::from_le_bytes(bytes);
            if let std::collections::hash_map::Entry::Vacant(free) = self.indices.entry(index) {
                free.insert(place);
                return Some(index);
            }
        }
    }

    /// The peer's live state, made if need be.
    fn live(&mut self, place: u32) -> &mut Live {
        let peer = self.peers.get_mut(place);
        self.counters.live_peers += u64::from(peer.live.is_none());
        peer.live()
    }
}
