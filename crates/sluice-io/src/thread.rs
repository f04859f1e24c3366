//! The I/O thread.
//!
//! Theory. The thread owns every socket and every Listener's state, so nothing on the packet path is locked except the
//! hand-over of whole batches and documents. Others reach it by commands (open, close, counters) and by each Port's ring,
//! and wake it by one eventfd, which says for which Listeners. Each turn of the loop: wait; receive a bounded number of
//! datagrams from each readable socket; then, for each Listener that has something to do (its socket, its ring, a
//! command, or its time; see [`Schedule`]): take documents while its queue is short, let time pass, send a bounded number
//! of datagrams, and hand over what is ready. The bounds keep one busy Listener from starving another, and Listeners
//! without traffic cost nothing.

use crate::{
    BatchQueue, Port, Signals,
    command::{Command, Remembered},
    open::Open,
    routes::Routes,
    schedule::{Key, Schedule},
    signal::Waker,
    socket::{Buffers, OpenError, UdpSocket},
    stderr::say,
};
use rustix::event::epoll::{self, EventData, EventFlags};
use sluice_core::{Listener, ListenerSpec, Now, OwnEndpoints, Shared};
use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    time::Duration,
};

/// The kernel's timeouts stand still while the machine is suspended. So none is longer: what has become due by then is
/// noticed soon after.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Not a Listener's key.
const WAKE: Key = Key::MAX;
/// Not a Listener's key either: the kernel's routes have changed.
const ROUTES: Key = Key::MAX - 1;

/// The state of the I/O thread.
pub(crate) struct Thread {
    epoll: OwnedFd,
    waker: Waker,
    commands: mpsc::Receiver<Command>,
    signals: Signals,
    shared: Arc<Shared>,
    salt: fn() -> [u8; 6],
    open: HashMap<Key, Open>,
    next_key: Key,
    schedule: Schedule,
    own: OwnEndpoints,
    routes: Routes,
    buffers: Buffers,
    clock: fn() -> Now,
    /// The clock's `mono` at the start.
    origin: u64,
}

