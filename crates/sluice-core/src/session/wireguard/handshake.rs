//! Handshakes: ours, the peers', and cookies (whitepaper, sections 5.4.2 to 5.4.4, 5.4.7, 6.2 and 6.4).

use super::{
    Endpoint, HandshakeOutcome, Kind, PublicKey, Received, Secret, Transmit, WireGuard,
    cookie::{self, Admission, COOKIE_LIFE},
    keys::{KEY, cookie_key, mac1_key},
    message::{self, COOKIE, INITIATION, RESPONSE},
    noise::{self, FIRST_LEN, Initiated, SECOND_LEN},
    peers::{Handshake, NEVER},
    stamps::tai64n,
    transport::Session,
};
use crate::{Now, reason::Rejected, time::SECOND};
use ring::rand::SecureRandom;
use std::net::{IpAddr, SocketAddr};

/// An initiation is repeated after so long, and up to a third of a second more.
pub const REKEY_TIMEOUT: u64 = 5 * SECOND;
/// A handshake that is not answered for so long is given up.
pub const REKEY_ATTEMPT_TIME: u64 = 90 * SECOND;
const MOST_JITTER_MS: u64 = 334;
/// Answers to one initiation that need not pass the guard.
const AWAITED_ANSWERS: u8 = 3;

impl WireGuard {
    /// True for the first few answers to a handshake of ours. A gateway that speaks to all of its peers after a restart
    /// gets very many at once, and has asked for them; who has not seen our initiation cannot make one up.
    pub(super) fn awaits(&mut self, message: &[u8; RESPONSE]) -> bool {
        let index = message::u32_at(message, 8);
        let Some(&place) = self.indices.get(&index) else { return false };
        let live = self.peers.get_mut(place).live.as_mut();
        let handshake = live.and_then(|live| live.handshake.as_mut()).filter(|handshake| handshake.index == index);
        handshake.is_some_and(|handshake| {
            handshake.answers = handshake.answers.saturating_add(1);
            handshake.answers <= AWAITED_ANSWERS
        })
    }

    /// What may cost a key exchange has to pass the guard.
    pub(super) fn pass(
        &mut self,
        now: Now,
        local: IpAddr,
        remote: SocketAddr,
        message: &[u8],
        awaited: bool,
    ) -> Result<(), Received> {
        Err(Received::Refused(match self.guard.judge(now, &self.us, remote, message, awaited) {
            Admission::Admit => return Ok(()),
            Admission::Stranger => Rejected::InvalidMac,
            Admission::Excess => Rejected::HandshakeLimit,
            Admission::Reply(reply) => {
                self.counters.cookies_sent += 1;
                let endpoint = Endpoint { remote, local: Some(local) };
                self.transmits.push_back(Transmit { endpoint, datagram: reply.to_vec() });
                Rejected::HandshakeLimit
            }
        }))
    }

    /// A peer begins a handshake. Its endpoint does not change by that: a recorded initiation may come from anywhere.
    pub(super) fn initiation(
        &mut self,
        now: Now,
        local: IpAddr,
        remote: SocketAddr,
        message: &[u8; INITIATION],
    ) -> Received {
        let refused = Received::Refused;
        let Some(received) = noise::Received::read(&self.us, message::first(message)) else {
            return refused(Rejected::InvalidHandshake);
        };
        let Some(place) = self.place_for(received.peer) else { return refused(Rejected::UnknownPeer) };
        let timestamp = received.timestamp;
        if !self.is_fresh(now, place, &timestamp) {
            return refused(Rejected::ReplayedHandshake);
        }
        let psk = self.psk_of(place);
        let mut second = [0; SECOND_LEN];
        let Some(keys) = received.answer(&psk, &mut second) else { return refused(Rejected::InvalidHandshake) };
        let Some(index) = self.index_for(place) else { return refused(Rejected::InvalidHandshake) };
        let remote_index = message::u32_at(message, 4);
        self.accept_stamp(now, place, &timestamp);
        let replaced = self.live(place).next.replace(Box::new(Session::new(now, keys, index, remote_index, false)));
        self.release(replaced);
        let mut response = message::response(index, remote_index, &second);
        self.sign(now, place, &mut response);
        let endpoint = Endpoint { remote, local: Some(local) };
        self.transmits.push_back(Transmit { endpoint, datagram: response.to_vec() });
        self.counters.handshake_messages += 1;
        self.counters.responses_sent += 1;
        self.reschedule(place);
        Received::Protocol
    }

    /// The answer to our initiation.
    pub(super) fn response(
        &mut self,
        now: Now,
        local: IpAddr,
        remote: SocketAddr,
        message: &[u8; RESPONSE],
    ) -> Received {
        let index = message::u32_at(message, 8);
        let Some(&place) = self.indices.get(&index) else { return Received::Refused(Rejected::NoSession) };
        let live = self.live(place);
        let Some(handshake) = live.handshake.as_mut().filter(|handshake| handshake.index == index) else {
            return Received::Refused(Rejected::NoSession);
        };
        let Some(keys) = handshake.noise.finish(message::second(message)) else {
            return Received::Refused(Rejected::InvalidHandshake);
        };
        live.handshake = None;
        let session = Session::new(now, keys, index, message::u32_at(message, 4), true);
        let before = live.current.replace(Box::new(session));
        // The peer's own handshake, if it is under way, is the more recent one of its side.
        let dropped = std::mem::replace(&mut live.previous, before);
        // The peer waits for a sign that we have its answer: a keepalive, unless a packet goes before.
        live.keepalive_at = now.mono;
        live.silent_at = NEVER;
        self.release(dropped);
        self.counters.handshake_messages += 1;
        self.settled(now, place);
        self.moved(place, Endpoint { remote, local: Some(local) });
        self.reschedule(place);
        Received::Protocol
    }

