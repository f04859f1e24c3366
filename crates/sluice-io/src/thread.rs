//! The I/O thread.
//!
//! Theory. The thread owns every socket and every Listener's state, so nothing on the packet path is locked except the
//! hand-over of whole batches and documents. Others reach it by commands (open, close, counters) and by each Port's ring,
//! and wake it by one eventfd. Each turn of the loop: wait; receive a bounded number of datagrams from each readable
//! socket; take documents while a Listener's queue is short; let time pass; send a bounded number of datagrams; hand over
//! what is ready. The bounds keep one busy Listener from starving another.

use crate::{
    BatchQueue, Port,
    command::{Command, Remembered, Snapshot},
    open::Open,
    signal::Waker,
    socket::{Buffers, OpenError, UdpSocket},
    sys,
    watch::Labels,
};
use rustix::event::epoll::{self, EventData, EventFlags};
use sluice_core::{Listener, ListenerSpec, Now, OwnEndpoints, Reason, Shared};
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Most batches that are received from one socket in one turn.
const RECEIVE_ROUNDS: usize = 4;
/// Documents are parsed while fewer datagrams than this wait. So few are still in the processor's cache when the kernel
/// copies them, and they are enough for large calls when each document has one entry.
const QUEUE_LOW: usize = 128;
/// How often own endpoints are looked up, because addresses come and go (DHCP, VPNs).
const ADDRESS_INTERVAL: Duration = Duration::from_secs(10);
const WAKE: u64 = u64::MAX;

/// One Listener. Its place in the list is its key for good: a closed one keeps its place and its last counters.
struct Slot {
    port: Port,
    state: State,
    dropped_by_kernel: u64,
    last: Option<Snapshot>,
}

enum State {
    Open(Box<Open>),
    Closed,
}

/// The state of the I/O thread.
pub(crate) struct Thread {
    epoll: OwnedFd,
    waker: Waker,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    salt: fn() -> [u8; 6],
    slots: Vec<Slot>,
    own: OwnEndpoints,
    own_at: Option<Instant>,
    buffers: Buffers,
    origin: Instant,
}

