//! Flags that an event loop waits for by one descriptor for all, and what wakes the I/O thread.

use crate::{lock::lock, schedule::Key};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    collections::BTreeSet,
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// The flags of one data plane; clones share them. Its descriptor is readable as long as a watched flag is set. So an
/// event loop waits for any number of Listeners and Destinations by one descriptor.
///
/// It is written when no lock is held any more ([`Wake`]): on one core the event loop runs at once, and would wait for each
/// lock in turn. So the descriptor may be readable when the flag is gone again; [`ready`](Self::ready) finds none then, and
/// reads it. A flag that is set later writes it later.
#[derive(Clone, Debug)]
pub struct Signals(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    readable: Eventfd,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    made: u64,
    /// Watched and set.
    ready: BTreeSet<u64>,
}

impl Signals {
    /// Fails when the process is out of file descriptors.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals(Arc::new(Shared { readable: Eventfd::new()?, inner: Mutex::default() })))
    }

    /// A new flag, neither set nor watched.
    pub fn signal(&self) -> Signal {
        let mut inner = self.lock();
        inner.made += 1;
        Signal { key: inner.made, of: self.clone(), flags: Mutex::default() }
    }

    /// Keys of the watched flags that are set, the oldest first. To be asked when the descriptor is readable.
    pub fn ready(&self) -> Vec<u64> {
        let inner = self.lock();
        if inner.ready.is_empty() {
            self.0.readable.clear();
        }
        inner.ready.iter().copied().collect()
    }

    /// True as long as this flag is watched and set.
    pub fn is_ready(&self, key: u64) -> bool {
        self.lock().ready.contains(&key)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0.inner)
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.readable.0.as_raw_fd()
    }
}

/// Makes the descriptor readable, if need be, when it is dropped: after every lock that the event loop will want.
#[derive(Debug)]
pub struct Wake<'a>(Option<&'a Eventfd>);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        if let Some(readable) = self.0 {
            readable.set();
        }
    }
}

/// A flag of [`Signals`]: from [`set`](Self::set) until [`clear`](Self::clear).
#[derive(Debug)]
pub struct Signal {
    key: u64,
    of: Signals,
    flags: Mutex<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    set: bool,
    watched: bool,
}

impl Signal {
    /// Its name among all [`Signals`]; no other has it, not even later.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Sets the flag.
    pub fn set(&self) -> Wake<'_> {
        self.change(|flags| flags.set = true)
    }

    /// Clears the flag.
    pub fn clear(&self) {
        self.change(|flags| flags.set = false);
    }

    /// True between [`set`](Self::set) and [`clear`](Self::clear).
    pub fn is_set(&self) -> bool {
        lock(&self.flags).set
    }

    /// Whether it makes the descriptor readable.
    pub fn watch(&self, watched: bool) {
        self.change(|flags| flags.watched = watched);
    }

    fn change(&self, change: impl FnOnce(&mut Flags)) -> Wake<'_> {
        let mut flags = lock(&self.flags);
        let before = flags.set && flags.watched;
        change(&mut flags);
        let after = flags.set && flags.watched;
        if before == after {
            return Wake(None);
        }
        // The descriptor is read under the lock, and only while no flag is set: a late read would take a later write.
        let mut inner = self.of.lock();
        if after {
            inner.ready.insert(self.key);
            return Wake((inner.ready.len() == 1).then_some(&self.of.0.readable));
        }
        if inner.ready.remove(&self.key) && inner.ready.is_empty() {
            self.of.0.readable.clear();
        }
        Wake(None)
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.watch(false);
    }
}

/// Readable from [`set`](Self::set) until [`clear`](Self::clear).
#[derive(Debug)]
struct Eventfd(OwnedFd);

impl Eventfd {
    fn new() -> io::Result<Eventfd> {
        Ok(Eventfd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn set(&self) {
        // The only error is a counter at its limit, which is readable too.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// Wakes the thread, and says for which Listeners; at most one wake-up is under way.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Wakeup>);

struct Wakeup {
    signal: Eventfd,
    under_way: AtomicBool,
    keys: Mutex<Vec<Key>>,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        let wakeup = Wakeup { signal: Eventfd::new()?, under_way: AtomicBool::new(false), keys: Mutex::default() };
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
        self.0.signal.0.as_fd()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(signals: &Signals) -> bool {
        let fd = signals.0.readable.0.as_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn the_descriptor_is_readable_while_a_watched_flag_is_set() {
        let signals = Signals::new().unwrap();
        let (one, two) = (signals.signal(), signals.signal());
        one.set();
        assert!(!readable(&signals), "nobody watches it");
        one.watch(true);
        two.watch(true);
        two.set();
        two.set();
        assert_eq!(signals.ready(), [one.key(), two.key()]);
        one.clear();
        assert!(readable(&signals) && !signals.is_ready(one.key()));
        two.watch(false);
        assert!(!readable(&signals) && two.is_set());
        two.watch(true);
        assert!(readable(&signals));
        drop(two);
        assert!(!readable(&signals) && signals.ready().is_empty());
    }

    #[test]
    fn a_wake_that_comes_late_is_read_and_takes_no_later_one_with_it() {
        let signals = Signals::new().unwrap();
        let one = signals.signal();
        one.watch(true);
        let late = one.set();
        assert!(!readable(&signals) && signals.ready() == [one.key()]);
        one.clear();
        drop(late);
        assert!(readable(&signals) && signals.ready().is_empty() && !readable(&signals));
        let late = one.set();
        one.clear();
        drop(one.set());
        assert!(readable(&signals) && signals.ready() == [one.key()]);
        drop(late);
        one.clear();
        assert!(!readable(&signals));
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        let signals = Signals::new().unwrap();
        let flags = [signals.signal(), signals.signal()];
        flags.iter().for_each(|flag| flag.watch(true));
        let rounds = 20_000;
        std::thread::scope(|scope| {
            for flag in &flags {
                scope.spawn(move || {
                    for _ in 0..rounds {
                        drop(flag.set());
                        while flag.is_set() {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let (fd, mut seen) = (signals.0.readable.0.as_fd(), 0);
            while seen < 2 * rounds {
                let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
                assert!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() > 0, "a wake is lost");
                for key in signals.ready() {
                    flags.iter().filter(|flag| flag.key() == key).for_each(Signal::clear);
                    seen += 1;
                }
            }
        });
    }
}
