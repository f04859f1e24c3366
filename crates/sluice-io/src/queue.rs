//! Ready batches between the I/O thread and a Destination: bounded, the oldest gives way.

use crate::{Signal, Signals, lock::lock};
use sluice_core::Batch;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

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
    packets: usize,
    closed: bool,
}

impl BatchQueue {
    /// Holds batches of at most `limit` bytes together, and always one.
    pub fn new(limit: usize, signals: &Signals) -> BatchQueue {
        BatchQueue { limit, inner: Mutex::default(), ready: signals.signal() }
    }

    /// Adds a batch; returns how many packets had to give way.
    pub fn push(&self, batch: Batch) -> usize {
        let mut inner = self.lock();
        inner.bytes += batch.body().len();
        inner.packets += batch.count();
        inner.batches.push_back(batch);
        let before = inner.packets;
        while inner.bytes > self.limit && inner.batches.len() > 1 {
            inner.pop();
        }
        let dropped = before - inner.packets;
        if inner.batches.len() == 1 || dropped > 0 {
            self.ready.set();
        }
        dropped
    }

    /// Takes up to `limit` batches, oldest first.
    pub fn read(&self, limit: usize) -> Vec<Batch> {
        let mut inner = self.lock();
        let count = limit.min(inner.batches.len());
        let taken = (0..count).filter_map(|_| inner.pop()).collect();
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
    fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.body().len();
        self.packets -= batch.count();
        Some(batch)
    }
}
