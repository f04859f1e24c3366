//! Sessions: what makes a remote one that has spoken first. Plain UDP only remembers; encrypted protocols will open and
//! seal here.

pub mod plain;

pub use plain::PlainSessions;
