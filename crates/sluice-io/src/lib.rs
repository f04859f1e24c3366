//! Sockets and the I/O thread: the only place where Sluicegate meets the kernel's UDP.
//!
//! One thread serves all Listeners by epoll, run to completion: receive a batch, process, flush. Everything it shares
//! with other threads is in [`port`] and [`queue`]: bounded, locked for the length of a push or a pop, and announced by
//! [`Signals`], so that an event loop can wait for it.

mod clock;
mod command;
mod dataplane;
mod drops;
mod errno;
mod local;
mod lock;
mod martian;
mod offload;
mod open;
pub mod port;
pub mod queue;
mod rest;
mod routes;
mod rtnetlink;
mod schedule;
mod signal;
mod snapshot;
mod socket;
pub mod stderr;
mod sys;
mod thread;
mod watch;

pub use command::{PeerChange, Remembered, UnknownPeers};
pub use dataplane::{Dataplane, Gone};
pub use errno::icmp_names;
pub use port::Port;
pub use queue::BatchQueue;
pub use signal::{Signal, Signals};
pub use snapshot::Snapshot;
pub use socket::{OpenError, RECEIVE_BUFFER};
pub use watch::{FilterSpec, Watch};
