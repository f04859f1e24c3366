//! The handle of the I/O thread: what others may ask of it, each request a command that it answers.

use crate::{Port, Signal, socket::OpenError, sys, thread::Thread};
use serde::Deserialize;
use sluice_core::{
    ListenerSpec, listener,
    session::wireguard::{PeerStatus, PublicKey, Secret},
    spec::PeerSpec,
};
use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
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

/// What the thread is asked for, and where it answers.
pub(crate) enum Command {
    Open(Box<ListenerSpec>, mpsc::SyncSender<Result<Port, OpenError>>),
    Stop(usize, mpsc::SyncSender<()>),
    Close(usize, Duration, mpsc::SyncSender<()>),
    Counters(usize, mpsc::SyncSender<Snapshot>),
    Remember(usize, Vec<Remembered>, mpsc::SyncSender<()>),
    Update(usize, Box<ListenerSpec>, mpsc::SyncSender<Result<(), String>>),
    Peers(usize, Option<PublicKey>, usize, mpsc::SyncSender<Vec<PeerStatus>>),
    ChangePeers(usize, PeerChange, mpsc::SyncSender<()>),
    End,
}

/// An `Id` that a PacketSource sent before this start.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Index of the PacketSource.
    pub source: usize,
    /// The Id.
    pub id: String,
    /// How long ago.
    pub ago: Duration,
}

/// What changes about a `wg` Listener's peers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
pub struct PeerChange {
    /// Peers that are new or changed.
    pub set: Vec<PeerSpec>,
    /// Peers that are listed no longer.
    pub remove: Vec<PublicKey>,
    /// How unknown peers are met from now on, if otherwise than before.
    pub unknown: Option<UnknownPeers>,
}

/// How unknown peers are met.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct UnknownPeers {
    /// They may speak to the Listener,
    pub allow_unknown_peers: bool,
    /// if they know this.
    pub unknown_peer_pre_shared_key: Option<Secret>,
}

/// One Listener's counters at a moment, with what only the I/O layer knows.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub counters: sluice_core::Counters,
    pub kernel_drops: u64,
    pub icmp_errors: BTreeMap<&'static str, u64>,
}

/// Wakes the thread; at most one wake-up is under way.
#[derive(Clone)]
pub(crate) struct Waker(Arc<(Signal, AtomicBool)>);

impl Waker {
    pub fn wake(&self) {
        if !self.0.1.swap(true, Ordering::AcqRel) {
            self.0.0.set();
        }
    }

    /// Before looking at what there is to do: whatever comes after this wakes again.
    pub fn rearm(&self) {
        self.0.0.clear();
        self.0.1.store(false, Ordering::Release);
    }
}

impl AsFd for Waker {
    /// Readable when somebody has woken the thread.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// Handle of the I/O thread. Dropping it closes everything at once.
pub struct Dataplane {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Dataplane {
    /// Starts the thread. `salt` yields fresh random bytes.
    pub fn start(shared: listener::Shared, salt: fn() -> [u8; 6]) -> io::Result<Dataplane> {
        sys::keep_freed_memory();
        let waker = Waker(Arc::new((Signal::new()?, AtomicBool::new(false))));
        let (commands, inbox) = mpsc::channel();
        let turn = Thread::new(waker.clone(), inbox, shared, salt)?;
        let thread = std::thread::Builder::new().name("sluice-io".to_owned()).spawn(move || turn.run())?;
        Ok(Dataplane { commands, waker, thread: Mutex::new(Some(thread)) })
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
        self.ask(|reply| Command::Counters(port.0.key, reply))
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
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
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
