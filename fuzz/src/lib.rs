//! What must hold whatever anybody sends: one module per fuzz target, each with a `check` that panics when it does not
//! hold. `targets/` feeds them from libFuzzer, `tests/seeds.rs` from the files in `seeds/`.

pub mod brex;
pub mod coap;
pub mod datagram;
pub mod handshake;
pub mod inner;
pub mod message;
mod oracle;
pub mod replies;
pub mod tag;
pub mod time;
pub mod tunnel;
mod world;
