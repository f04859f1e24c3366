//! The handle of the I/O thread: what others may ask of it, each request a command that it answers.

use crate::{
    Port, Signals, Snapshot, clock,
    command::{Command, PeerChange, Remembered},
    lock::lock,
    routes::Routes,
    signal::Waker,
    socket::OpenError,
    sys,
    thread::Thread,
};
use sluice_core::{
    ListenerSpec, Now, OwnEndpoints, Shared,
    scheduled::Waiting,
    session::wireguard::{PeerStatus, PublicKey},
};
use std::{
    fmt, io,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

/// The thread has ended: closed, or it failed (which is a bug; the reason is on standard error).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data plane has ended")
    }
}

/// Handle of the I/O thread. Dropping it closes everything at once.
pub struct Dataplane {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    signals: Signals,
    thread: Mutex<Option<JoinHandle<()>>>,
    routes_error: Option<io::Error>,
    waiting: Arc<Waiting>,
}

impl Dataplane {
    /// Starts the thread. `salt` yields fresh random bytes.
    pub fn start(shared: Shared, salt: fn() -> [u8; 6]) -> io::Result<Dataplane> {
        Dataplane::start_by(shared, salt, clock::now)
    }

    /// [`start`](Self::start) by another clock than the machine's, for tests. Nobody is told when it jumps: that is noticed
    /// within a second.
    pub fn start_by(shared: Shared, salt: fn() -> [u8; 6], clock: fn() -> Now) -> io::Result<Dataplane> {
        sys::keep_freed_memory();
        let waiting = shared.waiting.clone();
        let waker = Waker::new()?;
        let (commands, inbox) = mpsc::channel();
        let signals = Signals::new()?;
        let mut own = OwnEndpoints::default();
        let (routes, routes_error) = Routes::open(&mut own);
        let turn = Thread::new(waker.clone(), inbox, signals.clone(), shared, salt, (own, routes), clock)?;
        let thread = std::thread::Builder::new().name("sluice-io".to_owned()).spawn(move || turn.run())?;
        Ok(Dataplane { commands, waker, signals, thread: Mutex::new(Some(thread)), routes_error, waiting })
    }

    /// How many entries of all Listeners wait for their `SendAt`.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Why the kernel does not tell changes of its routes. Then addresses of this machine are looked up every 10 seconds.
    pub fn routes_error(&self) -> Option<&io::Error> {
        self.routes_error.as_ref()
    }

    /// What an event loop waits for: the queues, completions and watches of all Listeners.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Binds a Listener and serves it.
    pub fn open(&self, spec: ListenerSpec) -> Result<Result<Port, OpenError>, Gone> {
        self.ask(|reply| Command::Open(Box::new(spec), reply))
    }

    /// Takes what has arrived, closes the open batches, and receives no more; sending goes on. The Port's readers end
    /// once they are empty.
    pub fn stop(&self, port: &Port) -> Result<(), Gone> {
        self.ask(|reply| Command::Stop(port.0.key, reply))
    }

    /// [`stop`](Self::stop), then sends what is queued for at most `drain`; the rest fails. Closes the socket.
    pub fn close(&self, port: &Port, drain: Duration) -> Result<(), Gone> {
        self.ask(|reply| Command::Close(port.0.key, drain, reply))
    }

    /// What a Listener has counted; after its end, what it had counted by then.
    pub fn counters(&self, port: &Port) -> Result<Snapshot, Gone> {
        let present = self.ask(|reply| Command::Counters(port.0.key, reply))?;
        present.or_else(|| port.last().cloned()).ok_or(Gone)
    }

    /// Tells a Listener what was sent before this start, oldest first, so that it is not sent again.
    pub fn remember(&self, port: &Port, ids: Vec<Remembered>) -> Result<(), Gone> {
        self.ask(|reply| Command::Remember(port.0.key, ids, reply))
    }

    /// Changes a Listener without closing its socket ([`Listener::update`]). Removed Destinations' queues end once they
    /// are empty. An error says what does not fit; nothing has changed then.
    pub fn update(&self, port: &Port, spec: ListenerSpec) -> Result<Result<(), String>, Gone> {
        self.ask(|reply| Command::Update(port.0.key, Box::new(spec), reply))
    }

    /// The peers of a `wg` Listener that are listed or there, in the order of their keys: at most `limit` that follow
    /// `after`.
    pub fn peers(&self, port: &Port, after: Option<PublicKey>, limit: usize) -> Result<Vec<PeerStatus>, Gone> {
        self.ask(|reply| Command::Peers(port.0.key, after, limit, reply))
    }

    /// Changes the peers of a `wg` Listener; sessions of those that stay go on, those of removed ones end at once.
    pub fn change_peers(&self, port: &Port, change: PeerChange) -> Result<(), Gone> {
        self.ask(|reply| Command::ChangePeers(port.0.key, change, reply))
    }

    /// Ends the thread; sockets close at once.
    pub fn end(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = self.commands.send(Command::End);
            self.waker.wake();
            let _ = thread.join();
        }
    }

    fn ask<T>(&self, command: impl FnOnce(mpsc::SyncSender<T>) -> Command) -> Result<T, Gone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.commands.send(command(reply)).map_err(|_| Gone)?;
        self.waker.wake();
        answer.recv().map_err(|_| Gone)
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.end();
    }
}
