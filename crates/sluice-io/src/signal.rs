//! A flag that an event loop can wait for, and what wakes the I/O thread with it.

use crate::{lock::lock, schedule::Key};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// An eventfd: readable from [`set`](Self::set) until [`clear`](Self::clear).
#[derive(Debug)]
pub struct Signal(OwnedFd);

impl Signal {
    /// Not set. Fails when the process is out of file descriptors.
    pub fn new() -> io::Result<Signal> {
        Ok(Signal(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn set(&self) {
        // The only error is a counter at its limit, which is readable too.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signal {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Wakes the thread, and says for which Listeners; at most one wake-up is under way.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Wakeup>);

struct Wakeup {
    signal: Signal,
    under_way: AtomicBool,
    keys: Mutex<Vec<Key>>,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        let wakeup = Wakeup { signal: Signal::new()?, under_way: AtomicBool::new(false), keys: Mutex::default() };
        Ok(Waker(Arc::new(wakeup)))
    }

    /// The thread is to look at its commands.
    pub fn wake(&self) {
        if !self.0.under_way.swap(true, Ordering::AcqRel) {
            self.0.signal.set();
        }
    }

    /// The thread is to look at this Listener. The caller sees to it that each is named seldom: the list has no bound.
    pub fn wake_for(&self, key: Key) {
        lock(&self.0.keys).push(key);
        self.wake();
    }

    /// Before looking at what there is to do: whatever comes after this wakes again. Who was named since the last call.
    pub fn take(&self) -> Vec<Key> {
        self.0.signal.clear();
        self.0.under_way.swap(false, Ordering::AcqRel); // reads what came before, so no store
        std::mem::take(&mut *lock(&self.0.keys))
    }
}

impl AsFd for Waker {
    /// Readable when somebody has woken the thread.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.signal.as_fd()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}
