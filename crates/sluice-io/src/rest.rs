//! Rests of a Listener that refuses most of what arrives.
//!
//! Theory. Each datagram that arrives wakes the I/O thread, which takes the processor from the readers of the full queues.
//! So the thread rests after it has emptied the socket: the receive buffer gathers what arrives, and is never full of it.
//! What is delivered waits at most [`LONGEST`] more.

use sluice_core::{Now, time::SECOND};

/// The longest rest, in nanoseconds.
const LONGEST: u64 = SECOND / 1_000;
/// The first rest, and what a rest becomes that was too long.
const SHORTEST: u64 = LONGEST / 16;

/// The rests of one Listener.
#[derive(Debug, Default)]
pub struct Rest {
    length: u64,
    until: Option<u64>,
}

impl Rest {
    /// Begins, after the socket was emptied.
    pub fn begin(&mut self, now: Now) {
        self.until = Some(now.mono + self.length.max(SHORTEST));
    }

    /// When it ends, on the clock of [`Now::mono`].
    pub fn until(&self) -> Option<u64> {
        self.until
    }

    /// Ends, if its time is over: the next one is longer, or shorter where the receive buffer is `half_full` by now.
    pub fn end(&mut self, now: Now, half_full: impl FnOnce() -> bool) {
        if self.until.is_some_and(|until| until <= now.mono) {
            self.until = None;
            self.length = if half_full() { self.length / 4 } else { self.length.max(SHORTEST) * 2 }.min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono: u64) -> Now {
        Now { mono, unix_ms: 0 }
    }

    #[test]
    fn rests_grow_until_the_buffer_fills() {
        let mut rest = Rest::default();
        let mut now = 0;
        let mut lengths = |rest: &mut Rest, half_full: bool, times: usize| {
            let mut lengths = Vec::new();
            for _ in 0..times {
                rest.begin(at(now));
                lengths.push(rest.until().unwrap() - now);
                rest.end(at(now), || unreachable!("not over yet"));
                now = rest.until().unwrap();
                rest.end(at(now), || half_full);
                assert_eq!(rest.until(), None);
            }
            lengths
        };
        let grown = [1, 2, 4, 8, 16, 16].map(|times| SHORTEST * times);
        assert_eq!(lengths(&mut rest, false, 6), grown);
        assert_eq!(lengths(&mut rest, true, 4), [16, 4, 1, 1].map(|times| SHORTEST * times));
        assert_eq!(lengths(&mut rest, false, 3)[0], SHORTEST);
    }
}
