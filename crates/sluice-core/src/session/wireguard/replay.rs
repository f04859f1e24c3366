//! The replay window (whitepaper 5.4.6; the ring of blocks is RFC 6479's): each counter is taken once, and those too far
//! behind the greatest are not taken at all.

const BLOCK: u64 = u64::BITS as u64;
const BLOCKS: usize = 32;
/// How far behind the greatest counter one may be. One block is always being filled anew.
const WINDOW: u64 = (BLOCKS as u64 - 1) * BLOCK;

/// Which counters have been seen.
#[derive(Default)]
pub struct Window {
    /// One more than the greatest counter seen; 0 before the first.
    next: u64,
    seen: [u64; BLOCKS],
}

impl Window {
    /// True if `counter` is greater than all before.
    pub fn is_newest(&self, counter: u64) -> bool {
        counter >= self.next
    }

    /// True if [`take`](Self::take) would take it.
    pub fn is_fresh(&self, counter: u64) -> bool {
        self.is_newest(counter)
            || (counter + WINDOW >= self.next && self.seen[Self::block(counter)] & Self::bit(counter) == 0)
    }

    /// Takes `counter`; false if it was taken before or is too old. Only after the packet has proved genuine.
    pub fn take(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if self.is_newest(counter) {
            // Blocks between the old greatest and the new one hold what lies a whole ring back.
            let from = self.next.div_ceil(BLOCK);
            let to = counter / BLOCK;
            for block in from..=to.min(from + BLOCKS as u64 - 1) {
                self.seen[block as usize % BLOCKS] = 0;
            }
            self.next = counter + 1;
        }
        self.seen[Self::block(counter)] |= Self::bit(counter);
        true
    }

    fn block(counter: u64) -> usize {
        (counter / BLOCK) as usize % BLOCKS
    }

    fn bit(counter: u64) -> u64 {
        1 << (counter % BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn each_counter_once() {
        let mut window = Window::default();
        for counter in [0, 1, 9, 8, 7, 63, 64, 65, 62] {
            assert!(window.take(counter), "{counter}");
            assert!(!window.take(counter), "{counter}");
        }
    }

    #[test]
    fn the_edge_of_the_window() {
        let mut window = Window::default();
        let newest = 10 * WINDOW;
        assert!(window.take(newest));
        assert!(window.take(newest + 1 - WINDOW));
        assert!(!window.take(newest - WINDOW));
        assert!(!window.take(0));
    }

    #[test]
    fn a_leap_over_the_whole_ring_forgets_all() {
        let mut window = Window::default();
        (0..WINDOW).for_each(|counter| assert!(window.take(counter)));
        let far = 1_000_000 * BLOCK + 5;
        assert!(window.take(far));
        for counter in far + 1 - WINDOW..far {
            assert!(window.take(counter), "{counter}");
        }
        assert!(!window.take(far));
    }

    proptest! {
        /// Against a set of all counters taken.
        #[test]
        fn as_a_set_would(steps in prop::collection::vec((0u64..5, -3_000i64..3_000), 0..300)) {
            let mut window = Window::default();
            let mut taken: HashSet<u64> = HashSet::new();
            let mut greatest: Option<u64> = None;
            let mut around = 5_000u64;
            for (leap, near) in steps {
                around += leap * 100;
                let counter = around.saturating_add_signed(near);
                let behind = greatest.is_some_and(|greatest| counter + WINDOW <= greatest);
                let fresh = !behind && !taken.contains(&counter);
                prop_assert_eq!(window.is_newest(counter), greatest.is_none_or(|greatest| counter > greatest));
                prop_assert_eq!(window.is_fresh(counter), fresh);
                prop_assert_eq!(window.take(counter), fresh);
                taken.insert(counter);
                greatest = greatest.max(fresh.then_some(counter)).max(greatest);
            }
        }
    }
}
