//! What a PacketSource has between its messages: a timetable, and the `Id`s that were sent.

use crate::{
    Now,
    dedup::Window,
    outgoing::To,
    pacing::Pacer,
    reason::{Reason, Refused},
    spec::SourceSpec,
    time,
};

/// Most paced entries of one Listener that may wait. Further entries fail at once as `RateLimited`. The limit bounds
/// memory, and keeps one slow source from holding up the others.
const HELD_LIMIT: usize = 131_072;

/// The state of one PacketSource between messages.
pub struct Sender {
    pacer: Option<Pacer>,
    /// `Id`s that were sent or are on their way.
    pub window: Window,
    /// `HoldSeconds`, in nanoseconds.
    pub hold: u64,
}

impl Sender {
    /// A PacketSource that has sent nothing.
    pub fn new(spec: &SourceSpec) -> Sender {
        Sender {
            pacer: spec.rate_limit.as_ref().map(Pacer::new),
            window: Window::new(time::nanos(spec.dedup_seconds), spec.dedup_limit),
            hold: time::nanos(spec.hold_seconds),
        }
    }

    /// Takes over a changed spec. Keeps the `Id`s, and the timetable too unless the rate has changed.
    pub fn update(&mut self, before: &SourceSpec, spec: &SourceSpec) {
        self.hold = time::nanos(spec.hold_seconds);
        if spec.rate_limit != before.rate_limit {
            self.pacer = spec.rate_limit.as_ref().map(Pacer::new);
        }
    }

    /// The moment at which an entry leaves that may wait for `hold` nanoseconds, while `held` entries wait already.
    #[inline]
    pub fn reserve(&mut self, now: Now, to: &To, hold: u64, held: usize) -> Result<u64, Refused> {
        let Some(pacer) = &mut self.pacer else { return Ok(now.mono) };
        if held >= HELD_LIMIT {
            return Err((Reason::RateLimited, format!("{HELD_LIMIT} entries wait already")));
        }
        pacer.reserve(now, to.recipient(), now.mono.saturating_add(hold)).ok_or_else(|| {
            let detail = "at the source's RateLimit it would wait longer than its TTL or HoldSeconds";
            (Reason::RateLimited, detail.to_owned())
        })
    }
}
