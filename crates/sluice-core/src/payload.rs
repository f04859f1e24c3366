//! What a datagram carries: bytes of its own, or those that the other remotes of its entry get too.

use std::{ops::Deref, sync::Arc};

/// The payload of one datagram.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nobody else has it.
    Own(Vec<u8>),
    /// Each of an entry's `Remotes` has the same.
    Shared(Arc<[u8]>),
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload::Own(bytes)
    }
}

impl Deref for Payload {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Payload::Own(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }
}
