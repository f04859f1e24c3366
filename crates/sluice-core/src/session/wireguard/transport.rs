//! One session: a pair of keys, its counters and its age (whitepaper, sections 5.4.6 and 6.1).

use super::{
    keys::TAG,
    message::{self, HEADER, OVERHEAD},
    noise::SessionKeys,
    replay::Window,
};
use crate::{Now, time::SECOND};

/// Messages after which a session should be replaced.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages after which it must not be used.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Age at which the initiator of a session replaces it when it sends.
pub const REKEY_AFTER_TIME: u64 = 120 * SECOND;
/// Age at which a session must not be used.
pub const REJECT_AFTER_TIME: u64 = 180 * SECOND;
/// Age at which the responder does what the initiator has failed to do.
const RESPONDER_REKEYS_AFTER: u64 = 170 * SECOND;
/// Age at which the initiator of a session replaces it when it only receives.
const REKEY_AFTER_RECEIVING: u64 = 165 * SECOND;

/// Why a data message is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// The session is too old, or has been used too often.
    Ended,
    /// Not sealed with the session's key, or altered.
    Forged,
    /// The message's counter was seen before, or is too far behind.
    Replayed,
}

/// A session.
///
/// # Peers that never rekey
///
/// A correct peer never sends under keys of more than 180 s, so what comes then tells that this peer goes on as long as
/// there is traffic. Some small clients do; to refuse them would leave them talking to nobody. So such a session goes on
/// too, in both directions, until 180 s have passed without a packet from the peer ([`outlived`](Self::outlived)). With a
/// correct peer nothing differs: we send under old keys only after the peer did.
pub struct Session {
    keys: SessionKeys,
    /// Ours: in what we receive.
    pub local_index: u32,
    remote_index: u32,
    counter: u64,
    window: Window,
    born: u64,
    heard: u64,
    /// We made the first message.
    pub initiator: bool,
    /// The peer has sent under these keys when they were older than 180 s.
    pub outlived: bool,
}

impl Session {
    /// A session that begins now.
    pub fn new(now: Now, keys: SessionKeys, local_index: u32, remote_index: u32, initiator: bool) -> Session {
        let (born, window) = (now.mono, Window::default());
        Session { keys, local_index, remote_index, counter: 0, window, born, heard: born, initiator, outlived: false }
    }

    /// When its keys are of no more use, on the clock of [`Now::mono`].
    pub fn ends(&self) -> u64 {
        self.heard.saturating_add(REJECT_AFTER_TIME)
    }

    /// We may send.
    pub fn can_send(&self, now: Now) -> bool {
        let until = if self.outlived { self.heard } else { self.born }.saturating_add(REJECT_AFTER_TIME);
        now.mono < until && self.counter < REJECT_AFTER_MESSAGES
    }

    /// After sending: it is time for a new session.
    pub fn wants_rekey_after_sending(&self, now: Now) -> bool {
        let old = match self.initiator {
            true => REKEY_AFTER_TIME,
            false => RESPONDER_REKEYS_AFTER,
        };
        self.counter >= REKEY_AFTER_MESSAGES || (self.age(now) >= old && !self.outlived)
    }

    /// After receiving: it is time for a new session.
    pub fn wants_rekey_after_receiving(&self, now: Now) -> bool {
        let old = match self.initiator {
            true => REKEY_AFTER_RECEIVING,
            false => RESPONDER_REKEYS_AFTER,
        };
        self.age(now) >= old && !self.outlived
    }

    /// A data message with `plaintext`, padded with zeros to 16 bytes if so asked. `can_send` must be true.
    pub fn seal(&mut self, plaintext: &[u8], pad: bool) -> Vec<u8> {
        let counter = self.counter;
        self.counter += 1; // first of all: no counter is ever used twice
        let length = if pad { plaintext.len().next_multiple_of(TAG) } else { plaintext.len() };
        let mut datagram = Vec::with_capacity(length + OVERHEAD);
        datagram.extend_from_slice(&message::data(self.remote_index, counter));
        datagram.extend_from_slice(plaintext);
        datagram.resize(HEADER + length, 0);
        let tag = self.keys.send.seal(counter, &[], &mut datagram[HEADER..]);
        datagram.extend_from_slice(&tag);
        datagram
    }

    /// Opens `sealed` into `plaintext`. Yields whether its counter is the greatest so far.
    pub fn open(
        &mut self,
        now: Now,
        counter: u64,
        sealed: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, PacketError> {
        if now.mono >= self.ends() || counter >= REJECT_AFTER_MESSAGES {
            return Err(PacketError::Ended);
        }
        if !self.window.is_fresh(counter) {
            return Err(PacketError::Replayed);
        }
        plaintext.clear();
        plaintext.extend_from_slice(sealed);
        let length = self.keys.receive.open(counter, &[], plaintext).ok_or(PacketError::Forged)?.len();
        plaintext.truncate(length);
        let newest = self.window.is_newest(counter);
        self.window.take(counter);
        self.heard = now.mono;
        self.outlived |= self.age(now) >= REJECT_AFTER_TIME;
        Ok(newest)
    }

    fn age(&self, now: Now) -> u64 {
        now.mono.saturating_sub(self.born)
    }

    #[cfg(test)]
    pub fn set_counter(&mut self, counter: u64) {
        self.counter = counter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::wireguard::keys::Secret;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, unix_ms: 0 }
    }

