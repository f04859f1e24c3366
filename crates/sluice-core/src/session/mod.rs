//! Sessions: what makes a remote one that has spoken first. Plain UDP only remembers; WireGuard opens and seals.

pub mod plain;
pub mod wireguard;

pub use plain::PlainSessions;
pub use wireguard::WireGuard;
