//! How many datagrams the kernel dropped because a socket's receive buffer was full.
//!
//! Theory. The kernel counts buffers (SO_MEMINFO), in 32 bits. With receive offload a buffer holds up to 64 datagrams of
//! one remote. What is dropped is made up as what arrives at the same time, so each lost buffer counts as many datagrams
//! as those that were read since the last look had on average. Nothing coalesced: the count is exact.

use sluice_core::{Now, time::SECOND};

/// After a datagram, how long until the kernel's count is looked at.
const LOOK: u64 = SECOND;
/// Between two reports of drops, at least.
const REPORT: u64 = 10 * SECOND;

/// The count of one socket.
#[derive(Debug, Default)]
pub struct KernelDrops {
    /// The kernel's count when it was last looked at.
    buffers_lost: u32,
    /// What was read since then.
    read: Read,
    /// What was read before that, for a look at which nothing has been read since the last one.
    read_before: Read,
    total: u64,
    reported: u64,
    /// When the kernel's count is to be looked at for a report, on the clock of [`Now::mono`].
    due: Option<u64>,
    /// Before this moment nothing is reported again.
    quiet_until: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Read {
    buffers: u64,
    datagrams: u64,
}

impl KernelDrops {
    /// So many buffers were read, with so many datagrams together.
    pub fn read(&mut self, now: Now, buffers: usize, datagrams: usize) {
        self.due.get_or_insert((now.mono + LOOK).max(self.quiet_until));
        self.read.buffers += buffers as u64;
        self.read.datagrams += datagrams as u64;
    }

    /// The kernel's count of lost buffers is this now.
    pub fn look(&mut self, buffers_lost: u32) {
        let lost = u64::from(buffers_lost.wrapping_sub(self.buffers_lost));
        self.buffers_lost = buffers_lost;
        if self.read.buffers > 0 {
            self.read_before = std::mem::take(&mut self.read);
        }
        let Read { buffers, datagrams } = self.read_before;
        self.total += (lost * datagrams + buffers / 2).checked_div(buffers).unwrap_or(lost);
    }

    /// Datagrams that were dropped by the last look.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// When the kernel's count is to be looked at, if anything was read since that was done last.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// After a look: the datagrams that were dropped since the last report, if any were.
    pub fn report(&mut self, now: Now) -> Option<u64> {
        self.due = None;
        let new = self.total - std::mem::replace(&mut self.reported, self.total);
        (new > 0).then(|| {
            self.quiet_until = now.mono + REPORT;
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, unix_ms: 0 }
    }

    #[test]
    fn single_datagrams_are_counted() {
        let mut drops = KernelDrops::default();
        drops.look(3);
        drops.read(at(0), 10, 10);
        drops.look(7);
        drops.look(8);
        assert_eq!(drops.total(), 8);
    }

    #[test]
    fn a_lost_buffer_counts_as_those_that_were_read() {
        let mut drops = KernelDrops::default();
        drops.read(at(0), 100, 6_400);
        drops.look(10);
        assert_eq!(drops.total(), 640);
        drops.look(12); // nothing was read meanwhile
        assert_eq!(drops.total(), 768);
        drops.read(at(0), 4, 4); // single datagrams now
        drops.look(13);
        assert_eq!(drops.total(), 769);
    }

    #[test]
    fn the_kernels_count_may_begin_anew() {
        let mut drops = KernelDrops::default();
        drops.look(u32::MAX);
        drops.look(4);
        assert_eq!(drops.total(), u64::from(u32::MAX) + 5);
    }

    #[test]
    fn a_burst_is_reported_within_a_second_and_then_now_and_again() {
        let mut drops = KernelDrops::default();
        assert_eq!(drops.due(), None);
        drops.read(at(5), 10, 10);
        drops.read(at(6), 10, 10);
        assert_eq!(drops.due(), Some(6 * SECOND));
        drops.look(3);
        assert_eq!((drops.report(at(6)), drops.due()), (Some(3), None));
        drops.read(at(7), 10, 10);
        assert_eq!(drops.due(), Some(16 * SECOND));
        drops.look(8);
        assert_eq!(drops.report(at(16)), Some(5));
        drops.read(at(60), 10, 10);
        drops.look(8);
        assert_eq!((drops.report(at(61)), drops.due()), (None, None));
    }
}