    /// The peer is under load, and wants a proof of our address next time.
    pub(super) fn cookie(&mut self, now: Now, message: &[u8; COOKIE]) -> Received {
        let Some(&place) = self.indices.get(&message::u32_at(message, 4)) else {
            return Received::Refused(Rejected::NoSession);
        };
        let key = cookie_key(&self.peers.get(place).key);
        let live = self.live(place);
        let Some(cookie) = cookie::open(&key, &live.last_mac1, message) else {
            return Received::Refused(Rejected::InvalidHandshake);
        };
        live.cookie = Some((cookie, now.mono.saturating_add(COOKIE_LIFE)));
        self.counters.handshake_messages += 1;
        Received::Protocol
    }

    /// Begins a handshake, unless one is under way. False if nobody knows where the peer is.
    pub(super) fn initiate(&mut self, now: Now, place: u32) -> bool {
        if self.peers.get(place).endpoint().is_none() {
            return false;
        }
        if self.live(place).handshake.is_none() {
            self.send_initiation(now, place, now.mono);
        }
        true
    }

    /// Repeats a handshake that is not answered, or gives it up.
    pub(super) fn retry(&mut self, now: Now, place: u32) {
        let Some(handshake) = self.abandon(place) else { return };
        if now.mono.saturating_sub(handshake.began) < REKEY_ATTEMPT_TIME {
            return self.send_initiation(now, place, handshake.began);
        }
        self.counters.unanswered += 1;
        let id = self.peers.get(place).id;
        self.outcomes.push_back(HandshakeOutcome::GaveUp(id));
    }

    /// Ends our own handshake.
    pub(super) fn abandon(&mut self, place: u32) -> Option<Box<Handshake>> {
        let handshake = self.peers.get_mut(place).live.as_mut()?.handshake.take()?;
        self.indices.remove(&handshake.index);
        Some(handshake)
    }

    /// A session has been used by both sides.
    pub(super) fn settled(&mut self, now: Now, place: u32) {
        self.counters.sessions += 1;
        let leaves = self.peers.promote(place);
        let peer = self.peers.get_mut(place);
        let id = peer.id;
        peer.seen().last_handshake_ms = now.unix_ms;
        self.outcomes.push_back(HandshakeOutcome::Ready(id));
        leaves.into_iter().for_each(|place| self.remove(place));
    }

    /// A genuine and recent packet came from `endpoint`.
    pub(super) fn moved(&mut self, place: u32, endpoint: Endpoint) {
        let seen = self.peers.get_mut(place).seen();
        seen.offered = false;
        if seen.endpoint != Some(endpoint) {
            seen.endpoint = Some(endpoint);
            self.changed(place);
        }
    }

    /// The peer's index is free again.
    pub(super) fn release(&mut self, session: Option<Box<Session>>) {
        if let Some(session) = session {
            self.indices.remove(&session.local_index);
        }
    }

    fn send_initiation(&mut self, now: Now, place: u32, began: u64) {
        let timestamp = tai64n(self.stamps.next(now));
        let psk = self.psk_of(place);
        let mut first = [0; FIRST_LEN];
        let (key, endpoint) = (self.peers.get(place).key, self.peers.get(place).endpoint());
        let noise = Initiated::start(&self.us, &key, &psk, &timestamp, &mut first);
        let (Some(noise), Some(index), Some(endpoint)) = (noise, self.index_for(place), endpoint) else {
            // The key is no point of the curve's large group: no handshake with it can succeed.
            return self.outcomes.push_back(HandshakeOutcome::GaveUp(key.id()));
        };
        let mut jitter = [0; 2];
        let _ = self.random.fill(&mut jitter); // only spreads what many would do at once
        let jitter = u64::from(u16::from_le_bytes(jitter)) % MOST_JITTER_MS * (SECOND / 1_000);
        let retry_at = now.mono.saturating_add(REKEY_TIMEOUT + jitter);
        self.live(place).handshake = Some(Box::new(Handshake { noise, index, began, retry_at, answers: 0 }));
        let mut initiation = message::initiation(index, &first);
        self.sign(now, place, &mut initiation);
        self.transmits.push_back(Transmit { endpoint, datagram: initiation.to_vec() });
        self.counters.initiations_sent += 1;
        self.reschedule(place);
    }

    fn sign(&mut self, now: Now, place: u32, message: &mut [u8]) {
        let key = mac1_key(&self.peers.get(place).key);
        let live = self.live(place);
        let cookie = live.cookie.filter(|&(_, until)| now.mono < until).map(|(cookie, _)| cookie);
        live.last_mac1 = cookie::sign(message, &key, cookie.as_ref());
    }

    /// The place of the peer with this key, made if unknown peers are let in.
    fn place_for(&mut self, key: PublicKey) -> Option<u32> {
        if let Some(place) = self.peers.find(&key.id()) {
            return (self.peers.get(place).key == key).then_some(place);
        }
        if !self.can_be_guest(&key) {
            return None;
        }
        let (place, leaves) = self.peers.admit(key, Kind::Candidate);
        leaves.into_iter().for_each(|place| self.remove(place));
        Some(place)
    }

    fn psk_of(&self, place: u32) -> Secret {
        let peer = self.peers.get(place);
        let psk = match peer.kind {
            Kind::Configured => peer.psk.as_deref(),
            Kind::Candidate | Kind::Guest => self.unknown.as_ref(),
        };
        psk.cloned().unwrap_or(Secret([0; KEY]))
    }
}
