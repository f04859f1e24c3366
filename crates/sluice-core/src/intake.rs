//! Intake: which packets a Destination still gets while its queue is full.
//!
//! Theory. A full queue drops its oldest batches, so what is delivered stays fresh. But each of their packets was tagged and
//! rendered for nothing, and that work takes the processor from the Destination itself. So the queue says how many packets
//! its reader took. While the queue is full, a Destination gets as many a second and a little more, as credit; the others
//! are refused before any work. The little more keeps the queue overflowing, and so shows when the reader becomes faster.
//!
//! - A refused packet weighs in the queue as if it had been rendered ([`Batch::weight`](crate::Batch::weight)). So the
//!   queue spans as much time as it would without refusals, and what is delivered is as fresh.
//! - It is a rate and not a share alone: credit that nobody uses soon admits everything again. So at the moment when less
//!   arrives than the Destination takes, nothing is refused any more.
//! - Who is admitted is drawn by lot, at the share of the last window. So each flow has its share, small ones too, however
//!   it falls in with the rounds of receiving.
//! - Whoever receives may draw first, for each buffer, and leave the others unread. The lots of the packets that are read
//!   are better in the same measure.
//! - Batches close as full as before: never less is admitted than what fills them within their time.

use crate::{Now, time::SECOND};
use std::ops::Range;

/// How long the reader is watched before the rate changes, in nanoseconds; also the longest time that credit is kept for.
const WINDOW: u64 = SECOND / 10;
/// Credit for this part of a window admits without a lot: less arrives than the Destination takes.
const UNUSED: f64 = 0.2;
/// What a Destination gets, next to what it takes.
const MORE: f64 = 1.125;
/// A reader that takes batches now and then has windows without any: the rate falls by no more than this in each.
const FALL: f64 = 0.75;
/// How fast the rate grows from window to window while less than half of the queue is used.
const RISE: f64 = 2.0;
/// The part of what arrives that is always admitted, so that a reader which stood still finds fresh packets.
const LEAST: f64 = 1.0 / 32.0;

/// What became of a queue when a batch was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Whether the batch joined the one before, which nobody had read ([`Batch::join`](crate::Batch::join)).
    pub joined: bool,
    /// Packets that gave way.
    pub evicted: usize,
    /// Packets that the reader took since the last batch was added.
    pub taken: usize,
    /// Whether less than half of the limit is used.
    pub roomy: bool,
}

/// The intake of one Destination.
#[derive(Debug, Default)]
pub struct Intake {
    limit: Option<Limit>,
    window: Window,
    /// Packets that were rendered so far, and of these, those that left the queue.
    rendered: u64,
    left: u64,
}

/// While the queue is full.
#[derive(Debug)]
struct Limit {
    /// Packets a second.
    rate: f64,
    /// The part of the packets that this was in the last window.
    share: f64,
    /// Packets that may come at once.
    credit: f64,
    /// When the credit was counted.
    counted: u64,
    lots: Lots,
}

/// Numerical Recipes' generator: its high bits are random enough to favour no flow.
#[derive(Debug, Default)]
pub struct Lots(u32);

impl Lots {
    /// True with this probability.
    #[inline]
    pub fn draw(&mut self, probability: f64) -> bool {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0) < probability * f64::from(u32::MAX)
    }
}

#[derive(Debug, Default)]
struct Window {
    began: u64,
    offered: u64,
    taken: usize,
    evicted: usize,
}

impl Intake {
    /// Whether a packet that arrives may have what it costs to render it. `read`: the part of all packets that is seen here.
    #[inline]
    pub fn admit(&mut self, now: Now, read: f64) -> bool {
        self.window.offered += 1;
        self.limit.as_mut().is_none_or(|limit| limit.admit(now, read))
    }

    /// The part of the next `packets` that is worth reading.
    pub fn worth_reading(&mut self, now: Now, packets: usize) -> f64 {
        self.limit.as_mut().map_or(1.0, |limit| limit.worth_reading(now, packets))
    }

    /// Packets arrived that nobody has read.
    pub fn unread(&mut self, packets: usize) {
        self.window.offered += packets as u64;
    }

    /// A packet was rendered: its number.
    #[inline]
    pub fn number(&mut self) -> u64 {
        self.rendered += 1;
        self.rendered - 1
    }

    /// A batch was added to the queue: the numbers of the packets that gave way. `fills`: the packets a second that fill
    /// batches within their time.
    pub fn pushed(&mut self, now: Now, pushed: Pushed, fills: f64) -> Range<u64> {
        self.window.taken += pushed.taken;
        self.window.evicted += pushed.evicted;
        if now.mono.saturating_sub(self.window.began) >= WINDOW {
            let window = std::mem::replace(&mut self.window, Window { began: now.mono, ..Window::default() });
            self.adapt(now, &window, pushed.roomy, fills);
        }
        let read = self.left + pushed.taken as u64;
        self.left = read + pushed.evicted as u64;
        read..self.left
    }

    fn adapt(&mut self, now: Now, window: &Window, roomy: bool, fills: f64) {
        let seconds = (now.mono - window.began) as f64 / SECOND as f64;
        let (offered, taken) = (window.offered as f64 / seconds, window.taken as f64 / seconds);
        let kept = match &self.limit {
            None if window.evicted == 0 => return,
            None => 0.0,
            Some(limit) if roomy && offered <= limit.rate => {
                self.limit = None;
                return;
            }
            Some(limit) if roomy => limit.rate * RISE,
            Some(limit) if window.evicted == 0 => limit.rate,
            Some(limit) => limit.rate * FALL,
        };
        let limit = self.limit.get_or_insert(Limit {
            rate: 0.0,
            share: 0.0,
            credit: 0.0,
            counted: now.mono,
            lots: Lots::default(),
        });
        limit.rate = (taken.max(fills) * MORE).max(kept).max(offered * LEAST);
        limit.share = limit.rate / offered;
    }
}

impl Limit {
    fn admit(&mut self, now: Now, read: f64) -> bool {
        self.earn(now);
        let drawn = self.lots.draw(self.share / read);
        let admitted = self.credit >= 1.0 && (drawn || self.unused() >= 0.0);
        if admitted {
            self.credit -= 1.0;
        }
        admitted
    }

    fn worth_reading(&mut self, now: Now, packets: usize) -> f64 {
        self.earn(now);
        self.share.max(self.unused() / packets.max(1) as f64).min(1.0)
    }

    /// Credit grows with time.
    fn earn(&mut self, now: Now) {
        if now.mono > self.counted {
            let span = (now.mono - self.counted) as f64 / WINDOW as f64;
            self.credit = (self.credit + self.in_window() * span).min(self.in_window());
            self.counted = now.mono;
        }
    }

    /// The packets that need no lot; below zero: all do.
    fn unused(&self) -> f64 {
        self.credit - self.in_window() * UNUSED
    }

    /// Packets of a window.
    fn in_window(&self) -> f64 {
        self.rate * WINDOW as f64 / SECOND as f64
    }
}
