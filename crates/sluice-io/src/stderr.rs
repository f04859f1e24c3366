//! Words for people on standard error, from threads that must never wait for its reader.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{io, panic};

/// Bytes that a pipe with any room takes at once (pipe(7), PIPE_BUF).
const AT_ONCE: usize = 4096;

/// Writes the beginning of `text` if standard error takes it now. Otherwise it is lost.
pub fn say(text: &str) {
    let stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let taken = poll(&mut ready, Some(&Timespec::default()));
    if taken.is_ok() && ready[0].revents().contains(PollFlags::OUT) {
        let _ = rustix::io::write(&stderr, &text.as_bytes()[..text.len().min(AT_ONCE)]);
    }
}

/// From now on a panic is told in this way too. The default holds a lock while it waits for the reader.
pub fn say_panics() {
    panic::set_hook(Box::new(|info| say(&format!("sluicegate: {info}\n"))));
}
