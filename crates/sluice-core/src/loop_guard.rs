//! Two endpoints that echo answer each other for ever after a single spoofed packet. The loop guard ends that (contract
//! section 4.4): after 1,000 answers in a row that a remote returned byte for byte, each in less than a second and with
//! nothing else from it between, answers to it are limited to one in 10 seconds until it sends something different.
//!
//! Theory. Hardly any remote ever returns an answer, so at first only one answer of each is remembered at a time, as a
//! sample. Once a sample comes back, the remote has a [`Trail`]: the different answers that are under way, and how many
//! were returned in a row. Several packets may circle at once, and a whole batch of answers be under way before the first
//! returns. So a trail knows several answers by keyed hashes of their payloads, each with the number of its copies. More
//! different answers than there is room for are not forgotten one by one, or a loop of many packets would never be seen:
//! the trail then looks only at those whose hash ends in so many zeros, arriving and leaving alike.
//!
//! A heartbeat of one a second returns each answer in less than a second too. So the time is taken from the packet that
//! was answered, and must be a little shorter than a second.

use crate::time::SECOND;

/// Answers in a row after which a loop is suspected.
const ROW: u32 = 1_000;
/// Nanoseconds after which an answer counts as not returned.
const RETURN: u64 = SECOND;
/// Nanoseconds between two arrivals of the same payload from which on they are a heartbeat and no loop: one a second is
/// one, also by a clock that is fast by a twentieth.
const BEAT: u64 = SECOND / 20 * 19;
/// Nanoseconds between two answers to a remote that is limited.
const PAUSE: u64 = 10 * SECOND;
/// Different answers under way that a trail knows.
const ANSWERS: usize = 16;
/// Nanoseconds for which a trail stays without a returned answer.
const STALE: u64 = 2 * SECOND;

/// What one remote does with the answers that it gets. Small, as every remote that is answered has one.
#[derive(Debug, Default)]
pub struct Returns {
    /// One answer: its hash, and when it left.
    sample: Option<(u64, u64)>,
    trail: Option<Box<Trail>>,
}

/// The answers to a remote that has returned one.
#[derive(Debug)]
struct Trail {
    answers: Vec<Answer>,
    /// Hashes that are looked at end in so many zeros.
    zeros: u32,
    /// Answers returned in a row.
    row: u32,
    returned_at: u64,
    /// When the last answer left, once the remote is limited.
    limited: Option<u64>,
}

/// An answer's payload, by its hash.
#[derive(Debug)]
struct Answer {
    hash: u64,
    /// Copies that have not been returned.
    under_way: u32,
    /// When it arrived last; when it was first sent, before that.
    since: u64,
}

impl Returns {
    /// True if an answer may leave now. `hash` is the payload's.
    #[inline]
    pub fn answer(&mut self, now: u64, hash: impl FnOnce() -> u64) -> bool {
        if self.trail.as_ref().is_some_and(|trail| trail.is_stale(now)) {
            self.trail = None;
        }
        match &mut self.trail {
            Some(trail) => trail.answer(now, hash()),
            None => {
                if self.sample.is_none_or(|(_, at)| now.saturating_sub(at) >= RETURN) {
                    self.sample = Some((hash(), now));
                }
                true
            }
        }
    }

    /// The remote sent something. True if a loop is suspected from now on. `hash` is the payload's.
    #[inline]
    pub fn heard(&mut self, now: u64, hash: impl FnOnce() -> u64) -> bool {
        if let Some(trail) = &mut self.trail {
            return trail.heard(now, hash());
        }
        if let Some((sample, at)) = self.sample {
            let hash = hash();
            if sample == hash && now.saturating_sub(at) < RETURN {
                self.sample = None;
                self.trail = Some(Box::new(Trail::begin(now, hash)));
            }
        }
        false
    }

    /// The remote sent something that nobody read. It may have been different, so no row is longer than what was read
    /// since then. A loop whose packets are refused ends by itself, and one that goes on is read again.
    pub fn missed(&mut self) {
        if let Some(trail) = &mut self.trail {
            trail.row = 0;
        }
    }

    /// True while answers to the remote are limited.
    pub fn is_limited(&self) -> bool {
        self.trail.as_ref().is_some_and(|trail| trail.limited.is_some())
    }
}