    /// Initiator and responder.
    fn pair() -> (Session, Session) {
        let keys = |send, receive| SessionKeys { send: Secret([send; 32]), receive: Secret([receive; 32]) };
        (Session::new(at(0), keys(1, 2), 10, 20, true), Session::new(at(0), keys(2, 1), 20, 10, false))
    }

    fn deliver(now: Now, to: &mut Session, datagram: &[u8]) -> Result<Vec<u8>, PacketError> {
        let Some(message::Message::Data { receiver, counter, sealed }) = message::Message::parse(datagram) else {
            panic!("no data message")
        };
        assert_eq!(receiver, to.local_index);
        let mut plaintext = vec![9; 7];
        to.open(now, counter, sealed, &mut plaintext).map(|_| plaintext)
    }

    #[test]
    fn plaintext_of_any_length_both_ways() {
        let (mut a, mut b) = pair();
        for length in [0, 1, 5, 15, 16, 17, 1_200, 65_000] {
            let data = vec![7; length];
            let datagram = a.seal(&data, false);
            assert_eq!(datagram.len(), length + OVERHEAD);
            assert_eq!(deliver(at(0), &mut b, &datagram), Ok(data.clone()));
            let datagram = b.seal(&data, true);
            assert_eq!((datagram.len() - OVERHEAD) % 16, 0);
            let padded = deliver(at(0), &mut a, &datagram).unwrap();
            assert_eq!((&padded[..length], padded.len() < length + 16), (&data[..], true));
        }
    }

    #[test]
    fn altered_and_replayed_packets_are_refused() {
        let (mut a, mut b) = pair();
        let datagram = a.seal(b"hello", false);
        for at_byte in 8..datagram.len() {
            let mut altered = datagram.clone();
            altered[at_byte] ^= 1;
            assert_eq!(deliver(at(0), &mut b, &altered), Err(PacketError::Forged), "byte {at_byte}");
        }
        assert_eq!(deliver(at(0), &mut b, &datagram), Ok(b"hello".to_vec()), "a forgery takes no counter");
        assert_eq!(deliver(at(0), &mut b, &datagram), Err(PacketError::Replayed));
    }

    #[test]
    fn a_session_ends_for_sending_after_180_seconds() {
        let (mut a, mut b) = pair();
        assert!(a.can_send(at(179)) && b.can_send(at(179)));
        assert!(!a.can_send(at(180)) && !b.can_send(at(180)));
        let datagram = a.seal(b"x", false);
        assert!(deliver(at(100), &mut b, &datagram).is_ok());
        assert!(!b.can_send(at(180)), "what came in time makes no difference");
    }

    #[test]
    fn a_peer_that_never_rekeys_is_served_until_it_is_silent() {
        let (mut a, mut b) = pair();
        for seconds in (0..=1_000).step_by(100) {
            let datagram = a.seal(b"x", false);
            assert!(deliver(at(seconds), &mut b, &datagram).is_ok(), "{seconds}");
            assert!(b.can_send(at(seconds)), "{seconds}");
        }
        assert!(b.outlived && !b.wants_rekey_after_sending(at(1_000)) && !b.wants_rekey_after_receiving(at(1_000)));
        let datagram = a.seal(b"x", false);
        assert!(!b.can_send(at(1_180)));
        assert_eq!(deliver(at(1_180), &mut b, &datagram), Err(PacketError::Ended));
    }

    #[test]
    fn counters_have_an_end() {
        let (mut a, mut b) = pair();
        a.set_counter(REKEY_AFTER_MESSAGES);
        assert!(a.wants_rekey_after_sending(at(0)));
        a.set_counter(REJECT_AFTER_MESSAGES);
        assert!(!a.can_send(at(0)));
        let datagram = a.seal(b"x", false);
        assert_eq!(deliver(at(0), &mut b, &datagram), Err(PacketError::Ended));
    }

    #[test]
    fn the_initiator_renews_first() {
        let (a, b) = pair();
        assert!(!a.wants_rekey_after_sending(at(119)) && a.wants_rekey_after_sending(at(120)));
        assert!(!a.wants_rekey_after_receiving(at(164)) && a.wants_rekey_after_receiving(at(165)));
        assert!(!b.wants_rekey_after_sending(at(169)) && b.wants_rekey_after_sending(at(170)));
        assert!(!b.wants_rekey_after_receiving(at(169)) && b.wants_rekey_after_receiving(at(170)));
    }
}