impl Thread {
    /// `waker` wakes it to look at `commands`; `salt` yields fresh random bytes.
    pub fn new(
        waker: Waker,
        commands: mpsc::Receiver<Command>,
        shared: Shared,
        salt: fn() -> [u8; 6],
    ) -> io::Result<Thread> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &waker, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Thread {
            epoll,
            waker,
            commands,
            shared: Arc::new(shared),
            salt,
            slots: Vec::new(),
            own: OwnEndpoints::default(),
            own_at: None,
            buffers: Buffers::new(),
            origin: Instant::now(),
        })
    }

    /// Serves until [`Command::End`].
    pub fn run(mut self) {
        let mut events = [MaybeUninit::uninit(); 64];
        loop {
            let timeout = self.timeout();
            let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((ready, _)) => ready.iter().map(|event| (event.data.u64(), event.flags)).collect::<Vec<_>>(),
                Err(rustix::io::Errno::INTR) => Vec::new(),
                Err(error) => {
                    eprintln!("sluicegate: the I/O thread cannot wait for events: {error}");
                    return;
                }
            };
            for (key, flags) in ready {
                if key == WAKE {
                    self.waker.rearm();
                } else {
                    self.socket_event(key as usize, flags);
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::End) {
                    return self.end();
                }
                self.command(command);
            }
            self.refresh_own();
            for key in 0..self.slots.len() {
                self.advance(key);
            }
        }
    }

    /// Closes every Port at once, so that nobody waits for what will not come.
    fn end(&mut self) {
        for key in 0..self.slots.len() {
            self.stop(key);
            self.slots[key].port.close_ring();
            self.finish(key);
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.origin.elapsed().as_nanos() as u64, unix_ms: unix.as_millis() as u64 }
    }

    /// How long the thread may wait: until the next moment at which a Listener has something to do.
    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let mut until: Option<Duration> = None;
        let mut at_most = |wait: Duration| until = Some(until.map_or(wait, |before| before.min(wait)));
        let now = self.now();
        for slot in &self.slots {
            let State::Open(open) = &slot.state else { continue };
            if !open.blocked && (open.listener.queued() > 0 || open.behind) {
                at_most(Duration::ZERO);
            }
            if let Some(at) = open.listener.poll_timeout() {
                at_most(Duration::from_nanos(at.saturating_sub(now.mono)));
            }
            if open.telling {
                at_most(Duration::from_millis(1_000 - now.unix_ms % 1_000));
            }
            if let Some((deadline, _)) = &open.closing {
                at_most(deadline.saturating_duration_since(Instant::now()));
            }
        }
        until.map(|wait| rustix::event::Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ })
    }

    fn socket_event(&mut self, key: usize, flags: EventFlags) {
        let now = self.now();
        let Slot { port, state, .. } = &mut self.slots[key];
        let State::Open(open) = state else { return };
        // Whoever began to watch before the datagram was received sees it.
        open.listener.watch(port.watched());
        if flags.contains(EventFlags::ERR) && open.socket.drain_errors() == 0 {
            open.socket.clear_error();
        }
        if flags.contains(EventFlags::OUT) {
            open.blocked = false;
            Self::watch(&self.epoll, key, open);
        }
        if flags.contains(EventFlags::IN) && open.receiving {
            for _ in 0..RECEIVE_ROUNDS {
                if open.receive(now, &mut self.buffers) == 0 {
                    break;
                }
            }
        }
    }

    /// Everything that does not wait for a socket: documents, time, sending, handing over, ending.
    fn advance(&mut self, key: usize) {
        let now = self.now();
        let Slot { port, state, .. } = &mut self.slots[key];
        let State::Open(open) = state else { return };
        open.listener.watch(port.watched());
        open.listener.handle_timeout(now);
        open.hand_over(port);
        open.behind = loop {
            if open.listener.queued() >= QUEUE_LOW {
                break true;
            }
            let Some(document) = port.take() else { break false };
            open.listener.submit(now, &self.own, document);
        };
        let was_blocked = open.blocked;
        open.send(now);
        if open.blocked != was_blocked {
            Self::watch(&self.epoll, key, open);
        }
        let ended = std::iter::from_fn(|| open.listener.poll_completion()).collect::<Vec<_>>();
        port.complete(ended);
        port.peers_changed(open.listener.take_peer_changes());
        open.show_events(port, &self.shared, now);
        if let Some((deadline, _)) = &open.closing {
            let drained = open.listener.queued() == 0 && port.ring_load().1 == 0;
            if drained || Instant::now() >= *deadline {
                self.finish(key);
            }
        }
    }

    fn command(&mut self, command: Command) {
        // The caller may have gone away: then nobody needs the answer.
        match command {
            Command::Open(spec, reply) => drop(reply.send(self.open(*spec))),
            Command::Stop(key, reply) => {
                self.stop(key);
                let _ = reply.send(());
            }
            Command::Close(key, drain, reply) => {
                self.stop(key);
                self.slots[key].port.close_ring();
                match &mut self.slots[key].state {
                    State::Open(open) => open.closing = Some((Instant::now() + drain, reply)),
                    State::Closed => drop(reply.send(())),
                }
            }
            Command::Counters(key, reply) => drop(reply.send(self.snapshot(key))),
            Command::Update(key, spec, reply) => drop(reply.send(self.update(key, *spec))),
            Command::Peers(key, after, limit, reply) => {
                let now = self.now();
                let State::Open(open) = &self.slots[key].state else { return drop(reply.send(Vec::new())) };
                let _ = reply.send(open.peers(now, after, limit));
            }
            Command::ChangePeers(key, change, reply) => {
                let now = self.now();
                if let State::Open(open) = &mut self.slots[key].state {
                    open.change_peers(now, &change);
                }
                let _ = reply.send(());
            }
            Command::Remember(key, ids, reply) => {
                let now = self.now();
                if let State::Open(open) = &mut self.slots[key].state {
                    for Remembered { source, id, ago } in ids {
                        open.listener.remember(now, source, &id, ago.as_nanos() as u64);
                    }
                }
                let _ = reply.send(());
            }
            Command::End => {}
        }
    }

    fn open(&mut self, spec: ListenerSpec) -> Result<Port, OpenError> {
        let key = self.slots.len();
        let failed = |source| OpenError { attempt: format!("prepare {}", spec.bind), source };
        let socket = UdpSocket::open(spec.bind, spec.dual_stack)?;
        let queues = spec.destinations.iter().map(|d| BatchQueue::new(d.queue_bytes).map(Arc::new));
        let queues = queues.collect::<io::Result<_>>().map_err(failed)?;
        let waker = self.waker.clone();
        let port =
            Port::new(key, socket.bound(), queues, spec.sources.len(), spec.ring_bytes, waker).map_err(failed)?;
        epoll::add(&self.epoll, socket.as_fd(), EventData::new_u64(key as u64), EventFlags::IN)
            .map_err(|errno| failed(errno.into()))?;
        let listener = Listener::new(spec, self.shared.clone(), socket.bound(), (self.salt)());
        let open =
            Open { socket, listener, receiving: true, blocked: false, behind: false, closing: None, telling: false };
        self.slots.push(Slot {
            port: port.clone(),
            state: State::Open(Box::new(open)),
            dropped_by_kernel: 0,
            last: None,
        });
        self.own_at = None;
        Ok(port)
    }

    fn update(&mut self, key: usize, spec: ListenerSpec) -> Result<(), String> {
        let now = self.now();
        let Slot { port, state, .. } = &mut self.slots[key];
        let State::Open(open) = state else { return Err(format!("Listener {} is closed", spec.name)) };
        if !open.receiving {
            return Err(format!("Listener {} is stopping", spec.name));
        }
        let before = open.listener.spec().destinations.iter().map(Some).chain(std::iter::repeat(None));
        let kept = port.all_queues().clone();
        let mut queues = Vec::with_capacity(spec.destinations.len());
        for (index, (after, before)) in spec.destinations.iter().zip(before).enumerate() {
            queues.push(match before {
                Some(before) if before.stays(after) => kept[index].clone(),
                _ => Arc::new(BatchQueue::new(after.queue_bytes).map_err(|error| format!("no more queues: {error}"))?),
            });
        }
        let removed: Vec<_> = spec.destinations.iter().map(|destination| destination.removed).collect();
        let sources = spec.sources.len();
        open.listener.update(now, spec)?;
        open.hand_over(port);
        port.update(queues, sources);
        let ended = port
            .all_queues()
            .iter()
            .zip(removed)
            .filter(|(_, removed)| *removed)
            .map(|(q, _)| q.clone())
            .collect::<Vec<_>>();
        ended.iter().for_each(|queue| queue.close());
        Ok(())
    }

    fn stop(&mut self, key: usize) {
        let now = self.now();
        let Slot { port, state, .. } = &mut self.slots[key];
        let State::Open(open) = state else { return };
        if !std::mem::replace(&mut open.receiving, false) {
            return;
        }
        // Datagrams that came before the stop have arrived. A flood that goes on is not waited for.
        let deadline = Instant::now() + Duration::from_millis(500);
        while open.receive(now, &mut self.buffers) > 0 && Instant::now() < deadline {
            open.hand_over(port);
        }
        open.listener.flush(now);
        open.hand_over(port);
        port.all_queues().iter().for_each(|queue| queue.close());
        Self::watch(&self.epoll, key, open);
    }

    fn finish(&mut self, key: usize) {
        let now = self.now();
        let Slot { port, state, .. } = &mut self.slots[key];
        let State::Open(open) = state else { return };
        let unsent = || (Reason::SendFailed, "the gateway closed the Listener before it could be sent".to_owned());
        while let Some(mut document) = port.take() {
            document.refusal = Some(unsent());
            open.listener.submit(now, &self.own, document);
        }
        open.listener.release_all(now);
        while open.listener.next_outgoing(now).is_some() {
            let (reason, detail) = unsent();
            open.listener.not_sent(now, reason, detail);
        }
        let ended = std::iter::from_fn(|| open.listener.poll_completion()).collect::<Vec<_>>();
        port.complete(ended);
        port.peers_changed(open.listener.take_peer_changes());
        open.discard_arrived(now, &mut self.buffers);
        open.show_events(port, &self.shared, now);
        let labels = Labels { node: self.shared.node, region: &self.shared.region, spec: open.listener.spec() };
        port.each_watch(|watch| {
            watch.settle(&labels, u64::MAX); // its last second counts as over
            watch.close();
        });
        let reply = open.closing.take();
        let last = self.snapshot(key);
        let slot = &mut self.slots[key];
        slot.last = Some(last);
        slot.state = State::Closed; // closes the socket, and with it epoll's interest
        self.own_at = None;
        if let Some((_, reply)) = reply {
            let _ = reply.send(());
        }
    }

    fn snapshot(&mut self, key: usize) -> Snapshot {
        let slot = &mut self.slots[key];
        match (&slot.state, &slot.last) {
            (State::Closed, Some(last)) => last.clone(),
            (State::Closed, None) => unreachable!("a closed slot keeps its last counters"),
            (State::Open(open), _) => {
                // The kernel counts in 32 bits.
                let drops = open.socket.kernel_drops();
                let seen = slot.dropped_by_kernel;
                slot.dropped_by_kernel = seen + u64::from((drops as u32).wrapping_sub(seen as u32));
                Snapshot {
                    counters: open.listener.counters().clone(),
                    kernel_drops: slot.dropped_by_kernel,
                    icmp_errors: open.socket.icmp_errors().clone(),
                }
            }
        }
    }

    fn refresh_own(&mut self) {
        if self.own_at.is_some_and(|at| at.elapsed() < ADDRESS_INTERVAL) {
            return;
        }
        let ports = self.slots.iter().filter(|slot| matches!(slot.state, State::Open(_)));
        self.own = OwnEndpoints {
            ports: ports.map(|slot| slot.port.bound().port()).collect(),
            addresses: sys::interface_addresses(),
        };
        self.own_at = Some(Instant::now());
    }

    fn watch(epoll: &OwnedFd, key: usize, open: &Open) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, open.receiving);
        flags.set(EventFlags::OUT, open.blocked);
        let _ = epoll::modify(epoll, open.socket.as_fd(), EventData::new_u64(key as u64), flags);
    }
}