impl Trail {
    /// The answer with this hash has been returned.
    fn begin(now: u64, hash: u64) -> Trail {
        let answers = vec![Answer { hash, under_way: 0, since: now }];
        Trail { answers, zeros: 0, row: 1, returned_at: now, limited: None }
    }

    fn is_stale(&self, now: u64) -> bool {
        self.limited.is_none() && now.saturating_sub(self.returned_at) >= STALE
    }

    fn looks_at(&self, hash: u64) -> bool {
        hash.trailing_zeros() >= self.zeros
    }

    fn answer(&mut self, now: u64, hash: u64) -> bool {
        if let Some(last) = &mut self.limited {
            if now.saturating_sub(*last) < PAUSE {
                return false;
            }
            *last = now;
        }
        if self.looks_at(hash) {
            match self.answers.iter_mut().find(|answer| answer.hash == hash) {
                Some(answer) => answer.under_way += 1,
                None => self.begin_answer(now, hash),
            }
        }
        true
    }

    fn begin_answer(&mut self, now: u64, hash: u64) {
        if self.answers.len() >= ANSWERS {
            self.make_room(now);
        }
        if self.looks_at(hash) {
            self.answers.push(Answer { hash, under_way: 1, since: now });
        }
    }

    fn make_room(&mut self, now: u64) {
        if self.limited.is_some() {
            // What circled must be known again when it comes, so only the oldest is forgotten.
            let oldest = (0..self.answers.len()).min_by_key(|&at| self.answers[at].since);
            oldest.map(|at| self.answers.swap_remove(at));
            return;
        }
        self.forget_lost(now);
        self.answers.retain(|answer| answer.under_way > 0);
        while self.answers.len() >= ANSWERS {
            self.zeros += 1;
            let zeros = self.zeros;
            self.answers.retain(|answer| answer.hash.trailing_zeros() >= zeros);
        }
    }

    /// An answer that was not returned breaks the row.
    fn forget_lost(&mut self, now: u64) {
        for answer in self.answers.iter_mut().filter(|answer| answer.under_way > 0) {
            if now.saturating_sub(answer.since) >= RETURN {
                (answer.under_way, self.row) = (0, 0);
            }
        }
    }

    fn heard(&mut self, now: u64, hash: u64) -> bool {
        if !self.looks_at(hash) {
            return false;
        }
        let Some(answer) = self.answers.iter_mut().find(|answer| answer.hash == hash) else {
            (self.row, self.limited) = (0, None);
            return false;
        };
        let returned = answer.under_way > 0 && now.saturating_sub(answer.since) < BEAT;
        (answer.under_way, answer.since) = (answer.under_way.saturating_sub(1), now);
        if self.limited.is_some() {
            return false;
        }
        if !returned {
            self.row = 0;
            return false;
        }
        self.returned_at = now;
        self.row = self.row.saturating_add(1 << self.zeros.min(16));
        if self.row >= ROW {
            self.forget_lost(now);
            self.limited = self.is_loop().then_some(now);
        }
        self.limited.is_some()
    }

