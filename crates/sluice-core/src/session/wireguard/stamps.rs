//! Stamps of our handshakes (whitepaper, section 5.1): greater than any before, also after a restart, whatever the clock
//! says by then.
//!
//! Theory. A peer answers an initiation only if its stamp is greater than all that it has seen under our key, and it
//! forgets none. So the state keeps a *mark* for each key: no stamp above it was ever used. The mark is written before the
//! stamps below it are used, for a minute ahead, so that a handshake costs no write. After a restart the first stamp lies
//! above the mark of before.
//!
//! A handshake never waits for a write. While the mark lies behind the clock, stamps go on by one nanosecond below it:
//! they need to grow, not to be right.

use super::{keys::PublicKey, noise::TIMESTAMP};
use crate::{Now, time::SECOND};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// TAI64's epoch, and the ten seconds that TAI was ahead of UTC in 1970: as every implementation has it, leap seconds are
/// left out. What counts is that it grows.
const TAI64_EPOCH: u64 = 0x4000_0000_0000_000a;

/// The stamps of one private key, in Unix nanoseconds. The I/O thread takes them; whoever keeps the state reserves them.
#[derive(Debug, Default)]
pub struct Stamps {
    /// The greatest one that was used, or may have been before this start.
    last: AtomicU64,
    /// Up to here the state knows of them. 0: it was not told, and cannot be waited for.
    reserved: AtomicU64,
    /// One that was wanted beyond `reserved`; 0: none since somebody asked.
    wanted: AtomicU64,
}

impl Stamps {
    /// None up to `floor` is used; all up to `reserved` may be.
    pub fn new(floor: u64, reserved: u64) -> Stamps {
        Stamps { last: floor.into(), reserved: reserved.into(), wanted: 0.into() }
    }

    /// The next one: the time, where that is reserved and greater than any before.
    pub fn next(&self, now: Now) -> u64 {
        let last = self.last.load(Relaxed);
        let following = last.saturating_add(1);
        let mut stamp = following.max(now.unix_ms.saturating_mul(1_000_000));
        let reserved = self.reserved.load(Relaxed);
        if stamp > reserved {
            self.wanted.fetch_max(stamp, Relaxed);
            if following <= reserved {
                stamp = following;
            }
        }
        self.last.store(stamp, Relaxed);
        stamp
    }

    /// The state knows of all up to `until`.
    pub fn reserve(&self, until: u64) {
        self.reserved.fetch_max(until, Relaxed);
    }

    /// True if [`take_wanted`](Self::take_wanted) has something.
    pub fn wants(&self) -> bool {
        self.wanted.load(Relaxed) > 0
    }

    /// The greatest stamp that was wanted and is not reserved, since the last call.
    pub fn take_wanted(&self) -> Option<u64> {
        Some(self.wanted.swap(0, Relaxed)).filter(|&wanted| wanted > self.reserved.load(Relaxed))
    }
}

/// The stamps of all keys in use: Listeners with one key share them.
#[derive(Debug, Default)]
pub struct StampsByKey(Mutex<HashMap<PublicKey, Weak<Stamps>>>);

impl StampsByKey {
    /// Those that are in use for this key, which may take what is reserved for `own`; else `own`.
    pub fn join(&self, key: PublicKey, own: Arc<Stamps>) -> Arc<Stamps> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, stamps| stamps.strong_count() > 0);
        if let Some(shared) = all.get(&key).and_then(Weak::upgrade) {
            shared.reserve(own.reserved.load(Relaxed));
            return shared;
        }
        all.insert(key, Arc::downgrade(&own));
        own
    }
}

/// A stamp as handshakes have it.
pub fn tai64n(stamp: u64) -> [u8; TIMESTAMP] {
    let mut bytes = [0; TIMESTAMP];
    bytes[..8].copy_from_slice(&(TAI64_EPOCH + stamp / SECOND).to_be_bytes());
    bytes[8..].copy_from_slice(&((stamp % SECOND) as u32).to_be_bytes());
    bytes
}

