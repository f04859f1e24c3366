//! What a Listener's I/O thread and its users share.

use crate::{
    BatchQueue, FilterSpec, Signal, Signals, Snapshot, Watch, lock::lock, schedule::Key, signal::Waker,
    socket::UdpSocket,
};
use sluice_core::{
    Completion, Kinds, Submission,
    session::wireguard::{PublicKey, Stamps},
    spec::PeerMemory,
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

/// Handle of an open Listener; clones share it.
#[derive(Clone, Debug)]
pub struct Port(pub(crate) Arc<PortState>);

#[derive(Debug)]
pub(crate) struct PortState {
    pub key: Key,
    pub bound: SocketAddr,
    receive_buffer: usize,
    /// By the Destination's place; replaced as a whole.
    queues: Mutex<Vec<Arc<BatchQueue>>>,
    sources: AtomicUsize,
    waker: Waker,
    /// The I/O thread has been asked to look at this Listener, and has not begun to.
    called: AtomicBool,
    ring: Mutex<Ring>,
    completed: Signal,
    /// Who watches; the kinds of all of them together stand in `watched`, for the I/O thread to read without the lock.
    watches: Mutex<Vec<Arc<Watch>>>,
    watched: AtomicU16,
    /// What is to be kept of peers, until somebody takes it.
    peer_changes: Mutex<BTreeMap<PublicKey, PeerMemory>>,
    peers_changed: Signal,
    /// The stamps of a `wg` Listener's handshakes.
    stamps: Option<Arc<Stamps>>,
    signals: Signals,
    /// What the Listener had counted by its end.
    last: OnceLock<Snapshot>,
}

/// Documents between submission and completion: those that wait here plus those that the I/O thread works on.
#[derive(Debug)]
struct Ring {
    limit: usize,
    /// Bytes of all of them.
    bytes: usize,
    documents: usize,
    waiting: VecDeque<Submission>,
    completions: Vec<Completion>,
    sent_ids: Vec<(usize, String)>,
    closed: bool,
}

impl Port {
    #[allow(clippy::too_many_arguments)] // the parts that it shares with the I/O thread
    pub(crate) fn new(
        key: Key,
        socket: &UdpSocket,
        queues: Vec<Arc<BatchQueue>>,
        sources: usize,
        ring_bytes: usize,
        waker: Waker,
        signals: &Signals,
        stamps: Option<Arc<Stamps>>,
    ) -> Port {
        let ring = Ring {
            limit: ring_bytes,
            bytes: 0,
            documents: 0,
            waiting: VecDeque::new(),
            completions: Vec::new(),
            sent_ids: Vec::new(),
            closed: false,
        };
        Port(Arc::new(PortState {
            key,
            bound: socket.bound(),
            receive_buffer: socket.receive_buffer(),
            queues: Mutex::new(queues),
            sources: AtomicUsize::new(sources),
            waker,
            called: AtomicBool::new(false),
            ring: Mutex::new(ring),
            completed: signals.signal(),
            watches: Mutex::default(),
            watched: AtomicU16::new(0),
            peer_changes: Mutex::default(),
            peers_changed: signals.signal(),
            stamps,
            signals: signals.clone(),
            last: OnceLock::new(),
        }))
    }

    /// Address and port as bound.
    pub fn bound(&self) -> SocketAddr {
        self.0.bound
    }

    /// Bytes of the receive buffer, of the [`RECEIVE_BUFFER`](crate::RECEIVE_BUFFER) that were asked for.
    pub fn receive_buffer(&self) -> usize {
        self.0.receive_buffer
    }

    /// Queue of the Destination at this place in the spec.
    pub fn queue(&self, destination: usize) -> Option<Arc<BatchQueue>> {
        self.all_queues().get(destination).cloned()
    }

    /// Number of places for PacketSources in the spec.
    pub fn sources(&self) -> usize {
        self.0.sources.load(Ordering::Acquire)
    }

    /// The Listener has other Destinations and PacketSources from now on.
    pub(crate) fn update(&self, queues: Vec<Arc<BatchQueue>>, sources: usize) {
        *self.all_queues() = queues;
        self.0.sources.store(sources, Ordering::Release);
    }

    pub(crate) fn signals(&self) -> &Signals {
        &self.0.signals
    }

    pub(crate) fn all_queues(&self) -> MutexGuard<'_, Vec<Arc<BatchQueue>>> {
        lock(&self.0.queues)
    }

    /// Queues documents in order while there is room; returns how many were taken. An empty ring takes any document.
    pub fn submit(&self, documents: impl IntoIterator<Item = Submission>) -> usize {
        let mut taken = 0;
        let mut ring = self.ring();
        for document in documents {
            let bytes = document.body.len();
            if ring.closed || (ring.documents > 0 && ring.bytes + bytes > ring.limit) {
                break;
            }
            ring.bytes += bytes;
            ring.documents += 1;
            ring.waiting.push_back(document);
            taken += 1;
        }
        drop(ring);
        if taken > 0 {
            self.call();
        }
        taken
    }

    /// Asks the I/O thread to look at this Listener.
    fn call(&self) {
        if !self.0.called.swap(true, Ordering::AcqRel) {
            self.0.waker.wake_for(self.0.key);
        }
    }

    /// The I/O thread is about to look: what comes from now on needs another call.
    pub(crate) fn answer_call(&self) {
        self.0.called.swap(false, Ordering::AcqRel); // reads what came before, so no store
    }

    /// What the Listener had counted by its end; None while it is open.
    pub fn last(&self) -> Option<&Snapshot> {
        self.0.last.get()
    }

    pub(crate) fn set_last(&self, last: Snapshot) {
        let _ = self.0.last.set(last); // a Listener ends once
    }

    /// Documents that ended since the last call.
    pub fn completions(&self) -> Vec<Completion> {
        let mut ring = self.ring();
        self.0.completed.clear();
        std::mem::take(&mut ring.completions)
    }

    /// PacketSource and `Id` of the entries that were sent since the last call. Those of a document are here no later
    /// than its completion: ask after [`completions`](Self::completions).
    pub fn sent_ids(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.ring().sent_ids)
    }

    /// Set when [`completions`](Self::completions) or [`sent_ids`](Self::sent_ids) has something; room in the ring comes
    /// free with the former.
    pub fn completed(&self) -> &Signal {
        &self.0.completed
    }

    /// Bytes and number of documents in the ring.
    pub fn ring_load(&self) -> (usize, usize) {
        let ring = self.ring();
        (ring.bytes, ring.documents)
    }

    /// What is to be kept of peers over a restart and has changed since the last call.
    pub fn peer_changes(&self) -> Vec<PeerMemory> {
        let mut changes = lock(&self.0.peer_changes);
        self.0.peers_changed.clear();
        std::mem::take(&mut *changes).into_values().collect()
    }

    /// The greatest stamp that handshakes wanted and that is not reserved, in Unix nanoseconds, since the last call.
    pub fn stamp_wanted(&self) -> Option<u64> {
        self.0.stamps.as_ref().and_then(|stamps| stamps.take_wanted())
    }

    /// Handshakes may have all stamps up to `until`: the state has it.
    pub fn reserve_stamps(&self, until: u64) {
        self.0.stamps.iter().for_each(|stamps| stamps.reserve(until));
    }

    /// Set when [`peer_changes`](Self::peer_changes) or [`stamp_wanted`](Self::stamp_wanted) has something.
    pub fn peers_changed_signal(&self) -> &Signal {
        &self.0.peers_changed
    }

    /// The I/O thread has learned something about peers.
    pub(crate) fn peers_changed(&self, memories: Vec<PeerMemory>) {
        if self.0.stamps.as_ref().is_some_and(|stamps| stamps.wants()) {
            self.0.peers_changed.set();
        }
        if memories.is_empty() {
            return;
        }
        let _wake; // dropped after the lock
        let mut changes = lock(&self.0.peer_changes);
        _wake = changes.is_empty().then(|| self.0.peers_changed.set());
        changes.extend(memories.into_iter().map(|memory| (memory.public_key, memory)));
    }

    /// Begins to watch; until [`unwatch`](Self::unwatch).
    pub fn watch(&self, filter: FilterSpec) -> io::Result<Arc<Watch>> {
        let watch = Arc::new(Watch::new(filter, &self.0.signals)?);
        let closed = self.ring().closed;
        let mut watches = self.watches();
        watches.push(watch.clone());
        self.recount(&watches);
        if closed {
            watch.close();
        }
        drop(watches);
        self.call();
        Ok(watch)
    }

    /// Ends a watch.
    pub fn unwatch(&self, watch: &Arc<Watch>) {
        let mut watches = self.watches();
        watches.retain(|one| !Arc::ptr_eq(one, watch));
        self.recount(&watches);
    }

    /// The kinds that somebody watches.
    pub(crate) fn watched(&self) -> Kinds {
        Kinds(self.0.watched.load(Ordering::Relaxed))
    }

    pub(crate) fn each_watch(&self, look: impl FnMut(&Arc<Watch>)) {
        self.watches().iter().for_each(look);
    }

    fn recount(&self, watches: &[Arc<Watch>]) {
        let all = watches.iter().fold(Kinds::default(), |all, watch| all.union(watch.kinds()));
        self.0.watched.store(all.0, Ordering::Relaxed);
    }

    fn watches(&self) -> MutexGuard<'_, Vec<Arc<Watch>>> {
        lock(&self.0.watches)
    }

    /// The I/O thread takes the next document.
    pub(crate) fn take(&self) -> Option<Submission> {
        self.ring().waiting.pop_front()
    }

    /// The I/O thread reports documents that ended, and entries that were sent.
    pub(crate) fn complete(&self, completions: Vec<Completion>, sent_ids: Vec<(usize, String)>) {
        if completions.is_empty() && sent_ids.is_empty() {
            return;
        }
        let _wake; // dropped after the lock
        let mut ring = self.ring();
        for completion in completions {
            ring.bytes -= completion.bytes;
            ring.documents -= 1;
            ring.completions.push(completion);
        }
        ring.sent_ids.extend(sent_ids);
        _wake = self.0.completed.set();
    }

    pub(crate) fn close_ring(&self) {
        self.ring().closed = true;
        self.0.completed.set();
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.0.ring)
    }
}
