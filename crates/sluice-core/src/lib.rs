//! Sluicegate's core: one Listener as a state machine over bytes and `now`.
//!
//! Nothing here owns a socket, reads a clock, starts a thread or knows Python. The I/O layer hands in datagrams,
//! messages and time; it takes out packets to send, batches for Destinations and outcomes for publishers
//! (see [`Listener`] for the calling contract). That is what lets the tests drive a pair of endpoints with simulated
//! time, loss and reordering.

mod address;
mod answers;
pub mod batch;
pub mod brex;
pub mod coap;
pub mod counters;
pub mod dedup;
pub mod document;
pub mod egress;
mod entry;
pub mod event;
pub mod format;
pub mod inner;
pub mod intake;
mod json;
mod judge;
pub mod listener;
mod lobby;
mod loop_guard;
pub mod message;
pub mod outgoing;
pub mod own;
pub mod pacing;
pub mod packet;
pub mod payload;
pub mod policy;
pub mod reason;
pub mod scheduled;
mod sender;
pub mod session;
mod shared;
pub mod spec;
pub mod special;
pub mod tag;
pub mod time;
pub mod wire;

pub use address::canonical;
pub use batch::Batch;
pub use counters::Counters;
pub use document::{Body, Completion, Failure, Origin, Submission};
pub use event::{About, Event, Kinds, PeerClock};
pub use intake::Pushed;
pub use judge::{PAYLOAD_LIMIT_V4, PAYLOAD_LIMIT_V6};
pub use listener::{Listener, Unread};
pub use outgoing::{Outgoing, RunLimit};
pub use own::OwnEndpoints;
pub use payload::Payload;
pub use reason::{Dropped, Reason, Rejected};
pub use scheduled::{Due, Scheduled};
pub use shared::Shared;
pub use spec::{DataplaneSpec, ListenerSpec};
pub use time::Now;