/// The Unix second of a stamp that came in a handshake; a peer's may be any.
pub fn unix_seconds(stamp: &[u8; TIMESTAMP]) -> u64 {
    let (seconds, _) = stamp.split_first_chunk().expect("the array is longer");
    u64::from_be_bytes(*seconds).saturating_sub(TAI64_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60 * SECOND;

    fn at(unix_ns: u64) -> Now {
        Now { mono: 0, unix_ms: unix_ns / 1_000_000 }
    }

    #[test]
    fn the_clock_gives_them_where_it_can() {
        let stamps = Stamps::new(0, 10 * MINUTE);
        assert_eq!(stamps.next(at(MINUTE)), MINUTE);
        assert_eq!(stamps.next(at(MINUTE)), MINUTE + 1);
        assert_eq!(stamps.next(at(2 * MINUTE)), 2 * MINUTE);
        assert_eq!(stamps.next(at(SECOND)), 2 * MINUTE + 1, "a clock that goes back changes nothing");
        assert_eq!(stamps.take_wanted(), None);
    }

    #[test]
    fn none_up_to_the_mark_of_before_is_used() {
        let stamps = Stamps::new(100 * MINUTE, 101 * MINUTE);
        assert_eq!(stamps.next(at(MINUTE)), 100 * MINUTE + 1);
        assert_eq!(stamps.next(at(2 * MINUTE)), 100 * MINUTE + 2);
        assert!(!stamps.wants(), "there is room for a billion");
    }

    #[test]
    fn beyond_what_is_reserved_they_go_on_below_it_and_ask_for_more() {
        let stamps = Stamps::new(0, MINUTE);
        stamps.next(at(SECOND));
        for step in 1..1_000 {
            assert_eq!(stamps.next(at(2 * MINUTE + step * SECOND)), SECOND + step);
        }
        assert_eq!(stamps.take_wanted(), Some(2 * MINUTE + 999 * SECOND));
        assert_eq!(stamps.take_wanted(), None);
        stamps.reserve(100 * MINUTE);
        assert_eq!(stamps.next(at(30 * MINUTE)), 30 * MINUTE);
        stamps.next(at(101 * MINUTE));
        stamps.reserve(200 * MINUTE);
        assert_eq!(stamps.take_wanted(), None, "somebody else has seen to it");
    }

    #[test]
    fn without_a_state_they_are_the_time_and_still_grow() {
        let stamps = Stamps::new(0, 0);
        assert_eq!(stamps.next(at(MINUTE)), MINUTE);
        assert_eq!(stamps.next(at(SECOND)), MINUTE + 1);
        let unwritten = Stamps::new(5 * MINUTE, 5 * MINUTE);
        assert_eq!(unwritten.next(at(MINUTE)), 5 * MINUTE + 1);
        assert_eq!(unwritten.next(at(6 * MINUTE)), 6 * MINUTE);
    }

    #[test]
    fn one_key_has_one_line_of_stamps() {
        let (all, key, other) = (StampsByKey::default(), PublicKey([7; 32]), PublicKey([8; 32]));
        let first = all.join(key, Arc::new(Stamps::new(9 * MINUTE, 10 * MINUTE)));
        let second = all.join(key, Arc::new(Stamps::new(9 * MINUTE, 10 * MINUTE)));
        assert_eq!((first.next(at(0)), second.next(at(0))), (9 * MINUTE + 1, 9 * MINUTE + 2));
        assert_eq!(all.join(other, Arc::new(Stamps::default())).next(at(0)), 1);
        drop((first, second));
        assert_eq!(all.join(key, Arc::new(Stamps::new(20 * MINUTE, 21 * MINUTE))).next(at(0)), 20 * MINUTE + 1);
    }

    #[test]
    fn a_stamp_can_be_read_again() {
        for stamp in [0, 1, SECOND, 1_780_000_000 * SECOND + 5] {
            assert_eq!(unix_seconds(&tai64n(stamp)), stamp / SECOND);
        }
        assert_eq!((unix_seconds(&[0; 12]), unix_seconds(&[0xff; 12])), (0, u64::MAX - TAI64_EPOCH));
        assert!(tai64n(SECOND - 1) < tai64n(SECOND));
    }
}