impl Thread {
    /// `waker` wakes it to look at `commands`, it tells by `signals` what is ready; `salt` yields fresh random bytes.
    /// `routes` keep `own` as the kernel has it. `clock` tells the time.
    pub fn new(
        waker: Waker,
        commands: mpsc::Receiver<Command>,
        signals: Signals,
        shared: Shared,
        salt: fn() -> [u8; 6],
        (own, routes): (OwnEndpoints, Routes),
        clock: fn() -> Now,
    ) -> io::Result<Thread> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &waker, EventData::new_u64(WAKE), EventFlags::IN)?;
        if let Some(events) = routes.events() {
            epoll::add(&epoll, events, EventData::new_u64(ROUTES), EventFlags::IN)?;
        }
        Ok(Thread {
            epoll,
            waker,
            commands,
            signals,
            shared: Arc::new(shared),
            salt,
            open: HashMap::new(),
            next_key: 0,
            schedule: Schedule::default(),
            own,
            routes,
            buffers: Buffers::new(),
            clock,
            origin: clock().mono,
        })
    }

    /// Serves until [`Command::End`].
    pub fn run(mut self) {
        let mut events = [MaybeUninit::uninit(); 64];
        loop {
            let wait = self.schedule.wait(self.now().mono).map(|wait| wait.min(LONGEST_WAIT));
            let wait = wait
                .map(|wait| rustix::event::Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ });
            let ready = match epoll::wait(&self.epoll, &mut events, wait.as_ref()) {
                Ok((ready, _)) => ready.iter().map(|event| (event.data.u64(), event.flags)).collect::<Vec<_>>(),
                Err(rustix::io::Errno::INTR) => Vec::new(),
                Err(error) => {
                    say(&format!("sluicegate: the I/O thread cannot wait for events: {error}\n"));
                    return;
                }
            };
            // An address that has just been added may be spoken to already.
            if ready.iter().any(|(key, _)| *key == ROUTES) {
                self.routes.wake();
                self.routes.refresh(&mut self.own);
            }
            for (key, flags) in ready {
                match key {
                    WAKE => self.woken(),
                    ROUTES => {}
                    _ => self.socket_event(key, flags),
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::End) {
                    return self.end();
                }
                self.command(command);
            }
            self.routes.refresh(&mut self.own);
            self.moments();
            for _ in 0..self.schedule.count() {
                self.advance();
            }
        }
    }

    /// Closes every Port at once, so that nobody waits for what will not come.
    fn end(&mut self) {
        let keys: Vec<_> = self.open.keys().copied().collect();
        for key in keys {
            let now = self.now();
            if let Some(open) = self.open.get_mut(&key) {
                open.stop(now, &self.own, &mut self.buffers);
                open.port.close_ring();
            }
            self.finish(key);
        }
    }

    fn now(&self) -> Now {
        let now = (self.clock)();
        Now { mono: now.mono.saturating_sub(self.origin), ..now }
    }

    /// Whoever was named in a wake-up is ready.
    fn woken(&mut self) {
        for key in self.waker.take() {
            self.make_ready(key);
        }
    }

    /// Whose moment has come is ready.
    fn moments(&mut self) {
        let now = self.now().mono;
        while let Some(key) = self.schedule.due(now) {
            if let Some(open) = self.open.get_mut(&key) {
                self.schedule.came(key, &mut open.place);
            }
        }
    }

    fn make_ready(&mut self, key: Key) {
        if let Some(open) = self.open.get_mut(&key) {
            self.schedule.ready(key, &mut open.place);
        }
    }

    fn socket_event(&mut self, key: Key, flags: EventFlags) {
        let now = self.now();
        let Some(open) = self.open.get_mut(&key) else { return };
        open.socket_event(now, flags, &self.own, &mut self.buffers);
        self.schedule.ready(key, &mut open.place);
    }

    /// The turn of the Listener that has been ready longest.
    fn advance(&mut self) {
        let now = self.now();
        let Some(key) = self.schedule.take() else { return };
        let Some(open) = self.open.get_mut(&key) else { return };
        Schedule::begin(&mut open.place);
        open.advance(now, &self.own, &self.shared);
        if open.is_over(now) {
            return self.finish(key);
        }
        if let Some(interest) = open.new_interest() {
            let _ = epoll::modify(&self.epoll, open.socket.as_fd(), EventData::new_u64(key), interest);
        }
        if open.is_busy() {
            self.schedule.ready(key, &mut open.place);
        }
        let moment = open.next_moment(now);
        self.schedule.at(key, &mut open.place, moment);
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        // The caller may have gone away: then nobody needs the answer.
        match command {
            Command::Open(spec, reply) => drop(reply.send(self.open(*spec))),
            Command::Stop(key, reply) => {
                if let Some((open, own, buffers)) = self.changed(key) {
                    open.stop(now, own, buffers);
                }
                let _ = reply.send(());
            }
            Command::Close(key, drain, reply) => match self.changed(key) {
                Some((open, own, buffers)) => {
                    open.stop(now, own, buffers);
                    open.close(now, drain, reply);
                }
                None => drop(reply.send(())),
            },
            Command::Counters(key, reply) => drop(reply.send(self.open.get_mut(&key).map(Open::snapshot))),
            Command::Update(key, spec, reply) => {
                let gone = format!("Listener {} is closed", spec.name);
                let updated = self.changed(key).ok_or(gone).and_then(|(open, ..)| open.update(now, *spec));
                let _ = reply.send(updated);
            }
            Command::Peers(key, after, limit, reply) => {
                let peers = self.open.get(&key).map(|open| open.peers(now, after, limit));
                let _ = reply.send(peers.unwrap_or_default());
            }
            Command::ChangePeers(key, change, reply) => {
                if let Some((open, ..)) = self.changed(key) {
                    open.change_peers(now, &change);
                }
                let _ = reply.send(());
            }
            Command::Remember(key, ids, reply) => {
                if let Some(open) = self.open.get_mut(&key) {
                    for Remembered { source, id, ago } in ids {
                        match ago {
                            Some(ago) => open.listener.remember(now, source, &id, ago.as_nanos() as u64),
                            None => open.listener.expect(source, &id),
                        }
                    }
                }
                let _ = reply.send(());
            }
            Command::End => {}
        }
    }

    /// A Listener that a command changes: it has its turn afterwards.
    fn changed(&mut self, key: Key) -> Option<(&mut Open, &OwnEndpoints, &mut Buffers)> {
        let open = self.open.get_mut(&key)?;
        self.schedule.ready(key, &mut open.place);
        Some((open, &self.own, &mut self.buffers))
    }

    fn open(&mut self, spec: ListenerSpec) -> Result<Port, OpenError> {
        let key = self.next_key;
        let bind = spec.bind;
        let failed = |source| OpenError { attempt: format!("prepare {bind}"), source };
        let socket = UdpSocket::open(spec.bind, spec.dual_stack, &spec.multicast)?;
        let queues = spec.destinations.iter().map(|d| Arc::new(BatchQueue::new(d.queue_bytes, &self.signals)));
        let (queues, waker) = (queues.collect(), self.waker.clone());
        let (sources, ring_bytes) = (spec.sources.len(), spec.ring_bytes);
        let (bound, dual_stack) = (socket.bound(), spec.dual_stack);
        let listener = Listener::new(spec, self.shared.clone(), bound, (self.salt)());
        let stamps = listener.stamps().cloned();
        let port = Port::new(key, &socket, queues, sources, ring_bytes, waker, &self.signals, stamps);
        let open = Open::new(port.clone(), socket, listener);
        epoll::add(&self.epoll, open.socket.as_fd(), EventData::new_u64(key), EventFlags::IN)
            .map_err(|errno| failed(errno.into()))?;
        self.next_key += 1;
        self.open.insert(key, open);
        self.own.listen(bound, dual_stack);
        Ok(port)
    }

    fn finish(&mut self, key: Key) {
        let now = self.now();
        let Some(mut open) = self.open.remove(&key) else { return };
        self.schedule.at(key, &mut open.place, None);
        self.own.close(open.listener.bound(), open.listener.spec().dual_stack);
        open.finish(now, &self.own, &self.shared, &mut self.buffers);
    }
}
