//! Ready batches between the I/O thread and a Destination: bounded, the oldest gives way.

use crate::{Signal, Signals, lock::lock};
use sluice_core::{Batch, Pushed};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

/// Batches, and the part of the limit, that stay whatever arrives: a reader that stood still has something to begin with.
const KEPT_BATCHES: usize = 4;
const KEPT_PART: usize = 32;

/// The queue of one Destination.
#[derive(Debug)]
pub struct BatchQueue {
    limit: usize,
    inner: Mutex<Inner>,
    ready: Signal,
}

#[derive(Debug, Default)]
struct Inner {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Bytes, had no packet been refused while the queue was full (`sluice_core::intake`).
    weight: usize,
    packets: usize,
    /// Packets read since the last push.
    taken: usize,
    closed: bool,
}

impl BatchQueue {
    /// Holds batches of at most `limit` bytes together, and always one.
    pub fn new(limit: usize, signals: &Signals) -> BatchQueue {
        BatchQueue { limit, inner: Mutex::default(), ready: signals.signal() }
    }

    /// Adds a batch, or lets it join the last one where that may go on growing ([`Batch::join`]). The oldest give way: so
    /// many that those that are left arrived within the time in which the limit is reached, refused packets included.
    pub fn push(&self, batch: Batch) -> Pushed {
        let _wake; // dropped after the lock
        let mut inner = self.lock();
        let joined = inner.add(batch);
        let before = inner.packets;
        while inner.is_above(self.limit) {
            inner.pop();
        }
        let evicted = before - inner.packets;
        let first = inner.batches.len() == 1 && !joined || evicted > 0;
        _wake = first.then(|| self.ready.set());
        Pushed { joined, evicted, taken: std::mem::take(&mut inner.taken), roomy: inner.weight < self.limit / 2 }
    }

    /// Takes up to `limit` batches, oldest first.
    pub fn read(&self, limit: usize) -> Vec<Batch> {
        let mut inner = self.lock();
        let count = limit.min(inner.batches.len());
        let taken = (0..count).filter_map(|_| inner.pop()).collect::<Vec<_>>();
        inner.taken += taken.iter().map(Batch::count).sum::<usize>();
        // Once closed it stays set, so that a reader finds out.
        if inner.batches.is_empty() && !inner.closed {
            self.ready.clear();
        }
        taken
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.set();
    }

    /// True when nothing is left and nothing will come.
    pub fn is_finished(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.batches.is_empty()
    }

    /// Packets and bytes that wait.
    pub fn waiting(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.packets, inner.bytes)
    }

    /// Set while there is something to [`read`](Self::read), and for good once closed.
    pub fn ready(&self) -> &Signal {
        &self.ready
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    fn is_above(&self, limit: usize) -> bool {
        let kept = self.batches.len() <= KEPT_BATCHES || self.bytes <= limit / KEPT_PART;
        self.batches.len() > 1 && (self.bytes > limit || (self.weight > limit && !kept))
    }

    /// True if the batch joined the last one.
    fn add(&mut self, mut batch: Batch) -> bool {
        if let Some(mut last) = self.batches.pop_back() {
            self.forget(&last);
            let rest = last.join(batch);
            self.keep(last);
            match rest {
                None => return true,
                Some(later) => batch = later,
            }
        }
        self.keep(batch);
        false
    }

    fn keep(&mut self, batch: Batch) {
        self.bytes += batch.size();
        self.weight += batch.weight();
        self.packets += batch.count();
        self.batches.push_back(batch);
    }

    fn forget(&mut self, batch: &Batch) {
        self.bytes -= batch.size();
        self.weight -= batch.weight();
        self.packets -= batch.count();
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.forget(&batch);
        Some(batch)
    }
}
