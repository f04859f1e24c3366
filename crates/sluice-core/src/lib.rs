//! Sluicegate's core: one Listener as a state machine over bytes and `now`.
//!
//! Nothing here owns a socket, reads a clock, starts a thread or knows Python. The I/O layer hands in datagrams,
//! messages and time; it takes out packets to send, batches for Destinations and outcomes for publishers
//! (see [`Listener`] for the calling contract). That is what lets the tests drive a pair of endpoints with simulated
//! time, loss and reordering.

pub mod batch;
pub mod counters;
pub mod dedup;
pub mod document;
pub mod egress;
pub mod event;
pub mod format;
pub mod inner;
mod judge;
pub mod listener;
mod lobby;
pub mod message;
pub mod outgoing;
pub mod pacing;
pub mod packet;
pub mod policy;
pub mod reason;
pub mod session;
pub mod spec;
pub mod tag;
pub mod time;
mod tunnel;
pub mod wire;

pub use batch::Batch;
pub use counters::Counters;
pub use document::{Body, Completion, Failure, Origin, Submission};
pub use event::{About, Event, Kinds};
pub use judge::{PAYLOAD_LIMIT_V4, PAYLOAD_LIMIT_V6};
pub use listener::{Listener, Shared};
pub use outgoing::{Outgoing, RunLimit};
pub use policy::OwnEndpoints;
pub use reason::{Dropped, Reason, Rejected};
pub use spec::{DataplaneSpec, ListenerSpec};
pub use time::Now;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The address in the form that users know: IPv4-mapped IPv6 as IPv4 (a dual-stack socket reports clients so), no flow
/// label, a zone only where it means something.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => {
                let zone = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, zone))
            }
        },
    }
}
