//! Peers whose clock is not ours, as the stamps of their handshakes tell (whitepaper, section 5.1).
//!
//! Theory. A peer whose clock was ahead once and is right now cannot get in until its clock has passed the stamp that it
//! used then. So has one whose clock begins in 1970 with each start. Neither side says a word about it on the wire; so the
//! peer is named here, with the time that it lacks.

use super::{Kind, PublicKey, WireGuard, noise::TIMESTAMP, peers::Seen, stamps::unix_seconds};
use crate::{Now, event::PeerClock};

/// Seconds that a peer's stamp may be ahead of our clock before it is reported. A gateway like this one may be ahead by the
/// minute that its state had reserved.
const AHEAD: u64 = 90;

impl Seen {
    /// How far the greatest stamp of the peer is ahead of our clock; None where that is in order.
    pub fn ahead(&self, now: Now) -> Option<u64> {
        Some(ahead(&self.timestamp, now)).filter(|&ahead| ahead > AHEAD)
    }

    /// How far the greatest stamp that was refused since the last handshake is below the greatest one that was accepted.
    pub fn lacks(&self) -> Option<u64> {
        let refused = self.refused_stamp.as_ref()?;
        Some(unix_seconds(&self.timestamp).saturating_sub(unix_seconds(refused)))
    }
}

impl WireGuard {
    /// A genuine handshake of a peer has this stamp. False if it is to be refused, because the peer has used one that is
    /// as great.
    pub(super) fn is_fresh(&mut self, now: Now, place: u32, stamp: &[u8; TIMESTAMP]) -> bool {
        let peer = self.peers.get_mut(place);
        let (key, stranger) = (peer.key, peer.kind == Kind::Candidate);
        let Some(seen) = peer.seen.as_deref_mut().filter(|seen| *stamp <= seen.timestamp) else { return true };
        // The same one again is the same message, or another one of a clock that counts seconds.
        if *stamp < seen.timestamp && !stranger {
            seen.refused_stamp = seen.refused_stamp.max(Some(*stamp));
            if !std::mem::replace(&mut seen.behind_reported, true) {
                let lacks = unix_seconds(&seen.timestamp).saturating_sub(unix_seconds(stamp));
                let ahead = ahead(&seen.timestamp, now);
                self.clock_report = Some((key, PeerClock::Behind { lacks, ahead }));
            }
        }
        false
    }

    /// The handshake with this stamp is accepted.
    pub(super) fn accept_stamp(&mut self, now: Now, place: u32, stamp: &[u8; TIMESTAMP]) {
        let peer = self.peers.get_mut(place);
        let (key, stranger) = (peer.key, peer.kind == Kind::Candidate);
        let seen = peer.seen();
        seen.timestamp = *stamp;
        (seen.refused_stamp, seen.behind_reported) = (None, false);
        let ahead = seen.ahead(now);
        let reported = std::mem::replace(&mut seen.ahead_reported, ahead.is_some() && !stranger);
        if let Some(ahead) = ahead.filter(|_| !reported && !stranger) {
            self.clock_report = Some((key, PeerClock::Ahead(ahead)));
        }
    }

    /// What the last datagram told of its peer's clock, if that is to be reported.
    #[inline]
    pub fn take_clock_report(&mut self) -> Option<(PublicKey, PeerClock)> {
        self.clock_report.take()
    }

    /// Accepts any stamp of the peer again, as if it had never been there; its session goes on. Until its next handshake
    /// somebody who has recorded an old one may repeat it, which yields nothing: the answer can be read by the peer alone.
    /// True if there is such a peer.
    pub fn forget_stamp(&mut self, key: &PublicKey) -> bool {
        let Some(place) = self.peers.find(&key.id()) else { return false };
        if let Some(seen) = self.peers.get_mut(place).seen.as_deref_mut() {
            (seen.timestamp, seen.refused_stamp) = ([0; TIMESTAMP], None);
            (seen.ahead_reported, seen.behind_reported) = (false, false);
        }
        true
    }
}

fn ahead(stamp: &[u8; TIMESTAMP], now: Now) -> u64 {
    unix_seconds(stamp).saturating_sub(now.unix_ms / 1_000)
}
