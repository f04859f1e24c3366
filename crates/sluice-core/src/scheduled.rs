//! Entries that are to be sent later (`SendAt`, contract section 4.1).
//!
//! Theory. The core keeps none of them: a message's [`Completion`](crate::Completion) names those that are to wait, and
//! whoever submitted it keeps them, until each comes again as a document of its own that is [`Due`]. Meanwhile the core
//! only knows how many wait, and their `Id`s, so that a repeat is a duplicate.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead `SendAt` may be, in milliseconds.
pub const AHEAD_MS: u64 = 7 * 86_400_000;
/// Most entries of a gateway that may wait for their `SendAt`; each of an entry's `Remotes` counts as one.
pub const WAITING_LIMIT: u64 = 1_000_000;

/// An entry that is to be sent later, or one of its `Remotes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The entry's place in its document.
    pub index: u32,
    /// The place in the entry's `Remotes`, if it has them.
    pub remote_index: Option<u32>,
    /// `SendAt` in Unix milliseconds.
    pub at_ms: u64,
    /// By which `Id` it is remembered, if it has one.
    pub id: Option<String>,
}

/// Says of a document that it is an entry whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The entry's place in the message that it came with.
    pub index: u32,
    /// What its [`Scheduled::id`]s were.
    pub ids: Vec<String>,
    /// It should have left before now: it may wait for its turn for longer than `HoldSeconds`.
    pub overdue: bool,
}

/// How many entries of all Listeners wait.
#[derive(Debug, Default)]
pub struct Waiting(AtomicU64);

impl Waiting {
    /// So many wait, as known from before this start.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// Counts one more; false if there are as many as there may be.
    pub fn enter(&self) -> bool {
        let more = |count| (count < WAITING_LIMIT).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// So many wait no more.
    pub fn leave(&self, count: u64) {
        let less = |waiting: u64| Some(waiting.saturating_sub(count));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}
