//! Pacing: when a packet of a rate-limited PacketSource may leave (`RateLimit`, contract section 1.3).
//!
//! Theory. The generic cell rate algorithm (ITU-T I.371, annex A) as a timetable: a packet reserves the next free place at
//! once and is told when to leave, so nothing is polled and a packet that would leave too late fails at once, without
//! taking a place from one behind it. Places only ever get later, so packets for one remote keep their order.

use crate::{Now, session::wireguard::keys::PeerId, spec::RateLimitSpec, time::SECOND};
use hashlink::LinkedHashMap;
use std::net::SocketAddr;

/// Remotes whose own rate is remembered. Beyond it the one that was sent to least recently is forgotten, and may then be
/// sent to a little too early.
const REMOTES: usize = 100_000;

/// Who is sent to. A peer is the same wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// An address.
    Remote(SocketAddr),
    /// A WireGuard peer.
    Peer(PeerId),
}

/// The timetable of one PacketSource.
pub struct Pacer {
    source: Option<Line>,
    /// Nanoseconds between two packets for one remote.
    remote_interval: Option<u64>,
    /// Next free place of each remote that has one in the future, or had lately.
    remotes: LinkedHashMap<Recipient, u64, ahash::RandomState>,
}

struct Line {
    interval: u64,
    /// How far ahead of its steady pace the source may be: a burst.
    tolerance: u64,
    /// When the next packet is due at the steady pace (I.371: TAT).
    due: u64,
}

impl Pacer {
    /// From the resource; None where nothing is limited.
    pub fn new(limit: &RateLimitSpec) -> Pacer {
        let interval = |per_second: f64| (SECOND as f64 / per_second) as u64;
        let burst = limit.burst.unwrap_or(1).max(1);
        Pacer {
            source: limit.packets_per_second.map(|rate| Line {
                interval: interval(rate),
                tolerance: interval(rate).saturating_mul(burst - 1),
                due: 0,
            }),
            remote_interval: limit.per_remote_packets_per_second.map(interval),
            remotes: LinkedHashMap::with_hasher(ahash::RandomState::new()),
        }
    }

    /// Reserves a place for a packet to `remote`: when it leaves, or None if that would be after `latest` (both on the
    /// clock of [`Now::mono`]).
    pub fn reserve(&mut self, now: Now, remote: Recipient, latest: u64) -> Option<u64> {
        let now = now.mono;
        let by_source = self.source.as_ref().map_or(now, |line| line.due.saturating_sub(line.tolerance).max(now));
        let by_remote = match self.remote_interval {
            Some(_) => self.remotes.get(&remote).map_or(now, |&free| free.max(now)),
            None => now,
        };
        let leaves = by_source.max(by_remote);
        if leaves > latest {
            return None;
        }
        if let Some(line) = &mut self.source {
            line.due = line.due.max(now).saturating_add(line.interval);
        }
        if let Some(interval) = self.remote_interval {
            self.remotes.insert(remote, leaves.saturating_add(interval));
            for _ in 0..2 {
                match self.remotes.front() {
                    Some((_, &free)) if free <= now || self.remotes.len() > REMOTES => {
                        self.remotes.pop_front();
                    }
                    _ => break,
                }
            }
        }
        Some(leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pacer(rate: Option<f64>, burst: Option<u64>, per_remote: Option<f64>) -> Pacer {
        Pacer::new(&RateLimitSpec { packets_per_second: rate, burst, per_remote_packets_per_second: per_remote })
    }

    fn at(mono: u64) -> Now {
        Now { mono, unix_ms: 0 }
    }

    fn remote(port: u16) -> Recipient {
        Recipient::Remote(SocketAddr::from(([198, 51, 100, 7], port)))
    }

    #[test]
    fn a_burst_then_the_steady_pace() {
        let mut pacer = pacer(Some(1_000.0), Some(3), None);
        let leaves: Vec<_> = (0..6).map(|_| pacer.reserve(at(5 * SECOND), remote(1), u64::MAX).unwrap()).collect();
        let ms = SECOND / 1_000;
        assert_eq!(leaves, [0, 0, 0, 1, 2, 3].map(|n| 5 * SECOND + n * ms));
    }

    #[test]
    fn what_would_leave_too_late_takes_no_place() {
        let mut pacer = pacer(Some(10.0), None, None);
        assert_eq!(pacer.reserve(at(0), remote(1), SECOND), Some(0));
        assert_eq!(pacer.reserve(at(0), remote(1), SECOND / 20), None);
        assert_eq!(pacer.reserve(at(0), remote(1), SECOND), Some(SECOND / 10));
    }

    #[test]
    fn each_remote_has_its_own_pace() {
        let mut pacer = pacer(None, None, Some(2.0));
        assert_eq!(pacer.reserve(at(0), remote(1), u64::MAX), Some(0));
        assert_eq!(pacer.reserve(at(0), remote(2), u64::MAX), Some(0));
        assert_eq!(pacer.reserve(at(0), remote(1), u64::MAX), Some(SECOND / 2));
        assert_eq!(pacer.reserve(at(9 * SECOND), remote(1), u64::MAX), Some(9 * SECOND));
    }

    proptest! {
        #[test]
        fn a_source_is_never_faster_than_its_limit(steps in prop::collection::vec(0u64..3_000_000, 1..300), burst in 1u64..20) {
            let (mut pacer, mut now) = (pacer(Some(1_000.0), Some(burst), None), 0);
            let mut leaves = Vec::new();
            for step in steps {
                now += step;
                leaves.push(pacer.reserve(at(now), remote(1), u64::MAX).unwrap());
            }
            prop_assert!(leaves.is_sorted());
            for (i, &first) in leaves.iter().enumerate() {
                let within = leaves[i..].iter().take_while(|&&t| t < first + SECOND / 10).count() as u64;
                prop_assert!(within < 100 + burst, "{within}");
            }
        }

        #[test]
        fn a_remote_is_never_faster_than_its_limit(steps in prop::collection::vec((0u64..3_000_000, 0u16..4), 1..300)) {
            let (mut pacer, mut now) = (pacer(Some(1_000.0), Some(5), Some(250.0)), 0);
            let mut each = std::collections::HashMap::<u16, Vec<u64>>::new();
            for (step, port) in steps {
                now += step;
                let leaves = pacer.reserve(at(now), remote(port), u64::MAX).unwrap();
                prop_assert!(leaves >= now);
                each.entry(port).or_default().push(leaves);
            }
            for times in each.values() {
                prop_assert!(times.windows(2).all(|pair| pair[1] >= pair[0] + SECOND / 250));
            }
        }
    }
}
