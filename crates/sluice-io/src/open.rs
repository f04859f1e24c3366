//! One open Listener: its socket and its state machine, and what goes between them.

use crate::{
    BatchQueue, Port, Snapshot,
    command::{PeerChange, UnknownPeers},
    rest::Rest,
    schedule::Place,
    socket::{Arrival, Buffers, Sent, UdpSocket},
    sys,
    watch::Labels,
};
use quinn_udp::BATCH_SIZE;
use rustix::event::epoll::EventFlags;
use sluice_core::{
    About, Event, Kinds, Listener, ListenerSpec, Now, OwnEndpoints, Reason, Rejected, Shared,
    session::wireguard::{PeerStatus, PublicKey},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Once so many datagrams have been received from one socket, the others have their turn. A single receive may yield more:
/// the kernel coalesces up to 64 in each buffer.
const RECEIVE_ROUND: usize = 128;
/// Documents are parsed while fewer datagrams than this wait. So few are still in the processor's cache when the kernel
/// copies them, and they are enough for large calls when each document has one entry.
const QUEUE_LOW: usize = 128;
/// Datagrams that one Listener sends in one turn.
const SEND_ROUND: usize = 256;

/// The address that a packet is to leave from, where one is known, and the remote.
type Way = (Option<IpAddr>, SocketAddr);

/// Belongs to the I/O thread.
pub struct Open {
    pub port: Port,
    pub place: Place,
    pub socket: UdpSocket,
    pub listener: Listener,
    /// False once it has stopped: what arrives then is not processed.
    pub receiving: bool,
    /// While it refuses most of what arrives.
    rest: Rest,
    /// The socket was full: wait until it is writable.
    blocked: bool,
    /// Documents may wait that the last turn has not taken.
    behind: bool,
    closing: Option<Closing>,
    /// Some watch has skipped events and will say so when the second is over.
    telling: bool,
    interest: EventFlags,
}

/// Until when (on the clock of [`Now::mono`]) it sends what is queued, and who waits for its end.
#[derive(Default)]
struct Closing {
    deadline: u64,
    waiters: Vec<mpsc::SyncSender<()>>,
}

impl Open {
    /// Attended to for reading.
    pub fn new(port: Port, socket: UdpSocket, listener: Listener) -> Open {
        Open {
            port,
            place: Place::default(),
            socket,
            listener,
            receiving: true,
            rest: Rest::default(),
            blocked: false,
            behind: false,
            closing: None,
            telling: false,
            interest: EventFlags::IN,
        }
    }

    /// What it waits for at its socket, if otherwise than when it was asked before.
    pub fn new_interest(&mut self) -> Option<EventFlags> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.receiving && self.rest.until().is_none());
        flags.set(EventFlags::OUT, self.blocked);
        (std::mem::replace(&mut self.interest, flags) != flags).then_some(flags)
    }

    /// True if it has more to do at once.
    pub fn is_busy(&self) -> bool {
        !self.blocked && (self.behind || self.listener.queued() > 0)
    }

    /// When it has something to do next, as far as time decides.
    pub fn next_moment(&self, now: Now) -> Option<u64> {
        let told = self.telling.then(|| now.mono + (1_000 - now.unix_ms % 1_000) * 1_000_000);
        let closed = self.closing.as_ref().map(|closing| closing.deadline);
        self.listener
            .poll_timeout()
            .into_iter()
            .chain(told)
            .chain(closed)
            .chain(self.rest.until())
            .chain(self.socket.drops_due())
            .min()
    }

    /// The socket is readable, writable, or has an error.
    pub fn socket_event(&mut self, now: Now, flags: EventFlags, own: &OwnEndpoints, buffers: &mut Buffers) {
        // Whoever began to watch before the datagram was received sees it.
        self.listener.watch(self.port.watched());
        if flags.contains(EventFlags::ERR) && self.socket.drain_errors() == 0 {
            self.socket.clear_error();
        }
        if flags.contains(EventFlags::OUT) {
            self.blocked = false;
        }
        if flags.contains(EventFlags::IN) && self.receiving {
            let mut received = 0;
            while received < RECEIVE_ROUND && self.rest.until().is_none() {
                match self.receive(now, own, buffers) {
                    0 => break,
                    count => received += count,
                }
            }
        }
    }

    /// Everything that does not wait for a socket: documents, time, sending, handing over.
    pub fn advance(&mut self, now: Now, own: &OwnEndpoints, shared: &Shared) {
        self.listener.watch(self.port.watched());
        self.rest.end(now, || self.socket.is_half_full());
        self.listener.handle_timeout(now);
        self.hand_over(now);
        self.port.answer_call();
        self.behind = loop {
            if self.listener.queued() >= QUEUE_LOW {
                break true;
            }
            let Some(document) = self.port.take() else { break false };
            self.listener.submit(now, own, document);
        };
        self.listener.judge_protocol(own);
        self.send(now, own);
        self.report(now, shared);
    }

    /// Hands over what has ended and what has happened.
    fn report(&mut self, now: Now, shared: &Shared) {
        let ended = std::iter::from_fn(|| self.listener.poll_completion()).collect::<Vec<_>>();
        self.port.complete(ended, self.listener.take_sent_ids());
        self.port.peers_changed(self.listener.take_peer_changes());
        self.show_events(shared, now);
    }

    /// Changes the Listener ([`Listener::update`]); queues of removed Destinations end once they are empty.
    pub fn update(&mut self, now: Now, spec: ListenerSpec) -> Result<(), String> {
        if !self.receiving {
            return Err(format!("Listener {} is stopping", spec.name));
        }
        let before = self.listener.spec().destinations.iter().map(Some).chain(std::iter::repeat(None));
        let kept = self.port.all_queues().clone();
        let mut queues = Vec::with_capacity(spec.destinations.len());
        for (index, (after, before)) in spec.destinations.iter().zip(before).enumerate() {
            queues.push(match before {
                Some(before) if before.stays(after) => kept[index].clone(),
                _ => Arc::new(BatchQueue::new(after.queue_bytes, self.port.signals())),
            });
        }
        let removed: Vec<_> = spec.destinations.iter().map(|destination| destination.removed).collect();
        let sources = spec.sources.len();
        self.listener.update(now, spec)?;
        self.hand_over(now);
        self.port.update(queues.clone(), sources);
        for (queue, _) in queues.iter().zip(removed).filter(|(_, removed)| *removed) {
            queue.close();
        }
        Ok(())
    }

    /// Takes what has arrived, closes the open batches, and receives no more.
    pub fn stop(&mut self, now: Now, own: &OwnEndpoints, buffers: &mut Buffers) {
        if !std::mem::replace(&mut self.receiving, false) {
            return;
        }
        // Datagrams that came before the stop have arrived. A flood that goes on is not waited for.
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.receive(now, own, buffers) > 0 && Instant::now() < deadline {
            self.hand_over(now);
        }
        self.listener.flush(now);
        self.hand_over(now);
        self.port.all_queues().iter().for_each(|queue| queue.close());
    }

    /// Sends what is queued for at most `drain`; `waiter` is told of the end. The last one who closes says how
    /// long.
    pub fn close(&mut self, now: Now, drain: Duration, waiter: mpsc::SyncSender<()>) {
        self.port.close_ring();
        let closing = self.closing.get_or_insert_with(Closing::default);
        closing.deadline = now.mono.saturating_add(drain.as_nanos() as u64);
        closing.waiters.push(waiter);
    }

    /// True if it is closing, and has sent everything or has no more time.
    pub fn is_over(&self, now: Now) -> bool {
        let Some(closing) = &self.closing else { return false };
        now.mono >= closing.deadline || (self.listener.queued() == 0 && self.port.ring_load().1 == 0)
    }

    /// The end: what is left fails, whoever watches is told, the socket closes.
    pub fn finish(mut self, now: Now, own: &OwnEndpoints, shared: &Shared, buffers: &mut Buffers) {
        let unsent = || (Reason::SendFailed, "the gateway closed the Listener before it could be sent".to_owned());
        while let Some(mut document) = self.port.take() {
            document.refusal = Some(unsent());
            self.listener.submit(now, own, document);
        }
        self.listener.release_all(now);
        while self.listener.next_outgoing(now).is_some() {
            let (reason, detail) = unsent();
            self.listener.not_sent(now, reason, detail);
        }
        self.discard_arrived(now, own, buffers);
        self.report(now, shared);
        let labels = Labels { node: shared.node, region: &shared.region, spec: self.listener.spec() };
        self.port.each_watch(|watch| {
            watch.settle(&labels, u64::MAX); // its last second counts as over
            watch.close();
        });
        let last = self.snapshot();
        self.port.set_last(last);
        let waiters = self.closing.take().map(|closing| closing.waiters);
        drop(self); // closes the socket, and with it epoll's interest
        for waiter in waiters.into_iter().flatten() {
            let _ = waiter.send(()); // the caller may have gone away
        }
    }

    /// The counters now.
    pub fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            counters: self.listener.counters().clone(),
            kernel_drops: self.socket.kernel_drops(),
            icmp_errors: self.socket.icmp_errors().clone(),
        }
    }

    /// The first `limit` peers behind `after`, in the order of their keys.
    pub fn peers(&self, now: Now, after: Option<PublicKey>, limit: usize) -> Vec<PeerStatus> {
        let mut first = BTreeMap::new();
        for peer in self.listener.peers(now).filter(|peer| after.is_none_or(|after| peer.public_key > after)) {
            first.insert(peer.public_key, peer);
            if first.len() > limit {
                first.pop_last();
            }
        }
        first.into_values().collect()
    }

    /// Removed first: a peer may come back with other keys beside its own.
    pub fn change_peers(&mut self, now: Now, PeerChange { set, remove, forget_stamps, unknown }: &PeerChange) {
        for key in remove {
            self.listener.remove_peer(now, key);
        }
        for peer in set {
            self.listener.set_peer(now, peer);
        }
        for key in forget_stamps {
            self.listener.forget_peer_stamp(key);
        }
        if let Some(UnknownPeers { allow_unknown_peers, unknown_peer_pre_shared_key }) = unknown {
            self.listener.set_unknown_peers(now, *allow_unknown_peers, unknown_peer_pre_shared_key.as_ref());
        }
    }

    /// One batch of datagrams off the socket; how many.
    fn receive(&mut self, now: Now, own: &OwnEndpoints, buffers: &mut Buffers) -> usize {
        let listener = &mut self.listener;
        let mut asked = [true; BATCH_SIZE];
        let asked = listener.draw(now, self.socket.last_count(), &mut asked).then_some(asked);
        let count =
            self.socket.receive(now, &own.routes, buffers, &asked, |now, local, remote, arrival| match arrival {
                Arrival::Read(payload) => listener.handle_datagram(now, local, remote, payload),
                Arrival::Unread(unread) => listener.handle_unread(now, local, remote, unread),
            });
        listener.rejected(Rejected::RefusedNetwork, self.socket.take_martians());
        if asked.is_some() && self.socket.emptied() {
            self.rest.begin(now);
        }
        count
    }

    /// What arrived after the Listener had stopped: counted, not processed.
    fn discard_arrived(&mut self, now: Now, own: &OwnEndpoints, buffers: &mut Buffers) {
        let deadline = Instant::now() + Duration::from_millis(100);
        let mut late = 0;
        while Instant::now() < deadline {
            match self.socket.receive(now, &own.routes, buffers, &None, |_, _: IpAddr, _: SocketAddr, _| {}) {
                0 => break,
                count => late += count,
            }
        }
        self.listener.rejected(Rejected::Shutdown, late);
    }

    /// Sends what is queued: same-size datagrams to one remote as runs, the others many at a time. One of these fails or
    /// stops half-way without saying why; then the next datagram goes by itself, and says it.
    fn send(&mut self, now: Now, own: &OwnEndpoints) {
        let mut sent = 0;
        while sent < SEND_ROUND && !self.blocked {
            let Some(packet) = self.listener.next_outgoing(now) else { return };
            let (local, remote) = (packet.local, packet.remote);
            let run = self.listener.outgoing_run(now, self.socket.offload(remote.ip()));
            let whole = if run > 1 { self.send_run(now, own, (local, remote), run) } else { self.send_mixed(now, own) };
            sent += if whole > 0 { whole } else { self.send_one(now, own, (local, remote)) };
        }
    }

    /// How many were sent: all or none.
    fn send_run(&mut self, now: Now, own: &OwnEndpoints, (local, remote): Way, run: usize) -> usize {
        let payloads = self.listener.waiting().take(run).map(|packet| &*packet.payload);
        let sent = self.socket.send_run(&own.routes, local, remote, payloads);
        if !matches!(sent, Some(Sent::Yes)) {
            return 0;
        }
        (0..run).for_each(|_| self.listener.sent(now));
        run
    }

    /// How many were sent.
    fn send_mixed(&mut self, now: Now, own: &OwnEndpoints) -> usize {
        let count = self.listener.outgoing_mixed(now, sys::SEND_MANY);
        if count == 1 {
            return 0;
        }
        let packets = self.listener.waiting().take(count);
        let packets = packets.map(|packet| (packet.local, packet.remote, &*packet.payload));
        let sent = self.socket.send_many(&own.routes, packets);
        (0..sent).for_each(|_| self.listener.sent(now));
        sent
    }

    /// How many ended: none when the socket is full.
    fn send_one(&mut self, now: Now, own: &OwnEndpoints, (local, remote): Way) -> usize {
        let Some(packet) = self.listener.waiting().next() else { return 0 };
        match self.socket.send(&own.routes, local, remote, &packet.payload) {
            Sent::Yes => self.listener.sent(now),
            Sent::No(reason, detail) => self.listener.not_sent(now, reason, detail),
            Sent::Full => {
                self.blocked = true;
                return 0;
            }
        }
        1
    }

    /// Hands the events since the last call to whoever watches.
    fn show_events(&mut self, shared: &Shared, now: Now) {
        let mut events = self.listener.take_events();
        for (name, remote) in self.socket.take_icmp() {
            let about = About::Icmp(name);
            events.push(Event { kind: Kinds::ICMP_ERROR, at_ms: now.unix_ms, remote, bytes: None, about });
        }
        for local in self.socket.take_gone() {
            // A WireGuard peer follows, as it does everywhere.
            if self.listener.counters().wire_guard.is_none() {
                let about = About::LocalAddressGone(local);
                let kind = Kinds::LOCAL_ADDRESS_GONE;
                events.push(Event { kind, at_ms: now.unix_ms, remote: None, bytes: None, about });
            }
        }
        let looks = self.closing.is_some() || self.socket.drops_due().is_some_and(|due| due <= now.mono);
        if looks && let Some(packets) = self.socket.report_drops(now) {
            let about = About::KernelDropped(packets);
            let kind = Kinds::KERNEL_DROPPED;
            events.push(Event { kind, at_ms: now.unix_ms, remote: None, bytes: None, about });
        }
        if events.is_empty() && !self.telling {
            return;
        }
        let labels = Labels { node: shared.node, region: &shared.region, spec: self.listener.spec() };
        let mut telling = false;
        self.port.each_watch(|watch| {
            watch.offer(&labels, &events);
            telling |= watch.settle(&labels, now.unix_ms);
        });
        self.telling = telling;
    }

    /// Moves batches that are ready to where their readers find them.
    fn hand_over(&mut self, now: Now) {
        while let Some((destination, batch)) = self.listener.poll_batch() {
            if let Some(queue) = self.port.queue(destination) {
                self.listener.pushed(now, destination, queue.push(batch));
            }
        }
    }
}