    /// True if the row is long enough, and few answers are under way beside it: of answers that return as others do not,
    /// ever more would be.
    fn is_loop(&self) -> bool {
        let under_way: u64 = self.answers.iter().map(|answer| u64::from(answer.under_way)).sum();
        self.row >= ROW && (under_way << self.zeros.min(16)) * 2 <= u64::from(self.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = SECOND / 1_000;

    /// What circles between us and a remote that echoes: one turn each millisecond, all packets at once. How many answers
    /// left within `turns`, and how often a loop was reported.
    fn circle(packets: &[u64], turns: u64) -> (u64, u32) {
        let (mut returns, mut circling, mut left, mut reported) = (Returns::default(), packets.to_vec(), 0, 0);
        for turn in 0..turns {
            let now = SECOND + turn * MS;
            for &packet in &circling {
                reported += u32::from(returns.heard(now, || packet));
            }
            circling.retain(|&packet| returns.answer(now + MS / 2, || packet));
            left += circling.len() as u64;
        }
        (left, reported)
    }

    #[test]
    fn one_packet_circles_a_thousand_times() {
        let (left, reported) = circle(&[7], 50_000);
        assert_eq!((left, reported), (1_000, 1));
    }

    #[test]
    fn several_packets_end_as_soon_as_one() {
        for packets in [vec![7, 8], vec![7, 8, 9], vec![7, 7, 7], (1..=16).collect(), vec![7, 8, 7, 9, 7]] {
            let (left, reported) = circle(&packets, 50_000);
            assert!((1_000..1_100).contains(&left), "{packets:?}: {left}");
            assert_eq!(reported, 1, "{packets:?}");
        }
    }

    #[test]
    fn a_loop_of_many_packets_is_seen_too() {
        let spread = ahash::RandomState::with_seeds(1, 2, 3, 4);
        for count in [17u64, 100, 1_000, 20_000] {
            let packets: Vec<_> = (0..count).map(|n| spread.hash_one(n)).collect();
            let (left, reported) = circle(&packets, 2_000);
            assert!(left < 1_000 + 8 * count, "{count}: {left}");
            assert_eq!(reported, 1, "{count}");
        }
    }

    #[test]
    fn a_limited_remote_gets_one_answer_in_ten_seconds_until_it_sends_something_different() {
        let mut returns = Returns::default();
        let mut now = 0;
        let mut turn = |returns: &mut Returns, pause: u64, payload: u64| {
            now += pause;
            returns.heard(now, || payload);
            returns.answer(now, || payload)
        };
        let sent = (0..3_000).filter(|_| turn(&mut returns, MS, 7)).count();
        assert_eq!(sent, 1_000);
        let sent = (0..60).filter(|_| turn(&mut returns, SECOND, 7)).count();
        assert_eq!(sent, 6);
        assert!(returns.is_limited());
        assert!(turn(&mut returns, MS, 8));
        assert!(!returns.is_limited());
        assert!(turn(&mut returns, MS, 7));
    }

    #[test]
    fn what_nobody_read_may_have_been_different() {
        let mut returns = Returns::default();
        for turn in 0..5_000 {
            let now = SECOND + turn * MS;
            assert!(!returns.heard(now, || 7));
            assert!(returns.answer(now, || 7), "{turn}");
            if turn % 500 == 499 {
                returns.missed();
            }
        }
    }

    #[test]
    fn nine_hundred_pings_as_fast_as_they_are_answered_are_no_loop() {
        let mut returns = Returns::default();
        for series in 0..20 {
            for n in 0..900 {
                let now = series * 3 * SECOND + n * MS / 100;
                assert!(!returns.heard(now, || 7));
                assert!(returns.answer(now, || 7), "{series} {n}");
            }
        }
    }

    #[test]
    fn what_else_a_remote_sends_breaks_the_row() {
        let mut returns = Returns::default();
        for n in 0..20_000u64 {
            let packet = if n % 500 == 499 { n } else { 7 };
            assert!(!returns.heard(n * MS, || packet));
            assert!(returns.answer(n * MS, || packet), "{n}");
        }
    }

    #[test]
    fn answers_that_are_not_returned_break_the_row() {
        for every in [MS / 10, MS, 20 * MS] {
            let mut returns = Returns::default();
            for n in 0..5_000u64 {
                assert!(!returns.heard(n * every, || 7), "{every} {n}");
                assert!(returns.answer(n * every, || 7));
                assert!(returns.answer(n * every, || (n + 100) << 5), "the handler's second answer");
            }
        }
    }

    proptest! {
        #[test]
        fn a_heartbeat_of_one_a_second_is_no_loop(
            takes in 0u64..900, jitter in prop::collection::vec(0u64..40, 50), fast in 0u64..4, kinds in 1u64..4,
        ) {
            let mut returns = Returns::default();
            for beat in 0..3_000u64 {
                for kind in 0..kinds {
                    let at = beat * SECOND * (100 - fast) / 100 + jitter[(beat % 50) as usize] * MS + kind * 10 * MS;
                    prop_assert!(!returns.heard(at, || kind + 7), "{beat}");
                    prop_assert!(returns.answer(at + takes * MS, || kind + 7));
                }
            }
        }

        #[test]
        fn numbered_payloads_are_no_loop(steps in prop::collection::vec(0u64..5_000_000, 3_000), late in 0usize..64) {
            let (mut returns, mut now, mut answered) = (Returns::default(), 0, Vec::new());
            for (n, step) in (0u64..).zip(&steps) {
                now += step;
                prop_assert!(!returns.heard(now, || n));
                answered.push(n);
                if answered.len() > late {
                    for n in answered.drain(..) {
                        prop_assert!(returns.answer(now, || n));
                    }
                }
            }
        }
    }
}
